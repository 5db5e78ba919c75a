"""The parent's answers to administrators."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import structlog

from bridgeserver.admin import APPLIED, Admin
from bridgeserver.api.routes import PROVIDERS
from bridgeserver.asks import MAX_BODY_BYTES, Answer, Ask
from bridgeserver.sealing import Vault
from bridgeserver.status import ProviderStatus, ReloadStatus, ShippingStatus, WorkerStatus
from bridgeserver.store import open_store

ACTOR = "user alice, key k1"
SECRET, OTHER_SECRET = "sk-ant-0123456789-secret-of-the-provider", "sk-ant-9876543210-another-secret"
NEW = {
    "type": "anthropic",
    "name": "team",
    "display_name": "Team",
    "base_url": "https://api.example.com",
    "api_keys": [SECRET],
}
FILE = {"from-file": "https://file.example.com"}


class FakeReloader:
    """Takes over what the store holds, as soon as it is told to."""

    def __init__(self, store: Any) -> None:
        self.file_names = frozenset(FILE)
        self.file_servers: dict[str, str] = {}
        self.number = 1
        self.workers: tuple[WorkerStatus, ...] = (WorkerStatus(4711, 1, ready=True, reason=""),)
        self.is_stuck = False
        self.error: Exception | None = None
        self.waited: list[float] = []
        self._store = store
        self._providers: tuple[ProviderStatus, ...] = ()
        self._load()

    def apply(self, timeout_s: float) -> bool:
        self.waited.append(timeout_s)
        if self.error is not None:
            raise self.error
        if not self.is_stuck:
            self._load()
            self.number += 1
        return not self.is_stuck

    def status(self) -> ReloadStatus:
        return ReloadStatus(
            number=self.number,
            published_at=1_764_000_000.5,
            last_reload_at=1_764_000_001.0,
            last_success_at=None,
            last_error="providers[0].base_url: found nonsense" if self.is_stuck else None,
            restart_needed=("server",),
            store_error=None,
            providers=self._providers,
            workers=self.workers,
        )

    def _load(self) -> None:
        overrides = self._store.provider_overrides()
        stored = self._store.list_providers()
        found = {
            name: provider_status(name, FILE[name], is_enabled=overrides.get(name, True), source="file", keys=1)
            for name in self.file_names
        }
        for provider in stored:
            found[provider.name] = provider_status(
                provider.name,
                provider.base_url,
                is_enabled=provider.enabled,
                source="store",
                keys=len(provider.api_keys),
            )
        self._providers = tuple(found.values())


def provider_status(name: str, url: str, *, is_enabled: bool, source: Any, keys: int) -> ProviderStatus:
    """Return the status of a provider that could be built."""
    return ProviderStatus(name, "anthropic", "enabled" if is_enabled else "disabled", "", source, url, keys)


class Lab(NamedTuple):
    """An admin, and what it works with."""

    admin: Admin
    store: Any
    state: FakeReloader

    def ask(self, method: str, path: str, body: Any = b"", query: str = "") -> Answer:
        """Ask as an administrator."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.admin.answer(Ask(method, path, query, data, ACTOR, is_admin=True))

    def create(self, **members: Any) -> dict[str, Any]:
        """Create a provider."""
        answer = self.ask("POST", PROVIDERS, NEW | members)
        assert answer.status == 201, answer.body
        return read(answer)

    def names(self) -> list[str]:
        """Return the names of all providers, as they are listed."""
        return [provider["name"] for provider in read(self.ask("GET", PROVIDERS))["providers"]]


def read(answer: Answer) -> dict[str, Any]:
    """Return the object that an answer holds."""
    assert answer.content_type == "application/json"
    value: dict[str, Any] = json.loads(answer.body)
    assert type(value) is dict
    return value


