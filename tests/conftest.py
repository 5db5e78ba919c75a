"""What many tests share: one fake provider and one gateway for all that does not stop them."""

from collections.abc import Iterator

import pytest

import gateway as gateways
from bridgeserver import fakeprovider
from bridgeserver.fakeprovider import FakeProvider
from gateway import Gateway


@pytest.fixture(scope="session")
def shared_fake() -> Iterator[FakeProvider]:
    """The fake provider behind the shared gateway."""
    with fakeprovider.running() as fake:
        yield fake


@pytest.fixture
def fake(shared_fake: FakeProvider) -> FakeProvider:
    """The fake provider behind the shared gateway, with nothing left of earlier tests."""
    shared_fake.reset()
    return shared_fake


@pytest.fixture(scope="session")
def shared_gateway(shared_fake: FakeProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway that tests share."""
    folder = tmp_path_factory.mktemp("gateway")
    limits = "max_body_bytes = 4194304\nupstream_idle_timeout_s = 1\nbody_timeout_s = 1\nclient_stall_s = 2"
    gateways.write_config(folder, shared_fake.url, server=limits)
    with gateways.running(folder) as gateway:
        yield gateway


@pytest.fixture
def gateway(shared_gateway: Gateway, fake: FakeProvider) -> Gateway:
    """The shared gateway, in front of a fake provider without a past."""
    del fake
    return shared_gateway
