"""Which tools are offered, and by which ids: rows P1 to P5 of the acceptance tables."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgeserver.tools.names import ID_CHARS, Filter, id_of
from bridgeserver.tools.tool import Catalog, Tool

NAMES = ["tool1", "tool2", "tool3"]


@pytest.mark.parametrize(
    ("allow", "deny", "taken"),
    [
        ("", "", NAMES),
        (".*", "", NAMES),
        ("tool[12]", "", ["tool1", "tool2"]),
        ("nothing", "", []),
        ("", ".*", []),
        ("", "tool2", ["tool1", "tool3"]),
        ("tool[12]", "tool[23]", ["tool1"]),
        ("tool1", "tool2", ["tool1"]),
    ],
    ids=["none", "all", "some", "no one", "deny all", "deny one", "deny wins", "in neither"],
)
def test_p1_filters(allow: str, deny: str, taken: list[str]) -> None:
    """P1: what is denied is out, and what is not allowed where something has to be."""
    chosen = Filter(allow, deny)
    assert [name for name in NAMES if chosen.takes(name)] == taken


@pytest.mark.parametrize(
    ("pattern", "name", "is_found"),
    [
        ("^get", "get_user", True),
        ("^get", "budget", False),
        ("user$", "get_user", True),
        ("user$", "users", False),
        ("get|list", "list_all", True),
        ("[0-9]+", "tool_7", True),
        ("get", "GET_user", False),
        ("(?i)get", "GET_user", True),
        (r"a\.b", "a.b", True),
        (r"a\.b", "axb", False),
        ("ü", "prüfen", True),
        (r"\s", "with space", True),
        ("^$", "", True),
        (r"\$\[x\]\(y\)", "$[x](y)", True),
    ],
)
def test_p2_patterns_are_searched_for(pattern: str, name: str, is_found: bool) -> None:
    """P2: anywhere in the name of the tool, and with attention to case."""
    assert Filter(pattern, "").takes(name) == is_found
    assert Filter("", pattern).takes(name) != is_found


def tool(server: str, name: str) -> Tool:
    """Return a tool."""
    return Tool(id_of(server, name), name, server, "http://x.example/mcp", "", {"type": "object"})


def test_p3_no_tools() -> None:
    """P3: are an empty catalogue."""
    assert Catalog().tools == ()
    assert Catalog().find("bmcp_a_b") is None


def test_p4_p5_equal_names_on_two_servers() -> None:
    """P4, P5: both are kept, and the whole is in the order of the ids."""
    tools = [tool(server, name) for server in ("shmoder", "coder") for name in ("b", "a")]
    catalog = Catalog(tools)
    assert [each.id for each in catalog.tools] == ["bmcp_coder_a", "bmcp_coder_b", "bmcp_shmoder_a", "bmcp_shmoder_b"]
    found = catalog.find("bmcp_shmoder_a")
    assert found is not None
    assert (found.server, found.name) == ("shmoder", "a")


def test_an_id_names_server_and_tool_where_that_is_legal() -> None:
    """Nothing is added to what every provider takes."""
    assert id_of("coder", "coder_list_workspaces") == "bmcp_coder_coder_list_workspaces"
    assert id_of("my-server", "a_b-C9") == "bmcp_my-server_a_b-C9"
    assert id_of("a", "x" * (ID_CHARS - 7)) == "bmcp_a_" + "x" * (ID_CHARS - 7)


def test_an_id_that_would_be_illegal_gets_a_digest_of_the_name() -> None:
    """So two names that look alike once they are cleaned stay two, and each keeps its id for ever."""
    assert id_of("a", "x.y") == "bmcp_a_x_y_7ace4eaa"
    assert id_of("a", "x/y") == "bmcp_a_x_y_f723596c"
    assert id_of("a", "") == "bmcp_a__ffe9aaea"
    assert len(id_of("a", "x" * 500)) == ID_CHARS
    assert id_of("a", "x" * 500) != id_of("a", "x" * 501)


SERVERS = st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True)


@given(SERVERS, st.text(max_size=100), SERVERS, st.text(max_size=100))
def test_ids_are_legal_and_different(server: str, name: str, other_server: str, other_name: str) -> None:
    """Whatever tools are called."""
    tool_id = id_of(server, name)
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", tool_id)
    if (server, name) != (other_server, other_name):
        assert id_of(other_server, other_name) != tool_id