def error(answer: Answer) -> tuple[int, str, str]:
    """Return status, type and message of a refusal."""
    found = read(answer)
    assert list(found) == ["error"]
    assert sorted(found["error"]) == ["message", "type"]
    return answer.status, found["error"]["type"], found["error"]["message"]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """An admin over an empty store."""
    store = open_store(f"sqlite:///{tmp_path}/a.db")
    store.upgrade()
    state = FakeReloader(store)
    vault = Vault([bytes(range(32))])
    shipping = ShippingStatus(lag_s=1.5, records=7)
    yield Lab(Admin(store, vault, state, lambda: Counter(pool_hits=41), lambda: shipping), store, state)
    store.close()


def break_store(lab: Lab) -> None:
    """Make every use of the store fail."""
    with closing(sqlite3.connect(lab.store.path)) as connection:
        for table in ("provider_overrides", "provider_keys", "providers"):
            connection.execute(f"DROP TABLE {table}")
        connection.commit()


def audit(lab: Lab) -> list[tuple[str, str]]:
    """Return what was audited: actor and action."""
    with closing(sqlite3.connect(lab.store.path)) as connection:
        return connection.execute("SELECT actor, action FROM audit ORDER BY rowid").fetchall()


def test_the_list_holds_both_sources(lab: Lab) -> None:
    """Providers of the file and of the store are listed by name, each with its source and status."""
    lab.create()
    listed = {provider["name"]: provider for provider in read(lab.ask("GET", PROVIDERS))["providers"]}
    assert list(listed) == ["from-file", "team"]
    shown = {name: (view["source"], view["status"], view["override"]) for name, view in listed.items()}
    assert shown == {"from-file": ("file", "enabled", None), "team": ("store", "enabled", None)}
    assert listed["from-file"]["id"] is None
    assert listed["from-file"]["key_count"] == listed["team"]["key_count"] == 1
    assert listed["from-file"].keys() == listed["team"].keys()


def test_create_answers_with_the_provider(lab: Lab) -> None:
    """The answer is 201, says where the provider is, and shows it as it is in force."""
    answer = lab.ask("POST", PROVIDERS, NEW)
    made = read(answer)
    assert answer.status == 201
    assert answer.headers == {APPLIED: "true", "location": f"{PROVIDERS}/team"}
    assert {name: made[name] for name in ("type", "name", "display_name", "base_url")} == {
        name: NEW[name] for name in ("type", "name", "display_name", "base_url")
    }
    assert (made["enabled"], made["source"], made["status"]) == (True, "store", "enabled")
    assert read(lab.ask("GET", f"{PROVIDERS}/{made['id']}")) == made
    assert read(lab.ask("GET", f"{PROVIDERS}/team")) == made


def test_a_change_waits_until_it_is_in_force(lab: Lab) -> None:
    """Every change is followed by one reload, and reading is not."""
    lab.create()
    lab.ask("PATCH", f"{PROVIDERS}/team", {"enabled": False})
    lab.ask("PATCH", f"{PROVIDERS}/from-file", {"enabled": False})
    lab.ask("POST", f"{PROVIDERS}/from-file/reset")
    lab.ask("DELETE", f"{PROVIDERS}/team")
    assert lab.state.waited == [1.0] * 5
    for path in (PROVIDERS, f"{PROVIDERS}/from-file", "/-/readyz", "/-/metrics"):
        lab.ask("GET", path)
    lab.ask("POST", PROVIDERS, b"{")
    assert len(lab.state.waited) == 5


def test_a_change_that_takes_long_is_a_success_all_the_same(lab: Lab) -> None:
    """It is stored; a header says that some worker has yet to follow, and the provider why it is not in force."""
    lab.state.is_stuck = True
    answer = lab.ask("POST", PROVIDERS, NEW)
    assert (answer.status, answer.headers[APPLIED]) == (201, "false")
    assert (read(answer)["status"], read(answer)["status_reason"]) == ("error", "providers[0].base_url: found nonsense")
    answer = lab.ask("DELETE", f"{PROVIDERS}/team")
    assert (answer.status, answer.body, answer.headers[APPLIED]) == (204, b"", "false")


def test_a_reload_that_fails_does_not_fail_the_change(lab: Lab) -> None:
    """A client that was told of a failure would make its change twice."""
    lab.state.error = RuntimeError("a defect")
    with structlog.testing.capture_logs() as logs:
        answer = lab.ask("POST", PROVIDERS, NEW)
    assert (answer.status, answer.headers[APPLIED]) == (201, "false")
    assert [entry["event"] for entry in logs] == ["change_not_applied"]


