"""The parent's answers to administrators about MCP servers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import structlog

import gateway as gateways
import samples
from bridgeserver.admin import APPLIED, Admin
from bridgeserver.api.routes import MCP_SERVERS, USERS
from bridgeserver.asks import Answer, Ask
from bridgeserver.config import McpServerConfig
from bridgeserver.fakeprovider import running
from bridgeserver.merging import merge_servers
from bridgeserver.sealing import Vault
from bridgeserver.status import McpServerStatus, ReloadStatus, ShippingStatus
from bridgeserver.store import Store, open_store
from bridgeserver.verdict import judge_servers
from mcplab import McpServer

ACTOR = "user root, key k1"
SECRET = "hunter2-0123456789abcdef"
FILED = McpServerConfig(name="filed", url="https://file.test/mcp", user_token=True, allow="^a", deny="b$")
NEW = {
    "name": "wiki",
    "url": f"https://wiki.test/mcp?key={SECRET}",
    "headers": {"Authorization": f"Bearer {SECRET}"},
    "deny": "draft",
}


class FakeReloader:
    """Takes over what the store holds, as soon as it is told to."""

    file_names = frozenset[str]()

    def __init__(self, store: Store, vault: Vault) -> None:
        self.file_servers = {FILED.name: FILED.public_url}
        self.is_stuck = False
        self._store = store
        self._vault = vault
        self._statuses: tuple[McpServerStatus, ...] = ()
        self.apply(0)

    def apply(self, timeout_s: float) -> bool:
        del timeout_s
        if not self.is_stuck:
            found = self._store.load_mcp_servers(self._vault)
            self._statuses = judge_servers(merge_servers([FILED], found), found)
        return not self.is_stuck

    def status(self) -> ReloadStatus:
        return ReloadStatus(1, None, None, None, None, (), None, (), (), self._statuses)


class Lab(NamedTuple):
    """An admin, and what it works with."""

    admin: Admin
    store: Store
    state: FakeReloader

    def ask(self, method: str, path: str, body: Any = b"") -> Answer:
        """Ask as an administrator."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.admin.answer(Ask(method, path, "", data, ACTOR, is_admin=True))

    def create(self, **members: Any) -> dict[str, Any]:
        """Create a server."""
        answer = self.ask("POST", MCP_SERVERS, NEW | members)
        assert answer.status == 201, answer.body
        return read(answer)

    def listed(self) -> dict[str, dict[str, Any]]:
        """Return all servers by name, as they are listed."""
        answer = read(self.ask("GET", MCP_SERVERS))
        assert list(answer) == ["mcp_servers"]
        return {view["name"]: view for view in answer["mcp_servers"]}


def read(answer: Answer) -> dict[str, Any]:
    """Return the object that an answer holds."""
    value: dict[str, Any] = json.loads(answer.body)
    return value


def refused(answer: Answer) -> tuple[int, str]:
    """Return status and message of a refusal."""
    return answer.status, read(answer)["error"]["message"]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """An admin over a store without servers, beside a file with one."""
    store = open_store(f"sqlite:///{tmp_path}/a.db")
    store.upgrade()
    store.create_key("ann", "", is_admin=False, actor="tests")
    vault = Vault([bytes(32)])
    state = FakeReloader(store, vault)
    yield Lab(Admin(store, vault, state, dict, ShippingStatus), store, state)
    store.close()


def test_a_server_is_made_shown_changed_and_deleted(lab: Lab) -> None:
    """Each answer shows it as it is in force, without a secret, and says that it is; each change is audited."""
    made = lab.ask("POST", MCP_SERVERS, NEW)
    assert (made.status, made.headers) == (201, {APPLIED: "true", "location": f"{MCP_SERVERS}/wiki"})
    view = read(made)
    assert view == {
        "id": view["id"],
        "name": "wiki",
        "url": "https://wiki.test/mcp",
        "query": "key=...cdef",
        "headers": {"Authorization": "Bear...cdef"},
        "user_token": False,
        "allow": "",
        "deny": "draft",
        "enabled": True,
        "allow_link_local": False,
        "created_at": view["created_at"],
        "updated_at": view["created_at"],
        "source": "store",
        "status": "enabled",
        "status_reason": "",
        "override": None,
    }
    for name in ("wiki", view["id"]):
        assert read(lab.ask("GET", f"{MCP_SERVERS}/{name}")) == view
    changed = lab.ask("PATCH", f"{MCP_SERVERS}/wiki", {"enabled": False, "headers": {}, "user_token": True})
    assert (changed.status, changed.headers) == (200, {APPLIED: "true"})
    assert {name: value for name, value in read(changed).items() if value != view[name]} == {
        "enabled": False,
        "headers": {},
        "user_token": True,
        "status": "disabled",
        "updated_at": read(changed)["updated_at"],
    }
    assert lab.listed() == {"filed": lab.listed()["filed"], "wiki": read(changed)}
    assert lab.ask("DELETE", f"{MCP_SERVERS}/{view['id']}") == Answer(204, b"", headers={APPLIED: "true"})
    assert list(lab.listed()) == ["filed"]
    sql = "SELECT actor, action FROM audit WHERE action LIKE 'mcp_server.%' ORDER BY rowid"
    assert samples.query(lab.store, sql) == [
        (ACTOR, f"mcp_server.{action}") for action in ("create", "update", "delete")
    ]


