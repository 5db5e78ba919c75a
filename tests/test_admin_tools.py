"""The parent's answers to administrators about users' tokens for MCP servers."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import structlog

import gateway as gateways
from bridgeserver.admin import Admin
from bridgeserver.api.routes import USERS
from bridgeserver.asks import Answer, Ask
from bridgeserver.sealing import Vault
from bridgeserver.secret import Secret
from bridgeserver.status import McpServerStatus, ReloadStatus, ShippingStatus
from bridgeserver.store import Store, open_store

ACTOR = "user root, key k1"
TOKEN, OTHER = "token-of-ann-0123456789", "token-of-ann-9876543210"
WIKI = f"{USERS}/ann/tools/wiki"
NAMES = ["ann", "Zoë O'Neil", "a/b c%41?", "名前"]


class FakeReloader:
    """A reloader with two MCP servers, which no change of a token needs to reload."""

    file_names = frozenset[str]()
    file_servers = MappingProxyType[str, str]({})

    def apply(self, timeout_s: float) -> bool:
        raise AssertionError(timeout_s)

    def status(self) -> ReloadStatus:
        servers = tuple(
            McpServerStatus(name, "https://mcp.example", "enabled", "", "file", user_token=takes)
            for name, takes in (("wiki", True), ("clock", False))
        )
        return ReloadStatus(1, None, None, None, None, (), None, (), (), servers)


class Lab(NamedTuple):
    """An admin and its store."""

    admin: Admin
    store: Store

    def ask(self, method: str, path: str, body: Any = b"") -> Answer:
        """Ask as an administrator."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.admin.answer(Ask(method, path, "", data, ACTOR, is_admin=True))

    def listed(self, user: str = "ann") -> list[dict[str, Any]]:
        """Return the list of a user's tokens."""
        answer = self.ask("GET", f"{USERS}/{user}/tools")
        assert answer.status == 200, answer.body
        found: dict[str, list[dict[str, Any]]] = json.loads(answer.body)
        assert list(found) == ["tools"]
        return found["tools"]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """An admin over a store of users without tokens."""
    store = open_store(f"sqlite:///{tmp_path}/a.db")
    store.upgrade()
    for name in NAMES:
        store.create_key(name, "", is_admin=False, actor="tests")
    yield Lab(Admin(store, Vault([bytes(32)]), FakeReloader(), dict, ShippingStatus), store)
    store.close()


def refused(answer: Answer) -> tuple[int, str]:
    """Return status and message of a refusal."""
    return answer.status, json.loads(answer.body)["error"]["message"]


def audit(lab: Lab) -> list[tuple[str, str]]:
    """Return what was audited of tokens: actor and action."""
    with closing(sqlite3.connect(lab.store.path)) as connection:
        sql = "SELECT actor, action FROM audit WHERE action LIKE 'user_token.%' ORDER BY rowid"
        return connection.execute(sql).fetchall()


def test_a_token_is_set_replaced_and_deleted(lab: Lab) -> None:
    """The answers show the server and times, and so does the list; each change is audited under who asked."""
    assert lab.listed() == []
    first = lab.ask("PUT", WIKI, {"token": TOKEN})
    assert first.status == 201
    assert lab.listed() == [json.loads(first.body)]
    second = lab.ask("PUT", WIKI, {"token": OTHER})
    assert second.status == 200
    (shown,) = lab.listed()
    assert shown == json.loads(second.body)
    assert list(shown) == ["server", "created_at", "updated_at"]
    assert shown["server"] == "wiki"
    assert shown["created_at"] == json.loads(first.body)["created_at"] < shown["updated_at"]
    answers = first, second, lab.ask("GET", f"{USERS}/ann/tools"), lab.ask("DELETE", WIKI)
    assert answers[-1] == Answer(204, b"")
    for answer in answers:
        assert b"token-of-ann" not in answer.body
    assert lab.listed() == []
    assert audit(lab) == [(ACTOR, f"user_token.{change}") for change in ("set", "set", "remove")]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("Zoë O'Neil", "Zo%C3%AB%20O'Neil"),
        ("Zoë O'Neil", "Zoë%20O'Neil".encode().decode("latin-1")),
        ("a/b c%41?", "a%2Fb%20c%2541%3f"),
        ("名前", "%e5%90%8d%E5%89%8D"),
    ],
)
def test_a_users_name_may_be_any(lab: Lab, name: str, path: str) -> None:
    """It is the one part of a path that is decoded, once."""
    assert lab.ask("PUT", f"{USERS}/{path}/tools/wiki", {"token": TOKEN}).status == 201
    assert [token["server"] for token in lab.listed(path)] == ["wiki"]
    assert [token.user for token in lab.store.list_user_tokens()] == [name]


