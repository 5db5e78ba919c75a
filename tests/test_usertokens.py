"""Users' own tokens for MCP servers: sealed in the store, opened in the workers, followed by the pool."""

import asyncio
import base64
import json
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog

import samples
from bridgeserver.asks import Answer
from bridgeserver.config import Config, StoreConfig, load
from bridgeserver.config.databases import sqlite_path
from bridgeserver.control import ControlServer, Snapshot
from bridgeserver.errors import Conflict, InvalidMembers, NotFound, SealError, StoreError
from bridgeserver.identity import Caller
from bridgeserver.sealing import Vault, open_vault
from bridgeserver.secret import Secret
from bridgeserver.store import Store
from bridgeserver.store.reader import Reader, SealedToken
from bridgeserver.store.schema import metadata
from bridgeserver.store.stored import UserToken
from bridgeserver.store.usertokens import LIMIT
from bridgeserver.usertokens import UserTokens
from bridgeserver.worker import Place, Worker

WIKI, ISSUES, OTHER = (f"token-{word}-0123456789abcdef" for word in ("wiki", "issues", "other"))
SEALING_KEY = base64.b64encode(bytes(32)).decode()
SEALED = StoreConfig(encryption_key=(Secret(SEALING_KEY),))
VAULT = Vault([bytes(32)])

T = TypeVar("T")


@pytest.fixture
def store(empty_store: Store) -> Store:
    """A store of either engine with two users; ann has two keys."""
    for user in ("ann", "ann", "bob"):
        empty_store.create_key(user, "", is_admin=False, actor="tester")
    return empty_store


def put(store: Store, server: str = "wiki", token: str = WIKI, user: str = "ann", vault: Vault = VAULT) -> UserToken:
    """Store a token."""
    return store.set_user_token(vault, user, server, Secret(token), "tester")


def user_ids(store: Store) -> dict[str, str]:
    """Return the id of each user, by name."""
    return {user.name: user.id for user in store.list_users()}


def audit(store: Store) -> list[tuple[Any, ...]]:
    """Return what was audited of tokens: actor, action, target, detail."""
    rows = samples.query(
        store, "SELECT actor, action, target, detail FROM audit WHERE action LIKE '%token%' ORDER BY at"
    )
    return [(*row[:3], json.loads(row[3])) for row in rows]


# --- In the store ---------------------------------------------------------------------------------------------------


def test_a_token_is_sealed_and_nothing_shows_it(store: Store, tmp_path: Path) -> None:
    """No table and no file of the database holds it in clear, and neither does the audit or a list."""
    shown = put(store)
    put(store, "issues", ISSUES, "bob")
    assert shown == store.list_user_tokens("ann")[0]
    assert [(token.user, token.server) for token in store.list_user_tokens()] == [("ann", "wiki"), ("bob", "issues")]
    assert WIKI not in f"{shown!r}{store.list_user_tokens()!r}{samples.query(store, 'SELECT * FROM audit')!r}"
    assert WIKI not in repr([samples.query(store, f"SELECT * FROM {name}") for name in metadata.tables])
    for path in tmp_path.iterdir():
        assert WIKI.encode() not in path.read_bytes(), path


def test_a_token_replaces_the_one_before(store: Store) -> None:
    """There is one a user and server; it keeps the time of its beginning."""
    first, second = put(store), put(store, token=OTHER)
    assert store.list_user_tokens() == [second]
    assert first.created_at == first.updated_at == second.created_at < second.updated_at


def test_changes_are_audited_and_numbered(store: Store) -> None:
    """Each names user and server; to the workers all keys of the user have changed, and none of another."""
    ann = user_ids(store)["ann"]
    reader = Reader(store.url)
    before = reader.revision()
    put(store)
    assert {row.user_name for row in reader.changed_keys(before)} == {"ann"}
    store.remove_user_token("ann", "wiki", "other tester")
    assert {row.user_name for row in reader.changed_keys(before + 1)} == {"ann"}
    assert (reader.revision(), len(reader.changed_keys(before + 1))) == (before + 2, 2)
    reader.close()
    assert audit(store) == [
        ("tester", "user_token.set", ann, {"user": "ann", "server": "wiki"}),
        ("other tester", "user_token.remove", ann, {"user": "ann", "server": "wiki"}),
    ]
    assert (store.list_user_tokens(), samples.query(store, "SELECT * FROM mcp_tokens")) == ([], [])


def test_a_moved_row_does_not_open(store: Store) -> None:
    """A token opens for its own user and server only, whoever writes to the table; the other rows are not harmed."""
    put(store, "wiki", WIKI)
    put(store, "issues", ISSUES)
    put(store, "wiki", OTHER, "bob")
    ids = user_ids(store)
    stolen = samples.query(
        store, "SELECT sealed FROM mcp_tokens WHERE user_id = :ann AND server = 'wiki'", ann=ids["ann"]
    )[0][0]
    samples.query(
        store,
        "UPDATE mcp_tokens SET sealed = :stolen WHERE server = 'issues' OR user_id = :bob",
        stolen=stolen,
        bob=ids["bob"],
    )
    assert read(store, ids["ann"]) == {"wiki": WIKI}
    assert read(store, ids["bob"]) == {}