def test_a_patch_changes_what_it_names(lab: Lab) -> None:
    """What is omitted stays as it is."""
    made = lab.create()
    answer = lab.ask("PATCH", f"{PROVIDERS}/{made['id']}", {"display_name": "Better", "enabled": False})
    assert (answer.status, answer.headers) == (200, {APPLIED: "true"})
    changed = read(answer)
    different = {name for name, value in changed.items() if value != made[name]}
    assert different - {"updated_at"} == {"display_name", "enabled", "status"}
    assert (changed["display_name"], changed["enabled"], changed["status"]) == ("Better", False, "disabled")


def test_the_keys_of_a_patch_are_all_that_is_left(lab: Lab) -> None:
    """A kept key is named by its id, a new one given; the others are deleted, an empty list deletes all."""
    made = lab.create(api_keys=[SECRET, OTHER_SECRET])
    first, second = made["api_keys"]
    path = f"{PROVIDERS}/team"
    keys = read(lab.ask("PATCH", path, {"icon": ""}))["api_keys"]
    assert keys == [first, second]
    keys = read(lab.ask("PATCH", path, {"api_keys": [{"api_key": "sk-brand-new-one-000"}, {"id": second["id"]}]}))[
        "api_keys"
    ]
    assert keys[1] == second
    assert keys[0]["id"] not in {first["id"], second["id"]}
    changed = read(lab.ask("PATCH", path, {"api_keys": []}))
    assert (changed["api_keys"], changed["key_count"]) == ([], 0)


@pytest.mark.parametrize(
    "keys",
    [
        [{"id": "ID", "api_key": "sk-both-are-given-00"}],
        [{}],
        [{"id": "ID"}, {"id": "ID"}],
        [{"id": "nobody"}],
        [{"api_key": ""}],
        [{"api_key": " sk-with-a-space "}],
        [{"api_key": 1}],
        ["sk-a-bare-text-000000"],
        "sk-no-list-at-all-000",
        [{"api_key": f"sk-too-many-{n:08}"} for n in range(6)],
        [{"api_key": "sk-x", "more": 1}],
    ],
)
def test_wrong_keys_change_nothing(lab: Lab, keys: Any) -> None:
    """Each key is exactly one of kept and new; a mistake leaves all as they were."""
    made = lab.create()
    if isinstance(keys, list):
        text = json.dumps(keys).replace('"ID"', f'"{made["api_keys"][0]["id"]}"')
        keys = json.loads(text)
    status, kind, message = error(lab.ask("PATCH", f"{PROVIDERS}/team", {"display_name": "x", "api_keys": keys}))
    assert (status, kind) == (400, "bad_request")
    assert "sk-" not in message
    assert read(lab.ask("GET", f"{PROVIDERS}/team")) == made


def test_settings_are_changed_one_by_one(lab: Lab) -> None:
    """A setting that is omitted stays; values of headers and parameters are only ever shown masked."""
    path = f"{PROVIDERS}/team"
    made = lab.create(settings={"auth": "bearer", "extra_headers": {"x-team": "a-secret-of-the-proxy-0"}})
    assert made["settings"]["auth"] == "bearer"
    assert made["settings"]["extra_headers"] == {"x-team": "a-se...xy-0"}
    changed = read(lab.ask("PATCH", path, {"settings": {"shared_state": True}}))
    assert changed["settings"] == made["settings"] | {"shared_state": True}
    wrong: list[Any] = [
        {"aut": "bearer"},
        {"auth": "nonsense"},
        {"extra_headers": {"host": "x"}},
        {"query": 1},
        None,
        [],
        "x",
    ]
    for settings in wrong:
        status, kind, _ = error(lab.ask("PATCH", path, {"settings": settings}))
        assert (status, kind) == (400, "bad_request")
    assert read(lab.ask("GET", path)) == changed
    message = error(lab.ask("PATCH", path, {"settings": {"aut": "bearer"}}))[2]
    assert message == "body: settings: aut: found an unknown name, expected auth (the nearest name)"


