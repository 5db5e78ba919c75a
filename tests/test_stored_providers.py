"""Providers of the store: made, changed, loaded and merged; what is wrong with a row or a request."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from alembic import command
from alembic.config import Config as AlembicConfig
from sqlalchemy import Connection

import samples
from bridgeserver.config import ProviderConfig
from bridgeserver.errors import Conflict, InvalidMembers, NotFound
from bridgeserver.merging import merge
from bridgeserver.records import AnyRecord, Interception, ModelThought, UserPrompt
from bridgeserver.sealing import Vault
from bridgeserver.secret import Secret
from bridgeserver.store import Store, open_store
from bridgeserver.store.schema import metadata
from bridgeserver.store.stored import (
    GivenSettings,
    KeyChange,
    LoadedProviders,
    ProviderChanges,
    ProviderError,
    ProviderFields,
)
from bridgeserver.store.upgrades import MIGRATIONS

FIRST, SECOND, THIRD = (f"sk-{word}-0123456789abcdef" for word in ("first", "second", "third"))
VAULT, OTHER = Vault([bytes(32)]), Vault([b"x" * 32])


@pytest.fixture
def store(empty_store: Store) -> Store:
    """An empty store of either engine."""
    return empty_store


def fields(name: str = "main", **members: Any) -> ProviderFields:
    """Return a provider to make, with two keys and a header."""
    members = {"type": "openai", "keys": (Secret(FIRST), Secret(SECOND))} | members
    return ProviderFields(name=name, **members)


def make(store: Store, name: str = "main", **members: Any) -> str:
    """Store such a provider and return its id."""
    return store.create_provider(VAULT, fields(name, **members), "tester").id


def change(store: Store, **changes: Any) -> None:
    """Change the provider `main`."""
    store.update_provider(VAULT, "main", ProviderChanges(**changes), "tester")


def configured(name: str = "main", **members: Any) -> ProviderConfig:
    """Return a provider of the file."""
    members = {"type": "anthropic", "base_url": "https://file.test", "auth": "bearer"} | members
    return ProviderConfig(name=name, **members)


def test_a_provider_is_stored_whole(store: Store) -> None:
    """It loads as it was made, with the defaults that the file's provider would have."""
    make(store, extra_headers={"x-team": "a-header-secret"}, query={"k": "a-query-secret"})
    loaded = store.load_providers(VAULT)
    assert loaded == LoadedProviders(
        revision=1,
        providers=(
            ProviderConfig(
                name="main",
                type="openai",
                base_url="https://api.openai.com/v1",
                keys=(Secret(FIRST), Secret(SECOND)),
                auth="bearer",
                extra_headers={"x-team": "a-header-secret"},
                query={"k": "a-query-secret"},
            ),
        ),
    )


def test_every_option_can_be_stored() -> None:
    """What the file can say of a provider can be given and changed, with the same names."""
    places = {"name", "type", "base_url", "keys", "enabled"}
    assert {*GivenSettings.__struct_fields__} | places == {*ProviderConfig.__struct_fields__}


def test_a_list_and_the_files_show_no_secret(store: Store, tmp_path: Path) -> None:
    """What is listed is masked, and neither the database nor the audit holds a secret in clear."""
    make(store, extra_headers={"x-team": "a-header-secret"}, query={"k": "a-query-secret"}, display_name="Main")
    (shown,) = store.list_providers()
    assert shown == store.get_provider(shown.id) == store.get_provider("main")
    assert [key.masked for key in shown.api_keys] == ["sk-f...cdef", "sk-s...cdef"]
    assert shown.settings == {
        "auth": "bearer",
        "shared_state": False,
        "allow_link_local": False,
        "actor_headers": False,
        "dumps": False,
        "breaker_failures": 0,
        "breaker_interval_s": 10.0,
        "breaker_timeout_s": 30.0,
        "breaker_probes": 3,
        "region": "",
        "bedrock_api": "invoke",
        "model": "global.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "small_fast_model": "global.anthropic.claude-haiku-4-5-20251001-v1:0",
        "aws_profile": "",
        "aws_role": "",
        "aws_external_id": "",
        "extra_headers": {"x-team": "a-...et"},
        "query": {"k": "a-...et"},
    }
    assert (shown.display_name, shown.created_at[-1]) == ("Main", "Z")
    for path in tmp_path.iterdir():
        for secret in (FIRST, SECOND, "a-header-secret", "a-query-secret"):
            assert secret.encode() not in path.read_bytes(), path


