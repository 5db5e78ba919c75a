"""The gateway's tools in the bytes of a request: rows M6 to M14, M16, CC5 and RS19 of the acceptance tables.

A slow oracle parses the request and says what it has to become; what is spliced in is taken out again by hand.
"""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jsontext
from bridgeserver.protocols import Protocol
from bridgeserver.protocols.chat import Chat
from bridgeserver.protocols.messages import Messages
from bridgeserver.protocols.responses import Responses
from bridgeserver.tools.tool import Catalog
from bridgeserver.weaving import NotWoven, Weaver, weave
from toollab import TOOLS, Json

PROTOCOLS: Mapping[str, Protocol] = {"messages": Messages(), "chat": Chat(), "responses": Responses()}
OURS = Catalog(TOOLS[:2])
ASKED: Mapping[str, Json] = {
    "messages": {"messages": [{"role": "user", "content": "hello"}]},
    "chat": {"messages": [{"role": "user", "content": "hello"}]},
    "responses": {"input": "hello"},
}
ALL = pytest.mark.parametrize("name", list(PROTOCOLS))
OPENAI = pytest.mark.parametrize("name", [pytest.param("chat", id="gw-CC5"), pytest.param("responses", id="gw-RS19")])
CACHED: Json = {"name": "a", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}
PLAIN: Json = {"name": "b", "input_schema": {"type": "object"}}


def woven(name: str, body: bytes, tools: Catalog = OURS) -> Weaver:
    """Return what weaves the tools into *body*."""
    return weave(PROTOCOLS[name], body, tools, {}, drops_usage=False)


def injected(name: str, **members: Any) -> Json:
    """Return what a request with these members becomes."""
    body: Json = json.loads(woven(name, json.dumps({**ASKED[name], **members}).encode()).body)
    return body


def names_of(tools: list[Json]) -> list[str]:
    """Return what tools are called, in any protocol."""
    return [tool.get("function", tool)["name"] for tool in tools]


def test_gw_m6_ours_come_first_and_the_clients_keep_their_breakpoints() -> None:
    """gw-M6: nothing is cached that the client did not ask to be cached."""
    first, second, last = injected("messages", tools=[CACHED])["tools"]
    assert names_of([first, second]) == [tool.id for tool in OURS.tools]
    assert not any("cache_control" in tool for tool in (first, second))
    assert last == CACHED


@pytest.mark.parametrize("tools", [[CACHED, PLAIN], [PLAIN, PLAIN]], ids=["on the first", "nowhere"])
def test_gw_m7_breakpoints_stay_where_they_are(tools: list[Json]) -> None:
    """gw-M7: none moves, and none is added."""
    assert injected("messages", tools=tools)["tools"][2:] == tools


