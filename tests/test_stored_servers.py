"""MCP servers of the store: made, changed, loaded and merged; and what becomes of users' tokens for them."""

import json
from pathlib import Path
from typing import Any

import pytest

import samples
from bridgeserver.config import McpServerConfig
from bridgeserver.errors import Conflict, InvalidMembers, NotFound
from bridgeserver.merging import merge_servers
from bridgeserver.sealing import Vault
from bridgeserver.secret import Secret
from bridgeserver.store import Store
from bridgeserver.store.reader import Reader
from bridgeserver.store.stored import LoadedServers, ServerChanges, ServerError, ServerFields
from bridgeserver.verdict import judge_servers

URL, QUERY = "https://wiki.test/mcp", "key=a-query-secret"
HEADER = "Bearer a-header-secret"
VAULT, OTHER = Vault([bytes(32)]), Vault([b"x" * 32])


@pytest.fixture
def store(empty_store: Store) -> Store:
    """A store of either engine with two users."""
    for user in ("ann", "bob"):
        empty_store.create_key(user, "", is_admin=False, actor="tester")
    return empty_store


def query(store: Store, sql: str) -> list[tuple[Any, ...]]:
    """Run one statement beside the store."""
    return samples.query(store, sql)


def fields(name: str = "wiki", **members: Any) -> ServerFields:
    """Return a server to make, with a secret in its URL and one in a header."""
    members = {"url": f"{URL}?{QUERY}", "headers": {"X-Api-Key": Secret(HEADER)}} | members
    return ServerFields(name=name, **members)


def make(store: Store, name: str = "wiki", replaced_url: str | None = None, **members: Any) -> str:
    """Store such a server and return its id."""
    return store.create_mcp_server(VAULT, fields(name, **members), "tester", replaced_url).id


def change(store: Store, vault: Vault = VAULT, **changes: Any) -> None:
    """Change the server `wiki`."""
    store.update_mcp_server(vault, "wiki", ServerChanges(**changes), "tester")


def loaded(store: Store, vault: Vault = VAULT) -> McpServerConfig:
    """Return the one server that is stored."""
    (server,) = store.load_mcp_servers(vault).servers
    return server


def audit(store: Store) -> list[tuple[str, dict[str, Any]]]:
    """Return what was audited of servers: action and detail."""
    rows = query(store, "SELECT action, detail FROM audit WHERE action LIKE 'mcp_server.%' ORDER BY id")
    return [(action.removeprefix("mcp_server."), json.loads(detail)) for action, detail in rows]


def give(store: Store, *users: str, server: str = "wiki") -> None:
    """Store tokens of users."""
    for user in users:
        store.set_user_token(VAULT, user, server, Secret("a-token"), "tester")


def owners(store: Store) -> list[tuple[str, str]]:
    """Return who has a token for which server."""
    return [(token.user, token.server) for token in store.list_user_tokens()]


def test_a_server_is_stored_whole(store: Store) -> None:
    """It loads as it was made, with the defaults that the file's server would have."""
    make(store)
    make(store, "mine", url=URL, headers={}, user_token=True, allow="^a", deny="b$", allow_link_local=True)
    assert store.load(VAULT).providers.revision == store.config_revision() == 2
    assert store.load(VAULT).servers == LoadedServers(
        servers=(
            McpServerConfig(name="mine", url=URL, user_token=True, allow="^a", deny="b$", allow_link_local=True),
            McpServerConfig(name="wiki", url=f"{URL}?{QUERY}", headers={"X-Api-Key": Secret(HEADER)}),
        )
    )


def test_every_option_can_be_stored() -> None:
    """What the file can say of a server can be given and changed, with the same names."""
    members = set(McpServerConfig.__struct_fields__)
    assert {*ServerFields.__struct_fields__} == members
    assert {*ServerChanges.__struct_fields__} == members - {"name"}


