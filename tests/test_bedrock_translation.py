"""A Messages request as InvokeModel takes it."""

import json
from random import Random
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgecore import find_member
from bridgeserver.bedrock.translation import (
    ADAPTIVE_ONLY,
    BETAS,
    Models,
    effective_model,
    invoke_path,
    kept_betas,
    translate,
)
from bridgeserver.errors import BadRequest
from jsontext import Members, render, texts, values

INTERLEAVED = "interleaved-thinking-2025-05-14"
EFFORT = "effort-2025-11-24"
CONTEXT = "context-management-2025-06-27"
SCOPE = "prompt-caching-scope-2026-01-05"
ALL_FLAGS = [f"{INTERLEAVED},{EFFORT},{CONTEXT},{SCOPE}"]

OLD = "beddel"
OPUS_4_5 = "us.anthropic.claude-opus-4-5-20251101-v1:0"
OPUS_4_6 = "us.anthropic.claude-opus-4-6-v1"
SONNET_4_5 = "global.anthropic.claude-sonnet-4-5-20250929-v1:0"
SONNET_4_6 = "anthropic.claude-sonnet-4-6"

STRIPPABLE: dict[str, Any] = {
    "metadata": {"user_id": "u"},
    "service_tier": "auto",
    "container": "c",
    "inference_geo": "eu",
    "output_config": {"effort": "medium"},
    "context_management": {"edits": []},
}
ADAPTIVE = {"type": "adaptive"}
FULL: dict[str, Any] = {
    "model": "claude-opus-4",
    "stream": True,
    "max_tokens": 32000,
    "thinking": ADAPTIVE,
    "messages": [],
}


