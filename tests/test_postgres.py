"""What only PostgreSQL has: a server that goes away, comes back, or says nothing, and others that write meanwhile."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial

import msgspec
import pytest
from sqlalchemy import Connection, text

import pglab
import samples
from bridgeserver.errors import Conflict, SealError, StoreError, StoreUnavailable
from bridgeserver.records import AnyRecord
from bridgeserver.sealing import Vault
from bridgeserver.secret import Secret
from bridgeserver.store import Store, open_store
from bridgeserver.store.reader import Reader
from bridgeserver.store.revisions import CONFIG, KEYS
from bridgeserver.store.stored import ProviderFields
from gateway import eventually
from pglab import PASSWORD, PostgresLab

VAULT = Vault([bytes(32)])


@pytest.fixture
def url(postgres: PostgresLab) -> Iterator[str]:
    """A database with the schema."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """A store on that database."""
    with closing(open_store(url)) as store:
        yield store


@pytest.fixture
def reader(url: str) -> Iterator[Reader]:
    """A worker's view of it."""
    with closing(Reader(url)) as reader:
        yield reader


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait long for a server."""
    for module in ("postgres", "postgres_rows"):
        for name in ("CONNECT_S", "STATEMENT_S", "CLOSE_S"):
            monkeypatch.setattr(f"bridgeserver.store.{module}.{name}", 0.2)


def connections(postgres: PostgresLab, url: str) -> int:
    """Return how many connections there are to a database."""
    name = url.partition("?")[0].rpartition("/")[2]
    return int(postgres.run(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'")[0][0])


def together(*works: Callable[[], object]) -> list[object]:
    """Do things at the same time, and return what each gave or raised."""
    start = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> object:
        start.wait()
        try:
            return work()
        except StoreError as exc:
            return exc
        except Conflict as exc:
            return exc

    with ThreadPoolExecutor(len(works)) as executor:
        return list(executor.map(run, works))


# --- A server that is not there -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_a_server_that_comes_back_is_used_again(postgres: PostgresLab, store: Store, reader: Reader, way: str) -> None:
    """While it is away calls say so and that it may pass; afterwards the first one succeeds."""
    store.create_key("ann", "", is_admin=False, actor="tester")
    assert reader.revision() == 1
    getattr(postgres, way)()
    with pytest.raises(StoreUnavailable, match=r"the database test\d+ at .* failed \(.*\): check that its server runs"):
        store.list_users()
    with pytest.raises(StoreUnavailable, match="it cannot be read now"):
        reader.revision()
    postgres.start()
    assert [user.name for user in store.list_users()] == ["ann"]
    assert reader.revision() == 1


def test_nobody_notices_a_restart_between_two_calls(postgres: PostgresLab, store: Store, reader: Reader) -> None:
    """Connections that were cut while nobody used them are replaced without a call that fails."""
    store.create_key("ann", "", is_admin=False, actor="tester")
    assert reader.revision() == 1
    postgres.stop()
    postgres.start()
    assert (reader.revision(), len(store.list_keys())) == (1, 1)
    postgres.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bridgecore'")
    assert (reader.revision(), len(store.list_keys())) == (1, 1)


@pytest.mark.usefixtures("impatient")
def test_a_server_that_says_nothing_is_unavailable(postgres: PostgresLab, url: str) -> None:
    """Statements and connections that get no answer end by themselves, and so does closing."""
    with closing(Reader(url)) as reader, closing(open_store(url)) as store:
        assert (reader.revision(), store.list_users()) == (0, [])
        began = time.monotonic()
        with postgres.frozen():
            with pytest.raises(StoreUnavailable, match="it does not answer"):
                store.list_users()
            with pytest.raises(StoreUnavailable, match="it does not answer"):
                store.create_key("ann", "", is_admin=False, actor="tester")
            with pytest.raises(StoreUnavailable, match="it does not answer"):
                reader.revision()
            with closing(open_store(url)) as late, pytest.raises(StoreUnavailable, match="it does not answer"):
                late.upgrade()
        assert time.monotonic() - began < 30
        assert (reader.revision(), store.list_users()) == (0, [])
        with postgres.frozen():
            reader.close()
            store.close()


def test_a_statement_that_takes_too_long_is_ended(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends it, and the connection is good for the next one."""
    monkeypatch.setattr("bridgeserver.store.postgres.STATEMENT_S", 0.2)
    with closing(open_store(url)) as store:
        with pytest.raises(StoreUnavailable, match="statement timeout"):
            samples.query(store, "SELECT pg_sleep(60)")
        assert store.list_users() == []