def test_a_list_and_the_files_show_no_secret(store: Store, tmp_path: Path) -> None:
    """What is listed is masked, and neither the database nor the audit holds a secret in clear."""
    make(store)
    (shown,) = store.list_mcp_servers()
    assert shown == store.get_mcp_server(shown.id) == store.get_mcp_server("wiki")
    assert (shown.url, shown.query, shown.headers) == (URL, "ke...et", {"X-Api-Key": "Bear...cret"})
    for path in tmp_path.iterdir():
        for secret in ("a-header-secret", "a-query-secret"):
            assert secret.encode() not in path.read_bytes(), path


def test_without_secrets_no_key_is_needed(store: Store) -> None:
    """A server that holds none is stored where there is nothing to seal with."""
    store.create_mcp_server(Vault([]), fields(url=URL, headers={}), "tester")
    assert loaded(store, Vault([])).url == URL


def test_every_change_is_numbered_and_audited(store: Store) -> None:
    """Each mutation advances the revision once and leaves one row; one that changes nothing leaves none."""
    server_id = make(store)
    for _ in range(2):
        change(store, deny="x", url=f"{URL}?other", headers={"X-A": Secret("b")})
        store.enable_mcp_server("wiki", enabled=False, actor="tester", file_names=())
        store.enable_mcp_server("filed", enabled=False, actor="tester", file_names=["filed"])
    store.reset_mcp_server("filed", "tester")
    store.delete_mcp_server(server_id, "tester")
    assert audit(store) == [
        ("create", {"name": "wiki", "url": URL, "enabled": True, "dropped_tokens": 0}),
        ("update", {"name": "wiki", "changed": ["deny", "headers", "url"], "dropped_tokens": 0}),
        ("disable", {"name": "wiki"}),
        ("override", {"enabled": False}),
        ("reset", {}),
        ("delete", {"name": "wiki", "dropped_tokens": 0}),
    ]
    assert store.config_revision() == len(audit(store))


def test_a_change_keeps_what_it_does_not_name(store: Store) -> None:
    """A URL is given with its query and headers whole; the rest stays."""
    make(store)
    change(store, allow="^a")
    assert (loaded(store).url, loaded(store).headers) == (f"{URL}?{QUERY}", {"X-Api-Key": Secret(HEADER)})
    change(store, url=URL)
    assert (loaded(store).url, loaded(store).headers, loaded(store).allow) == (URL, {"X-Api-Key": Secret(HEADER)}, "^a")
    change(store, headers={})
    assert loaded(store).headers == {}


def test_what_cannot_be_opened_can_be_set_again(store: Store) -> None:
    """Whoever lost the sealing key gives the URL and the headers anew; other members can be changed before."""
    make(store)
    change(store, OTHER, allow="^a")
    change(store, OTHER, url=f"{URL}?{QUERY}", headers={"X-Api-Key": Secret(HEADER)})
    assert loaded(store, OTHER) == McpServerConfig(
        name="wiki", url=f"{URL}?{QUERY}", headers={"X-Api-Key": Secret(HEADER)}, allow="^a"
    )


def test_a_deleted_server_frees_its_name_and_keeps_no_secret(store: Store) -> None:
    """The row stays, its secrets do not; what was deleted cannot be found; a name is taken once."""
    old = make(store)
    with pytest.raises(Conflict, match="a stored MCP server is named 'wiki' already"):
        make(store)
    store.delete_mcp_server("wiki", "tester")
    assert query(store, "SELECT query, headers FROM mcp_servers") == [("{}", "{}")]
    for name in ("wiki", old):
        with pytest.raises(NotFound, match=r"no stored MCP server .* there are: none"):
            store.get_mcp_server(name)
    assert make(store) != old