@pytest.mark.parametrize("members", [{}, {"tool_choice": None}, {"tool_choice": {}}], ids=["missing", "null", "empty"])
def test_gw_m8_without_a_choice_it_is_auto(members: Json) -> None:
    """gw-M8: with one call at a time."""
    assert injected("messages", **members)["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}


@pytest.mark.parametrize("flag", [{}, {"disable_parallel_tool_use": False}, {"disable_parallel_tool_use": True}])
@pytest.mark.parametrize("choice", [{"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "a"}])
def test_gw_m9_m12_a_choice_is_kept_with_one_call_at_a_time(choice: Json, flag: Json) -> None:
    """gw-M9, M12: whatever the client said of parallel calls."""
    assert injected("messages", tool_choice={**choice, **flag})["tool_choice"] == {
        **choice,
        "disable_parallel_tool_use": True,
    }


@pytest.mark.parametrize(
    "choice",
    ["auto", 123, [], {"type": 123}, {"type": "unknown"}, {"type": ["auto"]}, {"type": {"auto": 1}}, {"type": "none"}],
)
def test_gw_m10_m11_a_choice_that_is_none_or_not_known_is_left_alone(choice: Any) -> None:
    """gw-M10, M11: the provider judges it, and the tools are there all the same."""
    body = injected("messages", tool_choice=choice)
    assert body["tool_choice"] == choice
    assert len(body["tools"]) == len(OURS.tools)


@ALL
def test_gw_m16_the_same_request_becomes_the_same_bytes(name: str) -> None:
    """gw-M16: in whatever order the servers brought their tools, so that prompt caches hold."""
    body = json.dumps({**ASKED[name], "tools": [PLAIN]}).encode()
    orders = [OURS, Catalog(reversed(OURS.tools)), Catalog(TOOLS[:2])]
    assert len({woven(name, body, order).body for order in orders for _ in range(4)}) == 1


@OPENAI
@pytest.mark.parametrize("parallel", [{}, *({"parallel_tool_calls": value} for value in (True, False, None))])
@pytest.mark.parametrize("tools", [{}, {"tools": None}, {"tools": []}, {"tools": [PLAIN]}])
@pytest.mark.parametrize("stream", [False, True])
def test_ours_come_last_and_calls_one_at_a_time(name: str, stream: bool, tools: Json, parallel: Json) -> None:
    """gw-CC5, RS19: whatever the client said of parallel calls, and whether it has tools or not."""
    body = injected(name, stream=stream, **tools, **parallel)
    assert body["parallel_tool_calls"] is False
    assert body["stream"] is stream
    theirs: list[Json] = tools.get("tools") or []
    assert body["tools"][: len(theirs)] == theirs
    assert names_of(body["tools"][len(theirs) :]) == [tool.id for tool in OURS.tools]


@ALL
@pytest.mark.parametrize("tools", ["x", 1, {}, True])
def test_tools_that_are_no_array_are_left_to_the_provider(name: str, tools: Any) -> None:
    """There is no place for ours."""
    with pytest.raises(NotWoven, match="no array"):
        injected(name, tools=tools)


ONE_CALL = "disable_parallel_tool_use"


@pytest.mark.parametrize("messages", [b"[]", b"[ \n]", b"null", b'"hello"'])
@pytest.mark.parametrize("name", ["messages", "chat"])
def test_without_messages_there_is_nothing_to_go_on_with(name: str, messages: bytes) -> None:
    """Such a request is the provider's to refuse."""
    with pytest.raises(NotWoven, match="no array with messages"):
        woven(name, b'{"messages":%b}' % messages)


MEMBERS = ["messages", "input", "tools", "tool_choice", "parallel_tool_calls", "n", "type", "content", ONE_CALL]
WORDS = ["auto", "any", "tool", "none", "user", "tools", '"tools":[', "]}", "\\"]


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes]:
    """Return a protocol and a request of it that has a conversation, in any spelling and order."""
    name = draw(st.sampled_from(list(PROTOCOLS)))
    value = jsontext.values(MEMBERS, WORDS)
    choice = st.lists(st.tuples(st.sampled_from(["type", ONE_CALL]), st.one_of(value, st.sampled_from(WORDS))))
    members = [*draw(st.lists(st.tuples(st.sampled_from(MEMBERS), value), max_size=6)), *ASKED[name].items()]
    members += draw(st.lists(st.tuples(st.just("tool_choice"), choice.map(jsontext.Members)), max_size=2))
    members = draw(st.permutations([*members, *draw(st.lists(st.tuples(jsontext.texts, value), max_size=3))]))
    return name, jsontext.render(jsontext.Members(members), draw(st.randoms())).encode()


@settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(requests())
def test_a_request_becomes_what_a_parser_would_make_of_it_and_keeps_its_bytes(request_of: tuple[str, bytes]) -> None:
    """Whatever stands in it, twice or once, in any spelling: the tools are added, and nothing else is changed."""
    name, body = request_of
    try:
        weaver = woven(name, body)
    except NotWoven:
        assert not has_a_place(name, json.loads(body))
        return
    asked = json.loads(body)
    assert has_a_place(name, asked)
    assert json.loads(weaver.body) == expected(name, asked)
    edits = splices(name, body.decode())
    if edits is not None:
        assert weaver.body.decode() == applied(body.decode(), edits)


def has_a_place(name: str, asked: Json) -> bool:
    """Whether the tools can be added to a request."""
    if not isinstance(asked.get("tools", None), list | None):
        return False
    if name == "responses":
        return isinstance(asked["input"], list | str)
    count = asked.get("n")
    is_one = count is None or (type(count) is int and count == 1)
    messages: Any = asked["messages"]
    return isinstance(messages, list) and messages != [] and (name == "messages" or is_one)


def expected(name: str, asked: Json) -> Json:
    """Return what a request should become, slowly."""
    theirs: list[Any] = asked.get("tools") or []
    ours = injected(name)["tools"]
    if name != "messages":
        return {**asked, "tools": [*theirs, *ours], "parallel_tool_calls": False}
    choice: Any = asked.get("tool_choice")
    if choice is None or isinstance(choice, dict):
        members: Json = {**jsontext.as_object(choice)}
        kind = members.get("type") or "auto"
        choice = {**members, "type": kind}
        if kind in ["auto", "any", "tool"]:
            choice[ONE_CALL] = True
    return {**asked, "tools": [*ours, *theirs], "tool_choice": choice}


Edits = list[tuple[int, int, str]]


def splices(name: str, text: str) -> Edits | None:
    """Return all that may change in the text of a request: where, up to where, and into what.

    None where a choice without a type is written anew as a whole.
    """
    spans = members_of(text)
    ours = ",".join(map(json.dumps, injected(name)["tools"])).replace('": ', '":').replace(', "', ',"')
    edits: Edits = []
    front: list[str] = []
    if "tools" not in spans:
        front.append(f'"tools":[{ours}]')
    elif text.startswith("null", spans["tools"][0]):
        edits.append((*spans["tools"], f"[{ours}]"))
    else:
        start, end = spans["tools"]
        comma = "," if text[start + 1 : end - 1].strip() else ""
        edits.append((start + 1, start + 1, ours + comma) if name == "messages" else (end - 1, end - 1, comma + ours))
    if name != "messages" and "parallel_tool_calls" in spans:
        edits.append((*spans["parallel_tool_calls"], "false"))
    elif name != "messages":
        front.append('"parallel_tool_calls":false')
    elif "tool_choice" not in spans:
        front.append('"tool_choice":{"type":"auto","disable_parallel_tool_use":true}')
    else:
        start, end = spans["tool_choice"]
        choice: Any = json.loads(text[start:end])
        kind = jsontext.as_object(choice).get("type")
        if choice is None or (isinstance(choice, dict) and not kind):
            return None
        if kind in ["auto", "any", "tool"]:
            flag = members_of(text[start:end]).get(ONE_CALL)
            edits.append(
                (start + flag[0], start + flag[1], "true") if flag else (start + 1, start + 1, f'"{ONE_CALL}":true,')
            )
    at = text.index("{") + 1
    return [*edits, *((at, at, f"{member},") for member in front)]


def members_of(text: str) -> dict[str, tuple[int, int]]:
    """Return where the values of an object's members stand; of several of one name, the last one's."""
    found: dict[str, tuple[int, int]] = {}
    decoder = json.JSONDecoder()
    at = text.index("{") + 1
    while True:
        at = past_space(text, at)
        if text[at] == "}":
            return found
        name, at = decoder.raw_decode(text, at)
        start = past_space(text, past_space(text, at) + 1)
        _value, end = decoder.raw_decode(text, start)
        found[name] = (start, end)
        at = past_space(text, end)
        at += text[at] == ","


def past_space(text: str, at: int) -> int:
    """Return where the white space at *at* ends."""
    while text[at] in " \t\r\n":
        at += 1
    return at


def applied(text: str, edits: Edits) -> str:
    """Return the text with its edits, of which those at one place come in their order."""
    pieces: list[str] = []
    done = 0
    for start, end, new in sorted(edits, key=lambda edit: edit[0]):
        pieces += (text[done:start], new)
        done = end
    return "".join([*pieces, text[done:]])