def test_a_server_of_the_file_is_switched_and_no_more(lab: Lab) -> None:
    """It is shown with the same members; an override holds until it is reset; the rest is for the file."""
    path = f"{MCP_SERVERS}/filed"
    view = read(lab.ask("GET", path))
    lab.create()
    assert list(lab.listed()) == ["filed", "wiki"]
    assert list(view) == list(lab.listed()["wiki"])
    assert (view["url"], view["user_token"], view["allow"], view["deny"]) == (FILED.url, True, "^a", "b$")
    assert (view["id"], view["source"], view["enabled"], view["override"]) == (None, "file", True, None)
    switched = read(lab.ask("PATCH", path, {"enabled": False}))
    assert (switched["enabled"], switched["status"], switched["override"]) == (False, "disabled", False)
    assert switched["status_reason"] == "overridden"
    assert read(lab.ask("POST", f"{path}/reset")) == view
    for method, body in (("PATCH", {"deny": "x"}), ("DELETE", b"")):
        status, message = refused(lab.ask(method, path, body))
        assert (status, "MCP server filed is in the configuration file" in message) == (409, True)
    assert refused(lab.ask("POST", f"{MCP_SERVERS}/wiki/reset"))[0] == 409


def test_a_stored_server_replaces_the_files(lab: Lab) -> None:
    """There is one of a name, and what users gave to the other stays only if it goes to the same place."""
    token = f"{USERS}/ann/tools/filed"
    for url, kept in ((f"{FILED.url}/v2", 1), ("https://elsewhere.test/mcp", 0)):
        assert lab.ask("PUT", token, {"token": SECRET}).status == 201
        lab.create(name="filed", url=url, headers={}, user_token=True)
        assert {name: view["source"] for name, view in lab.listed().items()} == {"filed": "store"}
        assert len(read(lab.ask("GET", f"{USERS}/ann/tools"))["tools"]) == kept
        assert lab.ask("DELETE", f"{MCP_SERVERS}/filed").status == 204
        assert lab.listed()["filed"]["source"] == "file"
        assert read(lab.ask("GET", f"{USERS}/ann/tools"))["tools"] == []


def test_users_have_tokens_for_stored_servers(lab: Lab) -> None:
    """As for those of the file: a server that takes none is a conflict, an unknown one is named with the others."""
    lab.create(headers={}, user_token=True)
    lab.create(name="clock", headers={})
    assert lab.ask("PUT", f"{USERS}/ann/tools/wiki", {"token": SECRET}).status == 201
    assert refused(lab.ask("PUT", f"{USERS}/ann/tools/clock", {"token": SECRET}))[0] == 409
    assert refused(lab.ask("PUT", f"{USERS}/ann/tools/x", {"token": SECRET})) == (
        404,
        "no MCP server named 'x'; there are: clock, filed, wiki",
    )


def test_what_is_stored_and_not_in_force_says_so(lab: Lab) -> None:
    """Where the workers do not follow, and where its secrets cannot be opened."""
    lab.state.is_stuck = True
    answer = lab.ask("POST", MCP_SERVERS, NEW)
    assert (answer.status, answer.headers[APPLIED]) == (201, "false")
    assert (read(answer)["status"], read(answer)["status_reason"]) == ("error", "the workers do not have it yet")
    state = FakeReloader(lab.store, Vault([b"x" * 32]))
    admin = Admin(lab.store, Vault([bytes(32)]), state, dict, ShippingStatus)
    view = read(admin.answer(Ask("GET", f"{MCP_SERVERS}/wiki", "", b"", ACTOR, is_admin=True)))
    assert (view["status"], "store.encryption_key" in view["status_reason"]) == ("error", True)
    detail = read(admin.answer(Ask("GET", "/-/readyz", "", b"", ACTOR, is_admin=True)))["mcp_servers"]
    assert [(server["name"], server["source"], server["status"]) for server in detail] == [
        ("filed", "file", "enabled"),
        ("wiki", "store", "error"),
    ]


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"hunter2", "found no JSON"),
        ([], "found a list, expected an object"),
        ({"name": "a"}, "missing required field `url`"),
        ({"name": "a", "url": 1}, "Expected `str`, got `int`"),
        (NEW | {"uri": "hunter2"}, "body: uri: found an unknown name, expected url (the nearest name)"),
        (NEW | {"hunter2-hunter2": 1}, "body: a member: found an unknown name"),
        (NEW | {"headers": {"X-A": 7}}, "Expected a text, found a number"),
        (NEW | {"headers": ["hunter2"]}, "Expected `object`, got `array`"),
        (NEW | {"headers": {"X-A": "file:/hunter2"}}, "a reference that begins with file:"),
        (NEW | {"url": "http://169.254.169.254/?hunter2"}, "no link-local or metadata address"),
        (NEW | {"user_token": True}, "Authorization beside user_token = true"),
        (NEW | {"allow": "["}, "expected a regular expression"),
    ],
)
def test_a_wrong_body_is_400(lab: Lab, body: Any, part: str) -> None:
    """The message says what is wrong and shows no secret; nothing is stored or logged."""
    with structlog.testing.capture_logs() as logs:
        status, message = refused(lab.ask("POST", MCP_SERVERS, body))
    assert (status, logs) == (400, [])
    assert part in message
    assert "hunter2" not in message
    assert list(lab.listed()) == ["filed"]