@pytest.mark.parametrize(
    ("members", "mistake"),
    [
        ({"name": "A B"}, 'mcp_servers."A B".name: found "A B", expected lower-case'),
        ({"url": "ftp://h/?hunter2"}, 'url: found "ftp://h/", expected an http or https URL'),
        ({"url": "https://me:hunter2@h"}, "url: found"),
        ({"url": "https://h#hunter2"}, "url: found"),
        ({"url": "env:hunter2"}, "url: found"),
        ({"url": "http://169.254.169.254/?hunter2"}, "no link-local or metadata address"),
        ({"allow": "("}, 'allow: found "(", expected a regular expression'),
        ({"headers": {"Host": Secret("hunter2")}}, 'headers.Host: found "Host", expected the name of a header'),
        ({"headers": {"X-A": Secret("hunter2\n")}}, "headers.X-A: found a literal of 8 characters"),
        ({"headers": {"X-A": Secret("env:hunter2")}}, "headers.X-A: found a reference that begins with env:"),
        ({"headers": {"X-A": Secret("file:/hunter2")}}, "headers.X-A: found a reference that begins with file:"),
        ({"headers": {"X-A": Secret("hunter2"), "x-a": Secret("b")}}, "headers: found a header a second time"),
        (
            {"headers": {"authorization": Secret("hunter2")}, "user_token": True},
            "headers: found Authorization beside user_token = true",
        ),
    ],
)
def test_what_cannot_be_stored(store: Store, members: dict[str, Any], mistake: str) -> None:
    """A mistake names its place and what is expected, shows no secret, and nothing is stored."""
    with pytest.raises(InvalidMembers) as caught:
        make(store, **members)
    (found,) = caught.value.mistakes
    assert mistake in found
    assert "hunter2" not in found.replace("env:hunter2", "")
    assert (store.config_revision(), store.list_mcp_servers()) == (0, [])


def test_a_change_is_checked_with_what_is_there(store: Store) -> None:
    """Headers that are stored count, without being opened; so does the address."""
    make(store, headers={"Authorization": Secret(HEADER)})
    with pytest.raises(InvalidMembers, match="Authorization beside user_token"):
        change(store, OTHER, user_token=True)
    change(store, user_token=True, headers={})
    change(store, url="http://169.254.1.1", allow_link_local=True)
    with pytest.raises(InvalidMembers, match="link-local"):
        change(store, allow_link_local=False)


def test_a_row_that_cannot_be_read_is_an_error_of_its_own(store: Store) -> None:
    """A text that is none, a moved or lost secret and an illegal value each spoil their own row only."""
    for name in ("good", "illegal", "lost", "moved", "off", "text"):
        make(store, name, enabled=name != "off", user_token=name == "lost")
    query(store, "UPDATE mcp_servers SET headers = '{\"hunter2' WHERE name = 'text'")
    query(store, "UPDATE mcp_servers SET url = 'https://me:hunter2@h' WHERE name = 'illegal'")
    good = "(SELECT headers FROM mcp_servers WHERE name = 'good')"
    query(store, f"UPDATE mcp_servers SET headers = {good} WHERE name = 'moved'")
    lost = json.dumps({"masked": {}, "sealed": OTHER.seal("hunter2", "x")})
    query(store, f"UPDATE mcp_servers SET query = '{lost}' WHERE name IN ('lost', 'off')")
    found = store.load_mcp_servers(VAULT)
    assert [server.name for server in found.servers] == ["good", "off"]
    assert (found.servers[1].headers, found.servers[1].url) == ({}, URL)
    reasons = {error.name: error.reason for error in found.errors}
    assert sorted(reasons) == ["illegal", "lost", "moved", "text"]
    assert "url: found" in reasons["illegal"]
    assert "store.encryption_key" in reasons["lost"]
    assert "another row" in reasons["moved"]
    assert "a text that cannot be read" in reasons["text"]
    assert "hunter2" not in str(reasons)
    assert [error.name for error in found.errors if error.user_token] == ["lost"]
    assert {shown.name: shown.headers for shown in store.list_mcp_servers()}["text"] == {}


@pytest.mark.parametrize("url", ["https://[", "https://h:x", "nonsense"])
def test_a_broken_url_can_be_set_again(store: Store, url: str) -> None:
    """It is no place, so tokens do not go on from it."""
    make(store, user_token=True)
    give(store, "ann")
    query(store, f"UPDATE mcp_servers SET url = '{url}'")
    change(store, url=URL)
    assert (loaded(store).url, owners(store)) == (URL, [])