def translated(members: dict[str, Any], model: str, flags: list[str] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(translate(json.dumps(members).encode(), flags or [], model))
    return found


BUDGET = {"type": "enabled", "budget_tokens": 16000}


@pytest.mark.parametrize(
    ("model", "thinking", "kept", "flags"),
    [
        pytest.param(OLD, BUDGET, set[str](), [INTERLEAVED], id="gw-B4-neither"),
        pytest.param(OPUS_4_5, BUDGET, {"output_config"}, [INTERLEAVED, EFFORT], id="gw-B5-opus-4-5"),
        pytest.param(SONNET_4_5, BUDGET, {"context_management"}, [INTERLEAVED, CONTEXT], id="gw-B6-sonnet-4-5"),
        pytest.param(OPUS_4_6, ADAPTIVE, set[str](), [INTERLEAVED], id="gw-B7-opus-4-6"),
        pytest.param(SONNET_4_6, ADAPTIVE, set[str](), [INTERLEAVED], id="gw-B9-sonnet-4-6"),
    ],
)
def test_what_each_model_takes(model: str, thinking: dict[str, Any], kept: set[str], flags: list[str]) -> None:
    """Thinking is written for the model, flags it does not know go, and so do the members that need them."""
    found = translated(FULL | STRIPPABLE, model, ALL_FLAGS)
    assert found["thinking"] == thinking
    assert found["anthropic_beta"] == flags
    assert {name for name in STRIPPABLE if name in found} == kept
    assert "model" not in found
    assert "stream" not in found


def test_gw_b3_what_invoke_model_asks_for_is_written() -> None:
    """The version is added, the model stands in the path, and without flags there is no member for them."""
    assert translate(b'{"model":"m","stream":false,"max_tokens":9}', [], "danthropic") == (
        b'{"max_tokens":9,"anthropic_version":"bedrock-2023-05-31"}'
    )


def test_a_version_that_is_there_stays() -> None:
    """A client that speaks to Bedrock already is left alone."""
    assert translate(b'{"anthropic_version":"mine"}', [], OLD) == b'{"anthropic_version":"mine"}'


@pytest.mark.parametrize(
    ("effort", "max_tokens", "budget"),
    [
        pytest.param(None, 10000, 8000, id="gw-B8-no-effort"),
        pytest.param("low", 10000, 2000, id="gw-B8-low"),
        pytest.param("medium", 10000, 5000, id="gw-B8-medium"),
        pytest.param("max", 10000, 9500, id="gw-B8-max"),
        pytest.param("high", 10000, 8000, id="gw-B8-unknown-effort"),
        pytest.param(7, 10000, 8000, id="effort-of-another-type"),
        pytest.param(None, 1280, 1024, id="the-least"),
        pytest.param(None, 1279, None, id="below-the-least"),
        pytest.param(None, 512, None, id="gw-B8-512"),
        pytest.param(None, 1000, None, id="gw-B8-1000"),
        pytest.param(None, 3.2e4, 25600, id="float"),
        pytest.param(None, 10**400, 8 * 10**399, id="huge"),
    ],
)
def test_adaptive_thinking_becomes_a_budget(effort: Any, max_tokens: float, budget: int | None) -> None:
    """The budget is the share of `max_tokens` that the effort names; with too little of it nothing is thought."""
    members = {"thinking": ADAPTIVE, "max_tokens": max_tokens}
    if effort is not None:
        members["output_config"] = {"effort": effort}
    expected = {"type": "disabled"} if budget is None else {"type": "enabled", "budget_tokens": budget}
    assert translated(members, OLD)["thinking"] == expected


@pytest.mark.parametrize(
    "max_tokens",
    [
        pytest.param("", id="gw-B8-no-max-tokens"),
        pytest.param(',"max_tokens":0', id="zero"),
        pytest.param(',"max_tokens":-1', id="negative"),
        pytest.param(',"max_tokens":"9000"', id="string"),
        pytest.param(',"max_tokens":true', id="boolean"),
        pytest.param(',"max_tokens":null', id="null"),
        pytest.param(',"max_tokens":1e999', id="infinite"),
    ],
)
def test_a_budget_needs_a_limit(max_tokens: str) -> None:
    """Without a positive `max_tokens` there is nothing to take a share of, and the request is refused."""
    with pytest.raises(BadRequest, match=r"^max_tokens: expected a positive number"):
        translate(f'{{"thinking":{{"type":"adaptive"}}{max_tokens}}}'.encode(), [], OLD)


@pytest.mark.parametrize(
    "thinking",
    [
        pytest.param({"type": "enabled", "budget_tokens": 2048}, id="gw-B8-enabled"),
        pytest.param({"type": "disabled"}, id="gw-B8-disabled"),
        pytest.param(None, id="gw-B8-null"),
        pytest.param("adaptive", id="string"),
    ],
)
def test_other_thinking_is_left_alone(thinking: Any) -> None:
    """Only adaptive thinking is rewritten, and nothing is needed for the rest."""
    assert translated({"thinking": thinking}, OLD)["thinking"] == thinking


def test_gw_b8_absent_thinking_stays_absent() -> None:
    """Nobody who did not ask for thoughts gets any."""
    assert "thinking" not in translated({"max_tokens": 9000}, OLD)


@pytest.mark.parametrize("name", ADAPTIVE_ONLY)
def test_newer_models_think_adaptively(name: str) -> None:
    """There a budget is dropped, and the effort stays without a flag, but no format."""
    members = {
        "thinking": {"type": "enabled", "budget_tokens": 9, "display": "omitted"},
        "output_config": {"effort": "low", "format": {"type": "json_schema"}},
    }
    found = translated(members, f"eu.{name}-v1:0")
    assert found["thinking"] == {"type": "adaptive", "display": "omitted"}
    assert found["output_config"] == {"effort": "low"}


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        pytest.param({"format": {}}, None, id="nothing-left"),
        pytest.param({"effort": "low"}, {"effort": "low"}, id="no-format"),
        pytest.param("odd", "odd", id="string"),
        pytest.param(None, None, id="null"),
    ],
)
def test_newer_models_get_no_empty_output_config(config: Any, kept: Any) -> None:
    """An `output_config` that held nothing but a format goes with it; other types are the provider's to judge."""
    assert translated({"output_config": config}, ADAPTIVE_ONLY[0]).get("output_config") == kept