def test_changes_are_audited(lab: Lab) -> None:
    """The audit names the administrator and the key that was used."""
    lab.create()
    lab.ask("PATCH", f"{PROVIDERS}/team", {"enabled": False})
    lab.ask("PATCH", f"{PROVIDERS}/from-file", {"enabled": False})
    lab.ask("POST", f"{PROVIDERS}/from-file/reset")
    lab.ask("DELETE", f"{PROVIDERS}/team")
    assert {actor for actor, _ in audit(lab)} == {ACTOR}
    assert len(audit(lab)) == 5


def test_a_deleted_provider_is_gone_and_its_name_is_free(lab: Lab) -> None:
    """The answer is 204 without a body; the same name makes another provider."""
    made = lab.create()
    answer = lab.ask("DELETE", f"{PROVIDERS}/{made['id']}")
    assert (answer.status, answer.body, answer.headers) == (204, b"", {APPLIED: "true"})
    assert lab.names() == ["from-file"]
    for place in ("team", made["id"]):
        assert error(lab.ask("DELETE", f"{PROVIDERS}/{place}"))[:2] == (404, "not_found")
    assert lab.create()["id"] != made["id"]


def test_a_name_is_taken_once(lab: Lab) -> None:
    """A new provider does not get the name of another one in the store."""
    lab.create()
    status, kind, message = error(lab.ask("POST", PROVIDERS, NEW))
    assert (status, kind) == (409, "conflict")
    assert "team" in message


@pytest.mark.parametrize("name", ["team", "from-file"])
@pytest.mark.parametrize(("member", "value"), [("name", "other"), ("type", "openai")])
def test_name_and_type_are_for_good(lab: Lab, name: str, member: str, value: str) -> None:
    """Records name them; to send them as they are is no mistake."""
    lab.create()
    status, kind, message = error(lab.ask("PATCH", f"{PROVIDERS}/{name}", {member: value, "enabled": False}))
    assert (status, kind) == (409, "conflict")
    assert message.startswith(f"{member}: ")
    before = read(lab.ask("GET", f"{PROVIDERS}/{name}"))
    assert before["enabled"]
    answer = lab.ask("PATCH", f"{PROVIDERS}/{name}", {"name": before["name"], "type": before["type"], "enabled": False})
    assert (answer.status, read(answer)["enabled"]) == (200, False)


def test_a_stored_provider_replaces_the_files(lab: Lab) -> None:
    """One of the same name is listed once, as the store's; when it is deleted the file's is back."""
    made = lab.create(name="from-file")
    assert made["source"] == "store"
    assert lab.names() == ["from-file"]
    lab.state.is_stuck = True
    assert lab.ask("DELETE", f"{PROVIDERS}/from-file").status == 204
    view = read(lab.ask("GET", f"{PROVIDERS}/from-file"))
    assert (view["source"], view["status"], view["status_reason"]) == (
        "file",
        "error",
        "the workers do not have it yet",
    )
    lab.state.is_stuck = False
    lab.state.apply(1)
    view = read(lab.ask("GET", f"{PROVIDERS}/from-file"))
    assert (view["source"], view["status"], view["base_url"]) == ("file", "enabled", FILE["from-file"])


def test_a_files_provider_is_switched_by_an_override(lab: Lab) -> None:
    """It is listed as such, and ended by `reset`, which does nothing where there is none."""
    path = f"{PROVIDERS}/from-file"
    for enabled, status in ((False, "disabled"), (True, "enabled"), (False, "disabled")):
        answer = lab.ask("PATCH", path, {"enabled": enabled})
        assert (answer.status, answer.headers) == (200, {APPLIED: "true"})
        view = read(answer)
        assert (view["override"], view["enabled"], view["status"], view["source"]) == (enabled, enabled, status, "file")
    for _ in range(2):
        answer = lab.ask("POST", f"{path}/reset")
        assert answer.status == 200
        view = read(answer)
        assert (view["override"], view["enabled"], view["status"]) == (None, True, "enabled")


