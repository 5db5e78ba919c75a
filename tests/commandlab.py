"""Commands in the test's own process: starting another one takes most of a second, and shows nothing more."""

import io
import logging
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import structlog

import gateway as gateways
from bridgeserver import cli, logs
from bridgeserver import store as stores
from bridgeserver.store import Store


def bridgecore(folder: Path, *arguments: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
    """Run one command in *folder* with *typed* as its standard input; what it leaves in a process is undone."""
    stdin, stdout, stderr = io.StringIO(typed), io.StringIO(), io.StringIO()
    with (
        chdir(folder),
        patch.dict("os.environ", gateways.clean_environment(), clear=True),
        patch.object(sys, "stdin", stdin),
        patch.object(signal, "signal"),  # how the process takes a broken pipe is the test's business
        redirect_stdout(stdout),
        redirect_stderr(stderr),
        _logs_restored(),
        _stores_closed(),
    ):
        code = _exit_code(arguments)
    return subprocess.CompletedProcess(arguments, code, stdout.getvalue(), stderr.getvalue())


def succeed(folder: Path, *arguments: str, typed: str = "") -> str:
    """Run a command and return what it printed."""
    done = bridgecore(folder, *arguments, typed=typed)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _exit_code(arguments: tuple[str, ...]) -> int:
    try:
        return cli.run(arguments)
    except SystemExit as wrong_usage:
        return int(wrong_usage.code or 0)


@contextmanager
def _logs_restored() -> Generator[None]:
    """Let the command configure its logs, but no logger keep that."""
    configured, before = structlog.is_configured(), structlog.get_config()
    levels = {name: logging.getLogger(name).level for name in (None, "bridgecore", logs.RECORDS)}
    root, handlers = logging.getLogger(), logging.getLogger().handlers
    configure = logs.configure_logs

    def configure_uncached(*arguments: Any) -> None:
        configure(*arguments)
        structlog.configure(cache_logger_on_first_use=False)

    try:
        with patch.object(logs, "configure_logs", configure_uncached):
            yield
    finally:
        root.handlers = handlers
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        structlog.reset_defaults()
        if configured:
            structlog.configure(**before)


@contextmanager
def _stores_closed() -> Generator[None]:
    """Close the stores that a command leaves to the end of its process."""
    open_store = stores.open_store
    with ExitStack() as opened:

        def open_noted(*arguments: Any, **options: Any) -> Store:
            store = open_store(*arguments, **options)
            opened.callback(store.close)
            return store

        with patch.object(stores, "open_store", open_noted):
            yield