def test_what_is_not_there_is_404(lab: Lab) -> None:
    """An unknown user, server or token; the message names what there is."""
    for method, path, body in (
        ("GET", f"{USERS}/eve/tools", b""),
        ("PUT", f"{USERS}/eve/tools/wiki", {"token": TOKEN}),
        ("DELETE", f"{USERS}/eve/tools/wiki", b""),
    ):
        status, message = refused(lab.ask(method, path, body))
        assert (status, message) == (404, "no user named 'eve'; `bridgecore users list` shows those there are")
    unknown = lab.ask("PUT", f"{USERS}/ann/tools/wik", {"token": TOKEN})
    assert refused(unknown) == (404, "no MCP server named 'wik'; there are: wiki, clock")
    missing = lab.ask("DELETE", f"{USERS}/ann/tools/clock")
    assert refused(missing) == (404, "user 'ann' has no token for 'clock'; there are tokens for: none")
    for path in (f"{USERS}/ann", f"{USERS}//tools", f"{WIKI}/x", f"{USERS}/ann/tools/wi%6bi"):
        assert refused(lab.ask("PUT", path, {"token": TOKEN}))[0] == 404, path
    assert audit(lab) == []


def test_a_server_without_tokens_of_users_is_a_conflict(lab: Lab) -> None:
    """The message says what to change; so is a user who is disabled."""
    status, message = refused(lab.ask("PUT", f"{USERS}/ann/tools/clock", {"token": TOKEN}))
    assert status == 409
    assert "set user_token = true" in message
    lab.store.disable_user("ann", "tests")
    assert refused(lab.ask("PUT", WIKI, {"token": TOKEN})) == (
        409,
        "user 'ann' is disabled and can be given no token",
    )
    assert audit(lab) == []


def test_a_token_of_a_server_that_is_gone_can_be_deleted(lab: Lab) -> None:
    """Whatever the configuration says now."""
    lab.store.set_user_token(Vault([bytes(32)]), "ann", "gone", Secret(TOKEN), "tests")
    assert lab.ask("DELETE", f"{USERS}/ann/tools/gone").status == 204
    assert lab.listed() == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hunter2",
        [],
        {},
        {"token": None},
        {"token": 1},
        {"token": ["hunter2"]},
        {"token": ""},
        {"token": "hunter2\r\nx-admin: yes"},
        {"token": "hunter2\0"},
        {"token": " hunter2"},
        {"token": "hunter2" * 2000},
        {"token": "env:hunter2"},
        {"token": "hunter2é"},
        {"token": "sk-x", "hunter2-hunter2": 1},
        {"tokens": "hunter2"},
    ],
)
def test_a_wrong_body_is_400(lab: Lab, body: Any) -> None:
    """The message shows nothing of a token, and nothing is stored or logged."""
    with structlog.testing.capture_logs() as logs:
        status, message = refused(lab.ask("PUT", WIKI, body))
    assert status == 400
    assert "hunter2" not in message
    assert (lab.listed(), logs) == ([], [])


def test_a_name_that_is_no_utf_8_is_400(lab: Lab) -> None:
    """No user has such a name."""
    for name in ("%ff", "\xff", "%C3"):
        assert refused(lab.ask("GET", f"{USERS}/{name}/tools"))[0] == 400


def test_other_methods_are_405(lab: Lab) -> None:
    """The refusal says which there are."""
    answer = lab.ask("POST", WIKI, {"token": TOKEN})
    assert (answer.status, answer.headers["allow"]) == (405, "PUT, DELETE")
    assert lab.ask("DELETE", f"{USERS}/ann/tools").headers["allow"] == "GET, HEAD"


def test_without_a_sealing_key_nothing_is_stored(lab: Lab) -> None:
    """As with a provider's keys."""
    admin = Admin(lab.store, Vault([]), FakeReloader(), dict, ShippingStatus)
    answer = admin.answer(Ask("PUT", WIKI, "", json.dumps({"token": TOKEN}).encode(), ACTOR, is_admin=True))
    status, message = refused(answer)
    assert (status, "store.encryption_key" in message) == (500, True)
    assert lab.listed() == []


def test_the_whole_way_through_a_gateway(tmp_path: Path) -> None:
    """A token goes from the client through worker and parent into the store, and is nowhere in clear."""
    servers = '[[mcp_servers]]\nname = "wiki"\nurl = "http://127.0.0.1:9/mcp"\nuser_token = true\nenabled = false'
    gateways.write_config(tmp_path, "http://127.0.0.1:9", server='log_level = "debug"', more=servers)
    gateways.make_key(tmp_path, "名前")
    admin = {"authorization": f"Bearer {gateways.make_key(tmp_path, 'root', is_admin=True)}"}
    path = f"{USERS}/%e5%90%8d%E5%89%8D/tools"
    with gateways.running(tmp_path) as gateway:
        answers = [
            gateway.ask(f"{path}/wiki", {"token": TOKEN}, method="PUT", headers=admin),
            gateway.ask(f"{path}/wik", {"token": TOKEN}, method="PUT", headers=admin),
            gateway.ask(path, headers=admin),
            gateway.ask(path),
            gateway.ask(f"{path}/wiki", method="DELETE", headers=admin),
        ]
        assert [answer.status for answer in answers] == [201, 404, 200, 403, 204]
        assert [token["server"] for token in answers[2].json["tools"]] == ["wiki"]
        assert not any(TOKEN.encode() in answer.body for answer in answers)
        for file in tmp_path.rglob("*"):
            assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file