@pytest.mark.parametrize(
    ("token", "found"),
    [
        ("", "0 characters"),
        ("x" * (LIMIT + 1), f"{LIMIT + 1} characters"),
        ("hunter2\n", "8 characters"),
        ("hunter2\0", "8 characters"),
        ("Bearer hunter2", "14 characters"),
        ("hunter2\x7f", "8 characters"),
        ("hunter2é", "8 characters"),
        ("env:hunter2", "a reference that begins with env:"),
        ("file:/hunter2", "a reference that begins with file:"),
    ],
)
def test_what_is_no_token(store: Store, token: str, found: str) -> None:
    """A mistake says what is expected and shows nothing of the token, and nothing is stored."""
    with pytest.raises(InvalidMembers) as caught:
        put(store, token=token)
    assert caught.value.mistakes == [
        f"token: found {found}, expected the token itself: 1 to {LIMIT} printable ASCII characters without spaces"
    ]
    assert (store.list_user_tokens(), audit(store)) == ([], [])


def test_the_longest_token_is_taken(store: Store) -> None:
    """It opens whole."""
    put(store, token="x" * LIMIT)
    assert read(store, user_ids(store)["ann"]) == {"wiki": "x" * LIMIT}


def test_who_and_what_is_not_there(store: Store) -> None:
    """An unknown user, and a token that nobody has set, are named with what to do; a disabled user gets none."""
    put(store)
    with pytest.raises(NotFound, match=r"no user named 'eve'; `bridgecore users list`"):
        put(store, user="eve")
    for act in (lambda: store.remove_user_token("eve", "wiki", "tester"), lambda: store.list_user_tokens("eve")):
        with pytest.raises(NotFound, match="no user named 'eve'"):
            act()
    with pytest.raises(NotFound, match=r"'ann' has no token for 'issues'; there are tokens for: wiki"):
        store.remove_user_token("ann", "issues", "tester")
    with pytest.raises(NotFound, match="there are tokens for: none"):
        store.remove_user_token("bob", "wiki", "tester")
    store.disable_user("ann", "tester")
    with pytest.raises(Conflict, match="'ann' is disabled"):
        put(store, token=OTHER)
    store.remove_user_token("ann", "wiki", "tester")
    assert len(audit(store)) == 2


def test_without_a_key_nothing_is_stored(store: Store) -> None:
    """As with a provider's keys: the refusal says which option is missing."""
    with pytest.raises(SealError, match=r"store\.encryption_key"):
        put(store, vault=Vault([]))
    assert (store.list_user_tokens(), audit(store)) == ([], [])


# --- In a worker ----------------------------------------------------------------------------------------------------


Scenario = Callable[[UserTokens], Coroutine[Any, Any, T]]


def run(store: Store, scenario: Scenario[T], config: StoreConfig = SEALED, reader: Reader | None = None) -> T:
    """Run a scenario with the tokens of the store as a worker sees them."""

    async def body() -> T:
        with closing(reader or Reader(store.url)) as its, ThreadPoolExecutor(1, "store") as executor:
            return await scenario(UserTokens(its, executor, config, sqlite_path(store.url)))

    return asyncio.run(body())


def read(store: Store, user_id: str) -> Mapping[str, str]:
    """Return a user's tokens as a worker reads them."""
    return run(store, lambda tokens: clear(tokens, user_id))


async def clear(tokens: UserTokens, user_id: str) -> dict[str, str]:
    """Return a user's tokens in clear."""
    return {server: token.reveal() for server, token in (await tokens.of(user_id)).items()}


def test_a_worker_reads_one_users_tokens(store: Store) -> None:
    """Each by the name of its server; another user's are not among them."""
    put(store, "wiki", WIKI)
    put(store, "issues", ISSUES)
    put(store, "wiki", OTHER, "bob")
    ids = user_ids(store)
    found = read(store, ids["ann"])
    assert found == {"wiki": WIKI, "issues": ISSUES}
    assert read(store, ids["bob"]) == {"wiki": OTHER}
    assert read(store, "nobody") == {}


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_the_key_file_is_found_when_it_is_needed(store: Store, tmp_path: Path) -> None:
    """Without an encryption key a worker reads the file that the first token has made, and none before."""

    async def scenario(tokens: UserTokens) -> None:
        ann = user_ids(store)["ann"]
        assert await clear(tokens, ann) == {}
        assert not (tmp_path / "a.db.key").exists()
        put(store, vault=open_vault(StoreConfig(), store.path))
        assert await clear(tokens, ann) == {"wiki": WIKI}

    run(store, scenario, StoreConfig())