def test_what_cannot_be_done(lab: Lab) -> None:
    """An unknown server, a name that is taken or changed, and a wrong method are told apart."""
    lab.create()
    assert refused(lab.ask("GET", f"{MCP_SERVERS}/x")) == (
        404,
        "no MCP server has the id or the name x; the list shows those there are",
    )
    assert refused(lab.ask("POST", MCP_SERVERS, NEW))[0] == 409
    assert refused(lab.ask("PATCH", f"{MCP_SERVERS}/wiki", {"name": "wikis"})) == (
        409,
        "name: it is for good: create another MCP server, and delete wiki",
    )
    assert lab.ask("PATCH", f"{MCP_SERVERS}/wiki", {"name": "wiki"}).status == 200
    assert lab.ask("PUT", f"{MCP_SERVERS}/wiki", {}).headers["allow"] == "GET, HEAD, PATCH, DELETE"
    assert lab.ask("POST", f"{MCP_SERVERS}/x/reset").status == 404


def test_secrets_are_shown_nowhere(lab: Lab, tmp_path: Path) -> None:
    """Whatever is done with them, they are in no answer, no log, no audit and no file."""
    with structlog.testing.capture_logs() as logs:
        answers = [
            lab.ask(method, path, body)
            for method, path, body in (
                ("POST", MCP_SERVERS, NEW),
                ("POST", MCP_SERVERS, NEW),
                ("POST", MCP_SERVERS, NEW | {"url": f"https://{SECRET}@h"}),
                ("POST", MCP_SERVERS, NEW | {SECRET: SECRET}),
                ("POST", MCP_SERVERS, NEW | {"headers": {"X-A": f"{SECRET}\n"}}),
                ("PATCH", f"{MCP_SERVERS}/wiki", {"headers": {"X-Key": SECRET}}),
                ("PATCH", f"{MCP_SERVERS}/wiki", {"url": f"https://h/?{SECRET}"}),
                ("GET", MCP_SERVERS, b""),
                ("GET", "/-/readyz", b""),
            )
        ]
    assert {answer.status for answer in answers} == {200, 201, 400, 409, 503}
    seen = b"".join(msgspec.json.encode(answer.headers) + answer.body for answer in answers) + repr(logs).encode()
    seen += b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert SECRET[8:-4].encode() not in seen


def test_the_whole_way_through_a_gateway(tmp_path: Path) -> None:
    """A server that is added while the gateway runs is in the next request; disabled or deleted, it is gone."""
    admin = {"authorization": f"Bearer {gateways.make_key(tmp_path, 'root', is_admin=True)}"}
    path = "/anthropic/v1/messages"
    with McpServer() as server, running() as provider:
        gateways.write_config(tmp_path, provider.url)
        with gateways.running(tmp_path) as gateway:

            def offered() -> list[str]:
                assert gateway.ask(path, gateways.BODIES[path]).status == 200
                sent = json.loads(provider.requests[-1].body)
                return [tool["name"] for tool in sent.get("tools", ())]

            def change(method: str, place: str = "/lab", body: Any = None) -> gateways.Answer:
                answer = gateway.ask(MCP_SERVERS + place, body, method=method, headers=admin)
                assert answer.headers[APPLIED.lower()] == "true"
                return answer

            assert offered() == []
            new = {"name": "lab", "url": server.url, "headers": {"X-Team": SECRET}, "allow": "^(add|whoami)$"}
            assert change("POST", "", new).status == 201
            assert offered() == ["bmcp_lab_add", "bmcp_lab_whoami"]
            (first, *_) = server.ask("/seen")
            assert first["headers"]["x-team"] == SECRET
            assert change("PATCH", body={"deny": "who"}).json["deny"] == "who"
            assert offered() == ["bmcp_lab_add"]
            assert change("PATCH", body={"enabled": False}).json["status"] == "disabled"
            assert offered() == []
            change("PATCH", body={"enabled": True})
            assert offered() == ["bmcp_lab_add"]
            assert change("DELETE").status == 204
            assert offered() == []
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file