@pytest.mark.parametrize("thinking", [ADAPTIVE, {"type": "disabled"}])
def test_newer_models_keep_what_they_know(thinking: dict[str, Any]) -> None:
    """Adaptive thinking needs no limit there, and none at all is not turned into some."""
    assert translated({"thinking": thinking}, ADAPTIVE_ONLY[0])["thinking"] == thinking


def test_gw_b10_flags_of_other_models_go_with_their_members() -> None:
    """What one model knows is unknown to another one."""
    effort = translated(STRIPPABLE, SONNET_4_5, [EFFORT])
    context = translated(STRIPPABLE, OPUS_4_6, [CONTEXT])
    assert set(effort) == {"anthropic_version"}
    assert set(context) == {"anthropic_version"}


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        pytest.param(
            [INTERLEAVED, "context-1m-2025-08-07"], [INTERLEAVED, "context-1m-2025-08-07"], id="gw-B11-fields"
        ),
        pytest.param(
            [f"{INTERLEAVED} , {SCOPE}", EFFORT, "context-1m-2025-08-07"],
            [INTERLEAVED, "context-1m-2025-08-07"],
            id="gw-B11-mixed",
        ),
        pytest.param([SCOPE, "", ",,"], [], id="gw-B11-unsupported"),
        pytest.param([], [], id="gw-B11-none"),
        pytest.param([INTERLEAVED, INTERLEAVED], [INTERLEAVED], id="twice"),
    ],
)
def test_flags_are_sifted(fields: list[str], kept: list[str]) -> None:
    """Fields are split at commas, what Bedrock knows is kept in its order, and nothing is written where none is."""
    assert kept_betas(fields, OLD) == kept
    assert translated({}, OLD, fields).get("anthropic_beta", []) == kept


def test_every_flag_is_kept_by_some_model() -> None:
    """The table names no model that no flag could meet."""
    for flag, names in BETAS.items():
        assert all(kept_betas([flag], f"eu.{name}-v1") == [flag] for name in names)


@pytest.mark.parametrize(
    ("own", "flags"),
    [
        pytest.param(["token-efficient-tools-2025-02-19", SCOPE, 7], ["token-efficient-tools-2025-02-19"], id="some"),
        pytest.param([SCOPE], [], id="unsupported"),
        pytest.param([INTERLEAVED], [], id="same"),
        pytest.param("text", [], id="not-an-array"),
    ],
)
def test_flags_of_the_body_are_sifted_too(own: Any, flags: list[str]) -> None:
    """They follow those of the head, each once."""
    assert translated({"anthropic_beta": own}, OLD, [INTERLEAVED])["anthropic_beta"] == [INTERLEAVED, *flags]


@pytest.mark.parametrize(
    ("requested", "found"),
    [("claude-haiku-4-5", "small"), ("claude-3-5-haiku-latest", "small"), ("claude-opus-4-5", "large"), ("", "large")],
)
def test_the_model_is_the_providers(requested: str, found: str) -> None:
    """A small one is asked for by its name; everything else is served by the other."""
    assert effective_model(requested, Models("large", "small")) == found


@pytest.mark.parametrize(
    ("model", "stream", "path"),
    [
        pytest.param("danthropic", False, "/model/danthropic/invoke", id="gw-B3-blocking"),
        pytest.param("danthropic", True, "/model/danthropic/invoke-with-response-stream", id="gw-B3-streaming"),
        pytest.param("a.b-v1:0", False, "/model/a.b-v1%3A0/invoke", id="version"),
        pytest.param("arn:aws:x:r:1:p/id", False, "/model/arn%3Aaws%3Ax%3Ar%3A1%3Ap%2Fid/invoke", id="arn"),
    ],
)
def test_the_model_is_one_segment_of_the_path(model: str, stream: bool, path: str) -> None:
    """Colons and slashes of an id are encoded."""
    assert invoke_path(model, stream=stream) == path