def test_every_change_is_numbered_and_audited(store: Store) -> None:
    """Each mutation advances the revision once and leaves one row; one that changes nothing leaves none."""
    make(store)
    for _ in range(2):
        change(store, enabled=False, base_url="http://10.0.0.1/v1", display_name="D")
        store.enable_provider("main", enabled=True, actor="tester", file_names=())
        store.enable_provider("main", enabled=True, actor="tester", file_names=())
    for _ in range(2):
        store.override_provider("filed", enabled=False, actor="tester")
    store.reset_provider("filed", "tester")
    store.delete_provider("main", "tester")
    actions = [row[0].removeprefix("provider.") for row in samples.query(store, "SELECT action FROM audit ORDER BY at")]
    assert actions == ["create", *(["update", "enable"] * 2), "override", "reset", "delete"]
    assert store.config_revision() == len(actions)


def test_a_change_that_says_what_is_there_changes_nothing(store: Store) -> None:
    """The same state again is not a new revision."""
    make(store, query={"k": "v"})
    ids = [key.id for key in store.get_provider("main").api_keys]
    change(store, query={"k": "v"}, auth="bearer", api_keys=tuple(KeyChange(id=key_id) for key_id in ids))
    assert store.config_revision() == 1


def test_a_change_keeps_what_it_does_not_name(store: Store) -> None:
    """Headers stay sealed as they were while another setting changes; a table is replaced whole."""
    make(store, extra_headers={"x-a": "1"}, query={"k": "v"})
    change(store, shared_state=True, query={})
    (found,) = store.load_providers(VAULT).providers
    assert (found.extra_headers, found.query, found.shared_state) == ({"x-a": "1"}, {}, True)
    assert found.keys == (Secret(FIRST), Secret(SECOND))


def test_keys_are_given_as_they_are_to_be(store: Store) -> None:
    """Kept and new keys stand in the order that was given; absent ones are gone; an empty list clears."""
    make(store)
    first, second = store.get_provider("main").api_keys
    change(store, api_keys=(KeyChange(id=second.id), KeyChange(api_key=Secret(THIRD)), KeyChange(id=first.id)))
    assert [key.reveal() for key in store.load_providers(VAULT).providers[0].keys] == [SECOND, THIRD, FIRST]
    change(store, api_keys=(KeyChange(id=first.id),))
    assert [key.id for key in store.get_provider("main").api_keys] == [first.id]
    change(store, api_keys=())
    assert samples.query(store, "SELECT * FROM provider_keys") == []


def test_a_key_that_cannot_be_opened_can_be_replaced(store: Store) -> None:
    """Whoever lost the sealing key sets the secrets again."""
    make(store)
    changes = ProviderChanges(api_keys=(KeyChange(api_key=Secret(THIRD)),))
    store.update_provider(OTHER, "main", changes, "tester")
    assert store.load_providers(OTHER).providers[0].keys == (Secret(THIRD),)


def test_a_deleted_provider_frees_its_name_and_keeps_no_secret(store: Store) -> None:
    """The row stays, its keys and settings do not; what was deleted cannot be found."""
    old = make(store, query={"k": "v"})
    store.delete_provider("main", "tester")
    assert samples.query(store, "SELECT settings FROM providers") == [("{}",)]
    assert samples.query(store, "SELECT * FROM provider_keys") == []
    for name in ("main", old):
        with pytest.raises(NotFound, match="there are: none"):
            store.get_provider(name)
    assert make(store) != old


def test_a_name_is_taken_once(store: Store) -> None:
    """A second provider of a name is a conflict, and leaves nothing."""
    make(store)
    with pytest.raises(Conflict, match="'main' already"):
        make(store)
    assert store.config_revision() == len(store.list_providers()) == 1