@pytest.mark.parametrize(
    "changes",
    [
        {"base_url": "https://other.example"},
        {"enabled": False, "display_name": "x"},
        {"api_keys": []},
        {"settings": {}},
    ],
)
def test_a_files_provider_is_changed_in_the_file(lab: Lab, changes: dict[str, Any]) -> None:
    """Anything but the switch is refused whole, with what to do instead."""
    before = read(lab.ask("GET", f"{PROVIDERS}/from-file"))
    status, kind, message = error(lab.ask("PATCH", f"{PROVIDERS}/from-file", changes))
    assert (status, kind) == (409, "conflict")
    assert "change the file and reload" in message
    assert read(lab.ask("GET", f"{PROVIDERS}/from-file")) == before


def test_a_files_provider_is_not_deleted(lab: Lab) -> None:
    """The refusal says what to do instead."""
    status, kind, message = error(lab.ask("DELETE", f"{PROVIDERS}/from-file"))
    assert (status, kind) == (409, "conflict")
    assert "remove it there" in message


def test_a_patch_of_nothing_changes_nothing(lab: Lab) -> None:
    """It is no mistake, for either source."""
    made = lab.create()
    for name in ("team", "from-file"):
        before = read(lab.ask("GET", f"{PROVIDERS}/{name}"))
        answer = lab.ask("PATCH", f"{PROVIDERS}/{name}", {})
        assert answer.status == 200
        assert read(answer) | {"updated_at": None} == before | {"updated_at": None}
    assert made["name"] == "team"


def test_only_a_files_provider_is_reset(lab: Lab) -> None:
    """A stored one has no override, and an unknown name is 404."""
    lab.create()
    assert error(lab.ask("POST", f"{PROVIDERS}/team/reset"))[:2] == (409, "conflict")
    assert error(lab.ask("POST", f"{PROVIDERS}/nobody/reset"))[:2] == (404, "not_found")


def test_an_override_may_outlive_its_provider(lab: Lab) -> None:
    """It can be reset when the file names the provider no longer; nothing is left to be shown then."""
    lab.ask("PATCH", f"{PROVIDERS}/from-file", {"enabled": False})
    lab.state.file_names = frozenset()
    lab.state.apply(1)
    answer = lab.ask("POST", f"{PROVIDERS}/from-file/reset")
    assert (answer.status, answer.body) == (204, b"")
    assert error(lab.ask("POST", f"{PROVIDERS}/from-file/reset"))[0] == 404


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"name":"x"', b"nonsense", b"\xff\xfe", b'{"a":1}{}', b"NaN", b'"\\ud800"', b"[" * 200_000, b"\0"],
    ids=range(10),
)
@pytest.mark.parametrize(("method", "path"), [("POST", PROVIDERS), ("PATCH", f"{PROVIDERS}/from-file")])
def test_broken_json_is_400(lab: Lab, method: str, path: str, body: bytes) -> None:
    """The refusal says that an object is expected, and shows nothing of the body."""
    status, kind, message = error(lab.ask(method, path, body))
    assert (status, kind) == (400, "bad_request")
    assert len(message) < 200


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"sk-text"', b"true", b"[{}]"])
def test_a_body_that_is_no_object_is_400(lab: Lab, body: bytes) -> None:
    """The refusal says what was found."""
    status, kind, message = error(lab.ask("POST", PROVIDERS, body))
    assert (status, kind) == (400, "bad_request")
    assert "expected an object" in message
    assert "sk-" not in message