def test_a_switch_goes_to_where_the_server_is(store: Store) -> None:
    """A stored server is switched itself, one of the file by an override; an unknown name lists the others."""
    make(store)
    for name in ("wiki", "filed"):
        store.enable_mcp_server(name, enabled=False, actor="tester", file_names=["wiki", "filed"])
    assert not store.get_mcp_server("wiki").enabled
    assert (store.mcp_server_overrides(), store.provider_overrides()) == ({"filed": False}, {})
    with pytest.raises(NotFound, match=r"no MCP server named 'x'; there are: filed, wiki"):
        store.enable_mcp_server("x", enabled=True, actor="tester", file_names=["filed"])
    store.reset_mcp_server("filed", "tester")
    with pytest.raises(NotFound, match="no override of MCP server 'filed' to end; there are: none"):
        store.reset_mcp_server("filed", "tester")


def test_merging_and_what_is_said_of_it() -> None:
    """A stored server replaces the file's whole, an override switches the file's alone, an error hides it."""

    def server(name: str, url: str = "http://file", *, enabled: bool = True) -> McpServerConfig:
        return McpServerConfig(name=name, url=url, enabled=enabled)

    stored, new = server("both", "http://store", enabled=False), server("new", "http://store?hunter2")
    found = LoadedServers(
        servers=(stored, new),
        errors=(ServerError(name="broken", user_token=True, reason="why"),),
        overrides={"both": True, "filed": False, "gone": True},
    )
    merged = merge_servers((server("filed"), server("both"), server("broken"), server("same")), found)
    assert merged == (server("filed", enabled=False), stored, server("same"), new)
    statuses = [(each.name, each.url, each.status, each.reason, each.source) for each in judge_servers(merged, found)]
    assert statuses == [
        ("both", "http://store", "disabled", "", "store"),
        ("broken", "", "error", "why", "store"),
        ("filed", "http://file", "disabled", "overridden", "file"),
        ("new", "http://store", "enabled", "", "store"),
        ("same", "http://file", "enabled", "", "file"),
    ]


def test_a_removed_server_takes_its_users_tokens_along(store: Store) -> None:
    """And no others; to the workers the keys of those users have changed."""
    make(store, user_token=True)
    give(store, "ann", "bob")
    give(store, "bob", server="other")
    reader = Reader(store.url)
    before = reader.revision()
    store.delete_mcp_server("wiki", "tester")
    assert owners(store) == [("bob", "other")]
    assert audit(store)[-1] == ("delete", {"name": "wiki", "dropped_tokens": 2})
    assert {row.user_name for row in reader.changed_keys(before)} == {"ann", "bob"}
    reader.close()


@pytest.mark.parametrize(
    ("url", "stays"),
    [
        (f"{URL}2?x=1", True),
        ("HTTPS://WIKI.test:443/mcp", True),
        ("http://wiki.test/mcp", False),
        ("https://wiki.test:8443/mcp", False),
        ("https://wiki2.test/mcp", False),
    ],
)
def test_tokens_do_not_follow_a_name_to_another_place(store: Store, url: str, stays: bool) -> None:
    """A change of scheme, host or port deletes them, in a change as in a server that replaces the file's."""
    make(store, url=URL, user_token=True)
    give(store, "ann")
    give(store, "ann", server="filed")
    change(store, url=url)
    make(store, "filed", replaced_url=URL, url=url, user_token=True)
    kept = [("ann", "filed"), ("ann", "wiki")] if stays else []
    assert owners(store) == kept


def test_a_new_server_has_no_tokens_of_an_older_one(store: Store) -> None:
    """Tokens that were left of a server of the file, which is gone, are not sent to the new one."""
    give(store, "ann")
    make(store, user_token=True)
    assert owners(store) == []
    assert audit(store)[-1][1]["dropped_tokens"] == 1


def test_what_is_refused_drops_no_token(store: Store) -> None:
    """All of a change happens, or nothing."""
    make(store, url=URL, user_token=True)
    give(store, "ann")
    with pytest.raises(InvalidMembers):
        change(store, url="https://elsewhere.test", deny="(")
    with pytest.raises(Conflict):
        make(store, url="https://elsewhere.test")
    assert owners(store) == [("ann", "wiki")]