def test_a_migration_may_take_long(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of statements is not one of migrations."""
    monkeypatch.setattr("bridgeserver.store.postgres.STATEMENT_S", 0.2)
    with closing(open_store(url)) as store:
        samples.database(store).migrate(lambda connection: connection.execute(text("SELECT pg_sleep(0.5)")).scalar())


@pytest.mark.parametrize(("more", "name"), [("", "bridgecore"), ("&application_name=west", "west")])
def test_a_gateway_has_a_name(url: str, more: str, name: str) -> None:
    """The server shows it with each connection, so that one sees whose they are."""
    with closing(open_store(url + more)) as store, closing(Reader(url + more)) as reader:
        reader.revision()
        here = "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
        assert {row[0] for row in samples.query(store, here)} == {name}


def test_a_wrong_password_does_not_pass(postgres: PostgresLab) -> None:
    """It is no failure that waiting helps against, and neither message nor traceback shows a password."""
    with closing(open_store(postgres.tcp_url("upgraded"))) as store:
        assert store.list_users() == []
    with closing(open_store(postgres.tcp_url("upgraded", "hunter2"))) as store, pytest.raises(StoreError) as caught:
        store.list_users()
    assert not isinstance(caught.value, StoreUnavailable)
    assert f"upgraded at 127.0.0.1:{postgres.port} failed (password authentication failed" in str(caught.value)
    assert "hunter2" not in f"{caught.value}{caught.value.__cause__}{store!r}"
    assert PASSWORD not in str(caught.value)


def test_a_missing_database_does_not_pass(postgres: PostgresLab) -> None:
    """It is named; nothing is created."""
    with closing(open_store(postgres.url("nowhere"))) as store, pytest.raises(StoreError, match="nowhere") as caught:
        store.upgrade()
    assert not isinstance(caught.value, StoreUnavailable)


def test_a_server_that_only_reads_may_pass(postgres: PostgresLab, url: str) -> None:
    """A standby is promoted one day; until then nothing is written and everything can be read."""
    name = url.partition("?")[0].rpartition("/")[2]
    postgres.run(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    try:
        with closing(open_store(url)) as store:
            assert store.list_users() == []
            with pytest.raises(StoreUnavailable, match="read-only"):
                store.create_key("ann", "", is_admin=False, actor="tester")
    finally:
        postgres.run(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')


# --- What is opened is closed ---------------------------------------------------------------------------------------


def test_nothing_is_left_when_it_is_closed(postgres: PostgresLab, url: str) -> None:
    """Neither a connection nor a thread, of a reader and of a store that many used at once with a bounded pool."""
    threads = set(threading.enumerate())
    store, reader = open_store(url), Reader(url)
    end = store.listen(lambda _name: None)
    with ThreadPoolExecutor(24) as executor:
        for done in [executor.submit(store.list_users) for _ in range(200)]:
            done.result()
    reader.revision()
    assert 3 <= connections(postgres, url) <= 8 + 1 + 1
    end()
    reader.close()
    store.close()
    eventually(lambda: True if connections(postgres, url) == 0 else None)
    assert set(threading.enumerate()) <= threads


def test_a_closed_store_opens_again(store: Store) -> None:
    """As a file does."""
    store.close()
    assert store.list_users() == []


def test_closing_ends_what_waits(store: Store, url: str) -> None:
    """Whoever waits for a lock at that moment is told, and not left waiting."""
    failed: list[object] = []
    with closing(open_store(url)) as other:

        def hold(connection: Connection) -> None:
            connection.execute(text("SELECT value FROM revisions FOR UPDATE"))
            thread = threading.Thread(target=lambda: failed.extend(together(lambda: store.disable_user("x", "t"))))
            thread.start()
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            eventually(lambda: pglab.query(url, waiting)[0][0] or None)
            store.close()
            thread.join()

        samples.database(other).write(hold)
    assert "was closed meanwhile" in str(failed[0])


# --- Others that write meanwhile ------------------------------------------------------------------------------------


def test_a_read_sees_one_moment_and_writes_nothing(store: Store) -> None:
    """What is committed while it runs is not seen, and a statement that would change anything is refused."""

    def read(connection: Connection) -> list[object]:
        count = text("SELECT count(*) FROM keys")
        before = connection.execute(count).scalar()
        with ThreadPoolExecutor(1) as executor:
            executor.submit(pglab.query, store.url, "UPDATE revisions SET value = 7").result()
        return [before, connection.execute(text("SELECT max(value) FROM revisions")).scalar()]

    assert samples.database(store).read(read) == [0, 0]
    with pytest.raises(StoreError, match="read-only"):
        samples.database(store).read(lambda connection: connection.execute(text("DELETE FROM revisions")))


def test_two_gateways_ship_the_same_objects(store: Store, url: str) -> None:
    """However their rows cross, neither waits for the other for ever, and each row is there once."""
    objects: list[AnyRecord] = [samples.provider_object(f"resp_{number}") for number in range(400)]
    turns: list[AnyRecord] = [samples.continued_response(f"resp_{number}") for number in range(400)]
    with closing(open_store(url)) as other:
        for _ in range(5):
            counts = together(
                lambda: store.apply([*objects, *turns]), lambda: other.apply([*turns[::-1], *objects[::-1]])
            )
            assert sum(count for count in counts if isinstance(count, int)) == 800, counts
            samples.empty(store)


def test_ends_of_two_gateways_come_in_the_order_of_their_numbers(store: Store, url: str) -> None:
    """Whoever follows the ends misses none of either."""
    cursor, seen = store.end_cursor(), set[str]()
    with closing(open_store(url)) as other:
        for base in range(0, 200, 20):
            batches: list[list[AnyRecord]] = [
                [record for number in range(first, first + 10) for record in samples.whole(number)]
                for first in (base, base + 10)
            ]
            together(partial(store.apply, batches[0]), partial(other.apply, batches[1]))
            for place, record in store.ended_after(cursor):
                cursor = place
                seen.add(record["id"])
    assert len(seen) == 200


def begun_in(session: str, number: int, at: int) -> list[AnyRecord]:
    """Return what a request of a session leaves."""
    begun = msgspec.structs.replace(samples.interception(number, started_at=at), session_id=session)
    return [begun, msgspec.structs.replace(samples.prompt(number), created_at=at), samples.end(number, ended_at=at + 1)]


def test_two_gateways_purge_while_a_third_ships(store: Store, url: str) -> None:
    """None fails for another one's sake, and the sessions that they share begin with what is left of them."""

    def purge(by: Store) -> None:
        while by.purge(1000, 50):
            pass

    def ship(by: Store) -> None:
        for first in range(1000, 1400, 40):
            by.apply([record for at in range(first, first + 40) for record in begun_in(f"s{at % 40}", at, at)])

    with closing(open_store(url)) as second, closing(open_store(url)) as third:
        for _ in range(3):
            store.apply([record for at in range(400) for record in begun_in(f"s{at * 7 % 40}", at, at)])
            assert together(partial(purge, store), partial(purge, second), partial(ship, third)) == [None] * 3
            starts = {row["id"]: row["started_at"] for row in samples.tables(store)["sessions"]}
            assert starts == {f"s{at % 40}": at for at in range(1000, 1040)}
            samples.empty(store)


def test_of_two_who_make_the_same_one_is_refused(store: Store, url: str) -> None:
    """Administrators at two gateways: one provider of a name, one user of a name, one token of a user."""
    fields = ProviderFields(name="main", type="openai", keys=(Secret("sk-0123456789"),))
    with ExitStack() as stack:
        stores = [stack.enter_context(closing(open_store(url))) for _ in range(4)]
        made = together(*(partial(each.create_provider, VAULT, fields, "tester") for each in stores))
        assert sorted(type(result).__name__ for result in made) == ["Conflict"] * 3 + ["StoredProvider"]
        together(*(partial(each.create_key, "ann", "", is_admin=False, actor="tester") for each in stores))
        assert (len(store.list_users()), len(store.list_keys())) == (1, 4)
        tokens = together(
            *(partial(each.set_user_token, VAULT, "ann", "wiki", Secret("t"), "tester") for each in stores)
        )
        assert [result for result in tokens if isinstance(result, Exception)] == []
        together(*(partial(each.override_provider, "file", enabled=False, actor="tester") for each in stores))
        assert store.provider_overrides() == {"file": False}


# --- Hearing of changes ---------------------------------------------------------------------------------------------


def test_changes_are_heard_when_they_are_committed(store: Store, url: str) -> None:
    """Of keys and of providers, made through another gateway; of records nobody hears."""
    heard: list[str] = []
    end = store.listen(heard.append)
    eventually(lambda: True if sorted(heard) == sorted([KEYS, CONFIG]) else None)
    heard.clear()
    with closing(open_store(url)) as other:
        other.apply(samples.whole())
        other.create_key("ann", "", is_admin=False, actor="tester")
        eventually(lambda: True if heard == [KEYS] else None)
        other.override_provider("main", enabled=False, actor="tester")
        eventually(lambda: True if heard == [KEYS, CONFIG] else None)
        end()
        other.disable_user("ann", "tester")
    assert heard == [KEYS, CONFIG]


def test_listening_goes_on_after_the_server_was_away(postgres: PostgresLab, store: Store) -> None:
    """What may have changed meanwhile is looked for as soon as it can be heard again."""
    heard: list[str] = []
    end = store.listen(heard.append)
    eventually(lambda: True if len(heard) == 2 else None)
    postgres.kill()
    heard.clear()
    postgres.start()
    eventually(lambda: True if sorted(heard) == sorted([KEYS, CONFIG]) else None)
    end()


def test_without_a_key_nothing_is_sealed(store: Store) -> None:
    """And whether anything was tells whether a gateway may serve without one."""
    refusing = Vault([])
    fields = ProviderFields(name="main", type="openai", keys=(Secret("sk-0123456789"),))
    with pytest.raises(SealError):
        store.create_provider(refusing, fields, "tester")
    assert not store.has_secrets()
    store.create_provider(refusing, ProviderFields(name="open", type="openai"), "tester")
    assert not store.has_secrets()
    store.create_provider(VAULT, fields, "tester")
    assert store.has_secrets()
    store.delete_provider("main", "tester")
    assert not store.has_secrets()
    store.create_key("ann", "", is_admin=False, actor="tester")
    store.set_user_token(VAULT, "ann", "wiki", Secret("t"), "tester")
    assert store.has_secrets()