@pytest.mark.parametrize(
    "members",
    [
        {"name": 1},
        {"name": None},
        {"name": ""},
        {"name": "Upper"},
        {"name": "a--b"},
        {"name": "a/b"},
        {"name": ".."},
        {"type": "nonsense"},
        {"type": None},
        {"base_url": ""},
        {"base_url": "ftp://x"},
        {"base_url": "not a url"},
        {"base_url": "https://user:pw@x"},
        {"base_url": "http://169.254.169.254/"},
        {"enabled": "yes"},
        {"enabled": 1},
        {"api_keys": "sk-text"},
        {"api_keys": [1]},
        {"api_keys": [""]},
        {"api_keys": ["sk-with a space"]},
        {"api_keys": ["sk-with-a-newline\n"]},
        {"api_keys": [f"sk-too-many-{n:08}" for n in range(6)]},
        {"settings": "text"},
        {"display_name": 5},
    ],
)
def test_wrong_values_are_400(lab: Lab, members: dict[str, Any]) -> None:
    """Nothing is stored, and the refusal names the member and never shows a key."""
    status, kind, message = error(lab.ask("POST", PROVIDERS, NEW | members))
    assert (status, kind) == (400, "bad_request")
    assert next(iter(members)).removeprefix("api_") in message
    assert "sk-" not in message
    assert "pw" not in message
    assert lab.names() == ["from-file"]


@pytest.mark.parametrize("missing", ["name", "type"])
def test_a_missing_member_is_400(lab: Lab, missing: str) -> None:
    """The refusal names it."""
    body = {name: value for name, value in NEW.items() if name != missing}
    status, _, message = error(lab.ask("POST", PROVIDERS, body))
    assert status == 400
    assert missing in message


@pytest.mark.parametrize(
    ("member", "nearest"),
    [("base_ur", "base_url"), ("Enabled", "enabled"), ("api_key", "api_keys"), ("displayname", "display_name")],
)
def test_an_unknown_member_is_refused(lab: Lab, member: str, nearest: str) -> None:
    """The refusal names it and the nearest one that there is."""
    for method, path, body in (("POST", PROVIDERS, NEW), ("PATCH", f"{PROVIDERS}/from-file", {})):
        status, kind, message = error(lab.ask(method, path, body | {member: "x"}))
        assert (status, kind) == (400, "bad_request")
        assert f"body: {member}: found an unknown name, expected {nearest} (the nearest name)" in message


@pytest.mark.parametrize("name", [SECRET, "x" * 500_000, "", "\n", "é"])
def test_a_strange_member_is_not_echoed(lab: Lab, name: str) -> None:
    """A key or a book in the place of a name stays out of the answer."""
    status, _, message = error(lab.ask("POST", PROVIDERS, NEW | {name: "x"}))
    assert status == 400
    assert len(message) < 300
    assert SECRET not in message


def test_a_body_over_one_mib_is_refused(lab: Lab) -> None:
    """The parent does not rely on the worker for that."""
    body = json.dumps(NEW | {"display_name": "x" * (2 << 20)}).encode()
    assert error(lab.ask("POST", PROVIDERS, body))[:2] == (413, "too_large")
    assert len(body) > MAX_BODY_BYTES
    assert lab.names() == ["from-file"]