@pytest.mark.parametrize(
    ("members", "mistake"),
    [
        ({"name": "A B"}, 'providers."A B".name: found "A B", expected lower-case'),
        ({"name": ""}, 'providers."".name: found ""'),
        ({"type": "gemini"}, 'type: found "gemini", expected "anthropic", "openai", "copilot" or "bedrock"'),
        ({"base_url": "api.test"}, "base_url: found"),
        ({"base_url": "ftp://api.test"}, "base_url: found"),
        ({"base_url": "https://me:hunter2@h"}, "base_url: found"),
        ({"base_url": "http://169.254.169.254/"}, "no link-local or metadata address"),
        ({"auth": "basic"}, 'auth: found "basic"'),
        ({"extra_headers": {"authorization": "hunter2"}}, "extra_headers.authorization: found"),
        ({"extra_headers": {"x-a": " hunter2"}}, "extra_headers.x-a: found a value of type str"),
        ({"keys": (Secret(""),)}, "keys[0]: found a literal of 0 characters"),
        ({"keys": (Secret(" hunter2"),)}, "keys[0]: found a literal of 8 characters"),
        ({"keys": (Secret("hunter2\n"),)}, "keys[0]: found a literal of 8 characters"),
        (
            {"keys": (Secret("env:HOME"),)},
            "keys[0]: found a reference that begins with env:, expected the secret",
        ),
        ({"keys": (Secret("file:/etc/passwd"),)}, "keys[0]: found a reference that begins with file:"),
        ({"keys": tuple(Secret(f"hunter2-{n}") for n in range(6))}, "keys: found 6 keys, expected at most 5"),
        ({"keys": (Secret("hunter2"), Secret("hunter2"))}, "keys: found a key a second time"),
        ({"display_name": "a\x07"}, "display_name: found 2 characters, expected at most 128, all printable"),
        ({"icon": "x" * 1025}, "icon: found 1025 characters"),
    ],
)
def test_what_cannot_be_stored(store: Store, members: dict[str, Any], mistake: str) -> None:
    """A mistake names its place and what is expected, shows no secret, and nothing is stored."""
    with pytest.raises(InvalidMembers) as caught:
        make(store, **members)
    (found,) = caught.value.mistakes
    assert mistake in found
    assert "hunter2" not in found
    assert (store.config_revision(), store.list_providers()) == (0, [])


def test_all_mistakes_of_a_request_at_once(store: Store) -> None:
    """Nothing stops at the first mistake."""
    with pytest.raises(InvalidMembers) as caught:
        make(store, "A", type="x", base_url="x", auth="x", icon="\n", keys=(Secret(""),))
    assert len(caught.value.mistakes) == 6


def test_link_local_can_be_allowed(store: Store) -> None:
    """The switch holds for later changes of the URL, and cannot be taken back while it is needed."""
    make(store, base_url="http://169.254.1.1", allow_link_local=True)
    change(store, base_url="http://169.254.1.2")
    with pytest.raises(InvalidMembers, match="link-local"):
        change(store, allow_link_local=False)


def test_what_cannot_be_changed(store: Store) -> None:
    """Items of a key list are checked one by one, and mistakes come together."""
    make(store)
    first, second = (key.id for key in store.get_provider("main").api_keys)
    items = (
        KeyChange(id="unknown"),
        KeyChange(id=first),
        KeyChange(id=first),
        KeyChange(),
        KeyChange(id=second, api_key=Secret(THIRD)),
        KeyChange(api_key=Secret("env:X")),
        KeyChange(id=second),
        KeyChange(api_key=Secret(SECOND)),
    )
    with pytest.raises(InvalidMembers) as caught:
        change(store, api_keys=items, base_url="x")
    text = "\n".join(caught.value.mistakes)
    for part in (
        "base_url: found",
        "api_keys[0]: found an unknown id",
        "api_keys[2]: found an id a second time",
        "api_keys[3]: found neither, expected exactly one",
        "api_keys[4]: found both, expected exactly one",
        "found a reference that begins with env:",
        "api_keys[6]: found a key that is given anew",
        "api_keys: found 8 keys, expected at most 5",
    ):
        assert part in text
    assert SECOND not in text
    assert store.config_revision() == 1


def test_a_row_that_cannot_be_read_is_an_error_of_its_own(store: Store) -> None:
    """Corrupt settings, a moved key, a lost key and an illegal value each spoil their own row only."""
    for name in ("good", "settings", "moved", "lost", "illegal", "off"):
        make(store, name, enabled=name != "off", query={"k": "hunter2"})
    samples.query(store, "UPDATE providers SET settings = '{\"hunter2' WHERE name = 'settings'")
    samples.query(store, "UPDATE providers SET base_url = 'https://me:hunter2@h' WHERE name = 'illegal'")
    place = "provider_id = (SELECT id FROM providers WHERE name = '{}')"
    other = f"(SELECT sealed FROM provider_keys WHERE {place.format('good')} AND position = 0)"
    samples.query(store, f"UPDATE provider_keys SET sealed = {other} WHERE {place.format('moved')}")
    lost = OTHER.seal("hunter2", "x")
    for name in ("lost", "off"):
        samples.query(store, f"UPDATE provider_keys SET sealed = '{lost}' WHERE {place.format(name)}")
    loaded = store.load_providers(VAULT)
    assert [provider.name for provider in loaded.providers] == ["good", "off"]
    assert loaded.providers[1].keys == ()
    reasons = {error.name: error.reason for error in loaded.errors}
    assert sorted(reasons) == ["illegal", "lost", "moved", "settings"]
    assert "base_url: found" in reasons["illegal"]
    assert "store.encryption_key" in reasons["lost"]
    assert "another row" in reasons["moved"]
    assert "settings: found a text that cannot be read" in reasons["settings"]
    assert "hunter2" not in str(reasons)
    assert {shown.name: shown.settings for shown in store.list_providers()}["settings"] == {}


