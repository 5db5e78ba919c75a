"""Logging: structlog over the standard library, one line an event, for people or for machines."""

import atexit
import logging
import sys
from contextvars import ContextVar
from functools import partial
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor

from bridgeserver.backlog import Backlog, write_all

RECORDS = "bridgecore.records"
"""The logger of records, which is not silenced with the others."""

_REQUEST: ContextVar[dict[str, str] | None] = ContextVar("request", default=None)


def identify_request(fields: dict[str, str]) -> None:
    """Put *fields* into all lines that this task, and those that it begins, log from now on.

    They may change; whoever has given them empties them when the request is over.
    """
    _REQUEST.set(fields)


def backlog() -> Backlog:
    """Return what writes to standard error without anybody waiting for it, and gives away what waits at exit."""
    handler = Backlog(partial(write_all, sys.stderr.fileno()))
    atexit.register(handler.close)
    return handler


def configure_logs(
    form: Literal["auto", "json", "console"], level: str, handler: logging.Handler | None = None
) -> None:
    """Send the events of `bridgecore` and the warnings of its server to standard error, or to *handler*.

    `auto` writes for people on a terminal, and JSON otherwise.
    """
    is_console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        with_request,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers: list[Processor] = (
        [
            printable,
            # Where the package `rich` is installed the default would print local variables, and secrets with them.
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
        if is_console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = handler or logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        ),
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("bridgecore").setLevel(level.upper())
    logging.getLogger(RECORDS).setLevel(logging.INFO)


def with_request(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Add to an event what `identify_request` was given: a processor of structlog."""
    fields = _REQUEST.get()
    if fields:
        for name, value in fields.items():
            event.setdefault(name, value)
    return event


def printable(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Escape what would move the cursor of a terminal, or be taken for a command: clients name models as they like."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = "".join(map(_escaped, value))
    return event


def _escaped(character: str) -> str:
    if character.isprintable() or character in "\n\r\t":  # the renderer quotes a text with these
        return character
    return character.encode("unicode_escape").decode()