@given(texts)
def test_any_model_is_one_segment(model: str) -> None:
    """No id reaches another route."""
    model = model.encode("utf-8", "replace").decode()
    empty, first, found, last = invoke_path(model, stream=False).split("/")
    assert (empty, first, unquote(found), last) == ("", "model", model, "invoke")


ODD = [
    pytest.param(b"-0", id="negative-zero"),
    pytest.param(b"1E+400", id="infinite"),
    pytest.param(b"9" * 5000, id="long-integer"),
    pytest.param(b"0.10000000000000000000000", id="trailing-zeros"),
    pytest.param(b'"\\u00e9\\/\\ud800 \xc3\xa9"', id="escapes-and-a-lone-surrogate"),
    pytest.param(b'{ "a" : [ 1 ,\n2 ] , "a" : 3 }', id="white-space-and-a-name-twice"),
    pytest.param(b"[" * 200 + b"]" * 200, id="deep"),
]


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("name", [b"a", b"\\ud800"], ids=["plain", "lone-surrogate"])
def test_values_keep_their_bytes(name: bytes, value: bytes) -> None:
    """However odd the spelling, what is not touched is not spelled anew; nor where a name is odd."""
    found = translate(b' { "%b"\t:\n%b , "max_tokens":1 } ' % (name, value), [], OLD)
    assert found == b'{"%b":%b,"max_tokens":1,"anthropic_version":"bedrock-2023-05-31"}' % (name, value)


@pytest.mark.parametrize("more", [b"", b',"\\ud800":1'], ids=["plain", "lone-surrogate"])
def test_of_two_members_the_last_one_counts(more: bytes) -> None:
    """As most parsers take it; so nothing is smuggled past by saying it twice."""
    body = b'{"model":"a","max_tokens":1,"max_tokens":9,"thinking":1,"thinking":{"type":"x"},"mod\\u0065l":2%b}'
    found = json.loads(translate(body % more, [], OLD))
    assert (found["max_tokens"], found["thinking"]) == (9, {"type": "x"})
    assert "model" not in found


@pytest.mark.parametrize("more", [b"", b',"\\ud800":1'], ids=["plain", "lone-surrogate"])
def test_depth_is_refused_and_no_crash(more: bytes) -> None:
    """A body that no parser can read is the client's mistake."""
    with pytest.raises(BadRequest, match="nested too deeply"):
        translate(b'{"a":%b%b%b}' % (b"[" * 200_000, b"]" * 200_000, more), [], OLD)


NAMES = ["thinking", "max_tokens", "model", "type", "output_config", "effort", "anthropic_beta", "metadata", "stream"]
OBJECTS = st.lists(
    st.tuples(st.one_of(st.sampled_from(NAMES), texts), values(NAMES, ["adaptive", "enabled"])), max_size=8
)
REWRITTEN = {"thinking", "output_config", "anthropic_beta"}
MODELS = st.sampled_from([OLD, OPUS_4_5, SONNET_4_6, ADAPTIVE_ONLY[0]])


@given(OBJECTS, st.randoms(use_true_random=False), MODELS)
def test_untouched_members_keep_their_bytes(members: list[tuple[str, Any]], random: Random, model: str) -> None:
    """Whatever the body: a member that is neither removed nor rewritten is the one that was sent, byte for byte."""
    body = render(Members(members), random).encode()
    try:
        found = translate(body, [], model)
    except BadRequest:
        return
    sent, got = json.loads(body), json.loads(found)
    assert set(got) - set(sent) <= {"anthropic_version"}
    assert set(sent) - set(got) <= {"model", "stream", "metadata", "output_config", "anthropic_beta"}
    assert not {"model", "stream", "metadata"} & set(got)
    for name in set(got) & set(sent) - REWRITTEN:
        assert _text(found, name) == _text(body, name)


def _text(data: bytes, name: str) -> bytes:
    """Return the text of the last member of that name."""
    try:
        span = find_member(data, name)
    except UnicodeEncodeError:  # a lone surrogate, which cannot be searched for
        return b""
    assert span is not None
    return data[span[0] : span[1]]
