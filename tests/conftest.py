"""What many tests share: one fake provider and one gateway for all that does not stop them."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

import gatelab
import gateway as gateways
import samples
from bridgeserver import fakeprovider
from bridgeserver.fakeprovider import FakeProvider
from bridgeserver.store import Store, open_store
from gatelab import GateLab, MakeLab, Users
from gateway import Gateway
from pglab import PostgresLab


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


@pytest.fixture(scope="session")
def users(tmp_path_factory: pytest.TempPathFactory) -> Users:
    """Make a database that holds two users, and their keys."""
    return gatelab.make_store(tmp_path_factory.mktemp("users"))


@pytest.fixture(scope="session")
def shared_lab(users: Users, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GateLab]:
    """The gateway in memory that tests share."""
    lab = GateLab(tmp_path_factory.mktemp("lab") / "shared", users, gatelab.PROVIDERS)
    yield lab
    lab.close()


@pytest.fixture
def lab(shared_lab: GateLab) -> Iterator[GateLab]:
    """The gateway in memory, in front of a provider that has been asked nothing, and answers what it is told to."""
    shared_lab.reset()
    yield shared_lab
    assert not shared_lab.provider.answers
    assert not shared_lab.provider.surplus


@pytest.fixture
def make_lab(users: Users, tmp_path: Path) -> Iterator[MakeLab]:
    """Make gateways in memory of configurations of their own."""
    labs = list[GateLab]()

    def make(config: str, environ: Mapping[str, str] | None = None) -> GateLab:
        labs.append(GateLab(tmp_path / f"lab{len(labs)}", users, config, environ))
        return labs[-1]

    yield make
    for lab in labs:
        lab.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresLab]:
    """A PostgreSQL server for all tests; it runs when a test begins."""
    lab = PostgresLab()
    yield lab
    lab.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each of the engines that a store can have."""
    return str(request.param)


@pytest.fixture
def store_url(engine: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database of either engine, which may lack the schema until it is upgraded."""
    if engine == "sqlite":
        yield f"sqlite:///{request.getfixturevalue('tmp_path')}/a.db"
        return
    lab: PostgresLab = request.getfixturevalue("postgres")
    with lab.database() as url:
        yield url


@pytest.fixture
def empty_store(store_url: str) -> Iterator[Store]:
    """A store of either engine with the schema and nothing else."""
    store = open_store(store_url)
    store.upgrade()
    yield store
    store.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store of either engine that the tests of a file share."""
    with ExitStack() as stack:
        url = f"sqlite:///{tmp_path_factory.mktemp('shared')}/a.db"
        if request.param == "postgresql":
            lab: PostgresLab = request.getfixturevalue("postgres")
            url = stack.enter_context(lab.database())
        store = open_store(url)
        stack.callback(store.close)
        store.upgrade()
        yield store


@pytest.fixture
def emptied_store(shared_store: Store) -> Store:
    """The store that the tests of a file share, with the schema and nothing else."""
    samples.empty(shared_store)
    return shared_store


@pytest.fixture
def bare_url(engine: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of either engine without any table."""
    if engine == "sqlite":
        yield f"sqlite:///{request.getfixturevalue('tmp_path')}/a.db"
        return
    lab: PostgresLab = request.getfixturevalue("postgres")
    with lab.bare_database() as url:
        yield url