@pytest.mark.parametrize(
    "path",
    [
        "/-/nothing",
        "/-/healthz",
        "/-/readyz/",
        "/-/api/v1",
        "/-/api/v2/providers",
        f"{PROVIDERS}/",
        f"{PROVIDERS}//",
        f"{PROVIDERS}/%2e%2e",
        f"{PROVIDERS}/..",
        f"{PROVIDERS}/../readyz",
        f"{PROVIDERS}/%66rom-file",
        f"{PROVIDERS}/from-file/",
        f"{PROVIDERS}/from-file\n",
        f"{PROVIDERS}/from-file%00",
        f"{PROVIDERS}/from-file;x",
        f"{PROVIDERS}/FROM-FILE",
        f"{PROVIDERS}/from_file",
        f"{PROVIDERS}/'or'1",
        f"{PROVIDERS}/" + "a" * 129,
        f"{PROVIDERS}/" + "a" * 100_000,
        f"{PROVIDERS}/from-file/nothing",
        f"{PROVIDERS}//reset",
        "",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE", "POST"])
def test_strange_paths_are_404(lab: Lab, method: str, path: str) -> None:
    """Nothing is decoded and nothing is normalised, so each place has one spelling."""
    if (method, path) == ("POST", f"{PROVIDERS}/FROM-FILE"):
        path += "/reset"
    answer = lab.ask(method, path, {"enabled": False})
    if answer.status == 405:  # a name that could be one, with a method for another place
        assert (method, path) in {("POST", f"{PROVIDERS}/FROM-FILE"), ("POST", f"{PROVIDERS}/from_file")}
    else:
        assert error(answer)[:2] == (404, "not_found")
    assert read(lab.ask("GET", f"{PROVIDERS}/from-file"))["enabled"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/-/readyz", "GET, HEAD"),
        ("POST", "/-/metrics", "GET, HEAD"),
        ("DELETE", PROVIDERS, "GET, HEAD, POST"),
        ("PUT", f"{PROVIDERS}/team", "GET, HEAD, PATCH, DELETE"),
        ("POST", f"{PROVIDERS}/team", "GET, HEAD, PATCH, DELETE"),
        ("GET", f"{PROVIDERS}/team/reset", "POST"),
        ("TRACE", PROVIDERS, "GET, HEAD, POST"),
        ("get", PROVIDERS, "GET, HEAD, POST"),
    ],
)
def test_a_wrong_method_is_405(lab: Lab, method: str, path: str, allowed: str) -> None:
    """The refusal says which ones there are."""
    answer = lab.ask(method, path)
    assert error(answer)[:2] == (405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


def test_the_query_is_ignored(lab: Lab) -> None:
    """No route has parameters, and none is mistaken for one."""
    for query in ("", "x=1", "name=team&enabled=false", "%00", "é"):
        assert lab.ask("GET", f"{PROVIDERS}/from-file", query=query).status == 200


def test_the_detail_of_readiness(lab: Lab) -> None:
    """It holds what an operator asks first, with times as ISO 8601."""
    lab.create(enabled=False)
    answer = lab.ask("GET", "/-/readyz")
    detail = read(answer)
    assert answer.status == 200
    assert {name: value for name, value in detail.items() if name not in {"providers", "workers", "shipping"}} == {
        "ready": True,
        "generation": 2,
        "published": "2025-11-24T16:00:00.500000Z",
        "last_reload": "2025-11-24T16:00:01.000000Z",
        "last_success": None,
        "last_error": None,
        "restart_needed": ["server"],
        "store_error": None,
        "mcp_servers": [],
    }
    assert detail["shipping"] == msgspec.to_builtins(ShippingStatus(lag_s=1.5, records=7))
    assert detail["workers"] == [{"pid": 4711, "generation": 1, "ready": True, "reason": ""}]
    assert {provider["name"]: provider["status"] for provider in detail["providers"]} == {
        "from-file": "enabled",
        "team": "disabled",
    }


@pytest.mark.parametrize("workers", [(), (True, False), (False,)])
def test_a_gateway_with_an_unready_worker_is_unready(lab: Lab, workers: tuple[bool, ...]) -> None:
    """A request may meet any of the workers; without one there is nobody to be met."""
    lab.state.workers = tuple(WorkerStatus(n, 1, is_ready, "") for n, is_ready in enumerate(workers))
    answer = lab.ask("GET", "/-/readyz")
    assert (answer.status, read(answer)["ready"]) == (503, False)


def test_the_metrics(lab: Lab) -> None:
    """They show the state and the counters of this moment."""
    lab.create()
    answer = lab.ask("GET", "/-/metrics")
    assert (answer.status, answer.content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    text = answer.body.decode()
    assert "bridgecore_generation 2.0\n" in text
    assert 'bridgecore_provider_info{provider_name="team",provider_type="anthropic",status="enabled"} 1.0\n' in text
    assert "bridgecore_pool_hits_total 41.0\n" in text


def test_a_name_beats_an_id(lab: Lab) -> None:
    """An id is a legal name; whoever has it as a name is meant."""
    first = lab.create()
    second = lab.create(name=first["id"])
    assert read(lab.ask("GET", f"{PROVIDERS}/{first['id']}"))["id"] == second["id"]
    assert lab.ask("PATCH", f"{PROVIDERS}/team", {"icon": "x"}).status == 200
    assert lab.ask("DELETE", f"{PROVIDERS}/team").status == 204
    assert lab.names() == [first["id"], "from-file"]


def test_a_store_that_fails_is_unavailable(lab: Lab) -> None:
    """Each route that needs it answers 503; readiness and metrics, by which one would look, do not need it."""
    lab.create()
    break_store(lab)
    for method, path in (
        ("GET", PROVIDERS),
        ("GET", f"{PROVIDERS}/team"),
        ("POST", PROVIDERS),
        ("PATCH", f"{PROVIDERS}/team"),
        ("DELETE", f"{PROVIDERS}/team"),
        ("POST", f"{PROVIDERS}/team/reset"),
    ):
        answer = lab.ask(method, path, NEW if method == "POST" else {"enabled": False})
        assert error(answer)[:2] == (503, "unavailable")
        assert answer.headers["retry-after"] == "5"
    assert lab.ask("GET", "/-/readyz").status == 200
    assert lab.ask("GET", "/-/metrics").status == 200


def test_a_defect_is_a_500_that_shows_nothing(lab: Lab) -> None:
    """`answer` never raises, and the reason stands in the log alone."""
    lab.state.status = lambda: 1 / 0  # type: ignore[assignment, return-value]
    with structlog.testing.capture_logs() as logs:
        status, kind, message = error(lab.ask("GET", "/-/readyz"))
    assert (status, kind) == (500, "server_error")
    assert "zero" not in message
    assert [entry["event"] for entry in logs] == ["administration_failed"]


def test_a_provider_key_is_shown_nowhere(lab: Lab, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever is done with it, a key is in no answer, no error, no log, no audit and no file."""
    answers: list[Answer] = []
    with structlog.testing.capture_logs() as logs:
        for method, path, body in (
            ("POST", PROVIDERS, NEW),
            ("POST", PROVIDERS, NEW),
            ("POST", PROVIDERS, NEW | {"settings": {"extra_headers": {"x-team": SECRET}}, "name": "x"}),
            ("PATCH", f"{PROVIDERS}/x", {"settings": {"query": {"key": OTHER_SECRET}}}),
            ("PATCH", f"{PROVIDERS}/x", {"settings": {"extra_headers": {"x-team": f"{SECRET}\n"}}}),
            ("POST", PROVIDERS, NEW | {"base_url": f"https://{SECRET}@x", "name": "y"}),
            ("POST", PROVIDERS, NEW | {"api_keys": f"{SECRET} ", "name": "x"}),
            ("POST", PROVIDERS, NEW | {"api_keys": [f"{SECRET} "], "name": "x"}),
            ("POST", PROVIDERS, NEW | {"api_keys": {SECRET: SECRET}, "name": "x"}),
            ("POST", PROVIDERS, NEW | {SECRET: SECRET}),
            ("POST", PROVIDERS, json.dumps(NEW).encode()[:-1]),
            ("PATCH", f"{PROVIDERS}/team", {"api_keys": [{"api_key": SECRET}, {"api_key": OTHER_SECRET}]}),
            ("PATCH", f"{PROVIDERS}/team", {"api_keys": [{"api_key": SECRET}, {"id": SECRET}]}),
            ("PATCH", f"{PROVIDERS}/team", {"api_keys": [{SECRET: SECRET}]}),
            ("PATCH", f"{PROVIDERS}/from-file", {"api_keys": [{"api_key": SECRET}]}),
            ("GET", PROVIDERS, b""),
            ("GET", f"{PROVIDERS}/team", b""),
            ("GET", "/-/readyz", b""),
            ("GET", "/-/metrics", b""),
        ):
            answers.append(lab.ask(method, path, body))
    assert {answer.status for answer in answers} == {200, 201, 400, 409}
    seen = b"".join(msgspec.json.encode(answer.headers) + answer.body for answer in answers) + repr(logs).encode()
    output = capfd.readouterr()
    seen += (output.out + output.err).encode() + b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for secret in (SECRET, OTHER_SECRET):
        assert secret.encode() not in seen
        assert secret[8:-8].encode() not in seen
    listed = read(lab.ask("GET", f"{PROVIDERS}/team"))["api_keys"]
    assert [sorted(key) for key in listed] == [["created_at", "id", "masked"]] * 2
