"""A stage for each test, and no way out of it."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import gateway as gateways
from bridgeserver.fakeprovider import FakeProvider
from stage import PROGRAMS, MakeStage, Stage, has_only_loopback


@pytest.fixture(scope="session")
def shut_proxy() -> Iterator[str]:
    """The address of a proxy that refuses everything; empty where there is only loopback anyway."""
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        yield "" if has_only_loopback() else f"http://127.0.0.1:{nobody_listens.getsockname()[1]}"


@pytest.fixture
def make_stage(fake: FakeProvider, tmp_path: Path, shut_proxy: str) -> Iterator[MakeStage]:
    """Makes the stage, once it is known that the client is there."""
    folder = tmp_path / "gateway"
    folder.mkdir()
    gateways.write_config(folder, fake.url, server='access_log = true\nlog_format = "json"')
    with gateways.running(folder) as gateway:

        def make(program: str) -> Stage:
            if not (PROGRAMS / program).exists():
                pytest.skip(f"{program} is not installed; `make clients` does that")
            return Stage(gateway, fake, tmp_path, shut_proxy)

        yield make