def test_a_switch_goes_to_where_the_provider_is(store: Store) -> None:
    """A stored provider is switched itself, one of the file by an override; an unknown name lists the others."""
    make(store)
    store.enable_provider("main", enabled=False, actor="tester", file_names=["main", "filed"])
    store.enable_provider("filed", enabled=False, actor="tester", file_names=["main", "filed"])
    assert not store.get_provider("main").enabled
    assert store.provider_overrides() == {"filed": False}
    with pytest.raises(NotFound, match=r"'x'; there are: filed, main"):
        store.enable_provider("x", enabled=True, actor="tester", file_names=["filed"])
    store.reset_provider("filed", "tester")
    with pytest.raises(NotFound, match="there are: none"):
        store.reset_provider("filed", "tester")


def test_merging() -> None:
    """A stored provider replaces the file's whole, an override switches the file's alone, an error hides it."""
    stored, new = configured("both", enabled=False), configured("new")
    error = ProviderError(name="broken", type="openai", reason="why")
    loaded = LoadedProviders(
        revision=1,
        providers=(stored, new),
        errors=(error,),
        overrides={"both": True, "filed": False, "gone": True},
    )
    mine = (configured("filed"), configured("both", base_url="http://a"), configured("broken"), configured("same"))
    merged = merge(mine, loaded)
    assert merged.providers == (configured("filed", enabled=False), stored, configured("same"), new)
    assert merged.errors == (error,)


OLD_TABLES: dict[type[AnyRecord], str] = {
    Interception: "interceptions",
    UserPrompt: "user_prompts",
    ModelThought: "model_thoughts",
}


def test_a_database_of_the_first_revision_keeps_its_data(bare_url: str) -> None:
    """The upgrade adds tables and columns, and changes nothing that was there."""

    def begin(connection: Connection) -> None:
        config = AlembicConfig()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for record in samples.whole():
            if table := OLD_TABLES.get(type(record)):
                connection.execute(metadata.tables[table].insert().values(**msgspec.structs.asdict(record)))

    store = open_store(bare_url)
    samples.database(store).migrate(begin)
    store.create_key("ann", "laptop", is_admin=True, actor="tester")
    at = "1000000" if bare_url.startswith("sqlite") else "'epoch'::timestamptz + interval '1 second'"
    samples.query(store, f"INSERT INTO token_usages VALUES ('i0001', 2, 'r', 1, 2, 3, 4, '{{}}', false, {at})")
    values = f"'i0001', 3, 'r', 'c', 'f', NULL, '{{}}', false, false, NULL, {at}"
    samples.query(store, f"INSERT INTO tool_usages VALUES ({values})")
    names = [name for name in samples.TABLES if name not in {"continued_responses", "sessions"}]
    before = samples.tables(store, names)
    for row in before["interceptions"]:
        row |= {"thread_parent_id": None, "thread_root_id": None, "session_key": row["session_id"] or row["id"]}
    prices = ("input_price", "output_price", "cache_read_price", "cache_write_price", "cost_micros")
    before["token_usages"][0] |= {"stop_reason": "", "service_tier": ""} | dict.fromkeys(prices)
    before["tool_usages"][0] |= {"duration_us": None, "result": None, "user_id": "u"}
    users, keys, audit = store.list_users(), store.list_keys(), samples.query(store, "SELECT * FROM audit ORDER BY at")
    assert store.revision() == "0001"
    store.upgrade()
    assert (samples.tables(store, names), store.list_users(), store.list_keys()) == (before, users, keys)
    assert samples.query(store, "SELECT * FROM audit ORDER BY at") == audit
    sessions = samples.tables(store, ["sessions"])["sessions"]
    assert [(row["user_id"], row["id"], row["started_at"]) for row in sessions] == [("u", "s", 1_000_001)]
    assert make(store)
    store.close()


def test_the_audit_names_what_changed(store: Store) -> None:
    """The detail of a change holds the names of members, and of a creation what may be known."""
    make(store)
    change(store, icon="i", api_keys=())
    details = [json.loads(row[0]) for row in samples.query(store, "SELECT detail FROM audit ORDER BY at")]
    assert details == [
        {"name": "main", "type": "openai", "enabled": True, "base_url": "https://api.openai.com/v1", "keys": 2},
        {"name": "main", "changed": ["api_keys", "icon"]},
    ]