def test_what_cannot_be_opened_is_left_out_and_said_once(store: Store) -> None:
    """The log names user and server and shows no token; when it could be opened and then cannot, it says so again."""
    put(store, "wiki", WIKI)
    put(store, "issues", ISSUES, vault=Vault([b"x" * 32]))
    ann = user_ids(store)["ann"]

    async def scenario(tokens: UserTokens) -> None:
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                assert await clear(tokens, ann) == {"wiki": WIKI}
            (entry,) = logs
            assert (entry["event"], entry["user"], entry["server"]) == ("user_token_unreadable", "ann", "issues")
            assert "store.encryption_key" in entry["reason"]
            put(store, "issues", ISSUES)
            assert await clear(tokens, ann) == {"wiki": WIKI, "issues": ISSUES}
            samples.query(store, "UPDATE mcp_tokens SET sealed = 'nonsense' WHERE server = 'issues'")
            assert await clear(tokens, ann) == {"wiki": WIKI}
            assert len(logs) == 2
        assert WIKI not in str(logs)
        assert ISSUES not in str(logs)

    run(store, scenario)


class WatchedReader(Reader):
    """A reader that notes the threads that use it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.threads = list[str]()

    def user_tokens(self, user_id: str) -> list[SealedToken]:
        self.threads.append(threading.current_thread().name)
        return super().user_tokens(user_id)


def test_the_store_is_read_in_its_own_thread(store: Store) -> None:
    """And a store that cannot be read is an error of that moment only."""
    put(store)
    ann = user_ids(store)["ann"]
    reader = WatchedReader(store.url)

    async def scenario(tokens: UserTokens) -> None:
        samples.query(store, "ALTER TABLE mcp_tokens RENAME TO away")
        with pytest.raises(StoreError, match="cannot be read"):
            await tokens.of(ann)
        samples.query(store, "ALTER TABLE away RENAME TO mcp_tokens")
        assert await clear(tokens, ann) == {"wiki": WIKI}

    run(store, scenario, reader=reader)
    assert reader.threads == ["store_0"] * 2


@asynccontextmanager
async def worker_of(store: Store, folder: Path) -> AsyncGenerator[Worker]:
    """A worker that serves from the store, and the parent's end of its control socket."""
    file = folder / "bridgecore.toml"
    file.write_text(f'[store]\nencryption_key = "{SEALING_KEY}"\n')
    config: Config = load(file, {}, {})
    (folder / "journal").mkdir()
    control = ControlServer(lambda: 0.0, lambda _ask: Answer(200, b""))
    control.start()
    control.publish(Snapshot(1, ()))
    worker = Worker(config, Place(store.url, folder / "journal", control.path))
    await worker.start(lambda: None)
    try:
        yield worker
    finally:
        await worker.close()
        control.close()


def callers(store: Store) -> list[Caller]:
    """Return whose the keys are, ann's two and bob's."""
    ids = user_ids(store)
    return [Caller(ids[key.user], key.user, key.id, key.is_admin) for key in store.list_keys()]


def is_kept(worker: Worker, caller: Caller) -> bool:
    """Whether the caller's bridge is in the pool."""
    lease = worker.pool.find(caller, worker.generation)
    if lease is not None:
        lease.release()
    return lease is not None


@pytest.mark.parametrize("change", ["set", "replace", "remove"])
def test_a_change_reaches_the_worker_and_drops_that_users_bridges(store: Store, tmp_path: Path, change: str) -> None:
    """Within a second all of the user's bridges are gone, with every key, and those of other users are as they were."""
    if change != "set":
        put(store, token=OTHER)
    put(store, "wiki", OTHER, "bob")

    async def scenario() -> None:
        async with worker_of(store, tmp_path) as worker:
            ann, ann_2, bob = callers(store)
            for caller in (ann, ann_2, bob):
                (await worker.pool.acquire(caller, worker.generation)).release()
            built = worker.pool.stats().builds
            if change == "remove":
                store.remove_user_token("ann", "wiki", "tester")
            else:
                put(store)
            async with asyncio.timeout(5):
                while worker.pool.stats().live > 1:
                    await asyncio.sleep(0.01)
            assert [is_kept(worker, caller) for caller in (ann, ann_2, bob)] == [False, False, True]
            assert worker.pool.stats().builds == built

    asyncio.run(scenario())


def test_a_running_request_keeps_its_bridge(store: Store, tmp_path: Path) -> None:
    """What is leased when the token changes ends when it is given back."""

    async def scenario() -> None:
        async with worker_of(store, tmp_path) as worker:
            ann = callers(store)[0]
            lease = await worker.pool.acquire(ann, worker.generation)
            put(store)
            async with asyncio.timeout(5):
                while worker.pool.stats().live:
                    await asyncio.sleep(0.01)
            assert (worker.pool.stats().retired, worker.pool.stats().shut_down) == (1, 0)
            lease.release()
            assert (worker.pool.stats().retired, worker.pool.stats().shut_down) == (0, 1)

    asyncio.run(scenario())
