"""A Messages request as InvokeModel takes it; what is not touched keeps its bytes."""

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from bridgeserver.errors import BadRequest
from bridgeserver.protocols import lenient

VERSION = "bedrock-2023-05-31"

EFFORT = "effort-2025-11-24"
CONTEXT_MANAGEMENT = "context-management-2025-06-27"

BETAS: dict[str, tuple[str, ...]] = {
    "computer-use-2025-01-24": ("",),
    "token-efficient-tools-2025-02-19": ("",),
    "interleaved-thinking-2025-05-14": ("",),
    "output-128k-2025-02-19": ("",),
    "dev-full-thinking-2025-05-14": ("",),
    "context-1m-2025-08-07": ("",),
    CONTEXT_MANAGEMENT: ("anthropic.claude-sonnet-4-5", "anthropic.claude-haiku-4-5"),
    EFFORT: ("anthropic.claude-opus-4-5",),
    "tool-search-tool-2025-10-19": ("",),
    "tool-examples-2025-10-29": ("",),
}
"""The flags that Bedrock knows, each with what the name of a model contains that takes it; others are a 400 there."""

ADAPTIVE_ONLY = ("anthropic.claude-opus-4-7", "anthropic.claude-opus-4-8", "anthropic.claude-sonnet-5")
"""Models that think adaptively or not at all."""

ADAPTIVE_TOO = ("anthropic.claude-opus-4-6", "anthropic.claude-sonnet-4-6")
"""Models that take both ways of thinking; all others take only a budget."""

ALWAYS_REMOVED = ("model", "stream", "metadata", "service_tier", "container", "inference_geo", "anthropic_beta")
"""Members that InvokeModel refuses, or that stand elsewhere; the flags are written anew."""

EFFORT_PERCENT = {"low": 20, "medium": 50, "max": 95}
"""How much of `max_tokens` is the budget for thinking."""

DEFAULT_PERCENT = 80

LEAST_BUDGET_TOKENS = 1024
"""The smallest budget that Anthropic's API accepts."""

_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SCANNER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
_SPACE = " \t\r\n"

_Members = dict[str, msgspec.Raw]


class Models(NamedTuple):
    """The models that a provider serves, as ids of Bedrock or ARNs of inference profiles."""

    model: str
    small_fast_model: str


def effective_model(requested: str, models: Models) -> str:
    """Return the model that serves a request for *requested*."""
    return models.small_fast_model if "haiku" in requested else models.model


def invoke_path(model: str, *, stream: bool) -> str:
    """Return the path of InvokeModel; *model* is one segment of it, whatever characters it holds."""
    return f"/model/{quote(model, safe='')}/{'invoke-with-response-stream' if stream else 'invoke'}"


def kept_betas(header_values: Iterable[str], model: str) -> list[str]:
    """Return the flags of `anthropic-beta` fields that Bedrock knows for *model*, in their order and each once."""
    flags = (flag.strip() for value in header_values for flag in value.split(","))
    return list(dict.fromkeys(flag for flag in flags if _names(model, BETAS.get(flag, ()))))


def translate(body: bytes, betas: Iterable[str], model: str) -> bytes:
    """Return a Messages request as the body of InvokeModel.

    *body* is a JSON object that `Messages.facts` has accepted, *betas* are the client's flags, and *model* is what the
    model can do: its own id, where an inference profile is asked. Raises BadRequest where adaptive thinking has to
    become a budget and `max_tokens` is no positive number.
    """
    members = _members(body)
    flags = kept_betas([*betas, *_own_betas(members)], model)
    _rewrite_thinking(members, model)
    _remove_unsupported(members, flags, model)
    members.setdefault("anthropic_version", _raw(VERSION))
    if flags:
        members["anthropic_beta"] = _raw(flags)
    return _encode(members)


def _own_betas(members: _Members) -> list[str]:
    found = lenient.array(_value(members, "anthropic_beta"))
    return [flag for flag in found if isinstance(flag, str)]


def _rewrite_thinking(members: _Members, model: str) -> None:
    kind = lenient.mapping(_value(members, "thinking")).get("type")
    if _names(model, ADAPTIVE_ONLY):
        if kind == "enabled":
            thinking = _members(bytes(members["thinking"]))
            thinking.pop("budget_tokens", None)
            thinking["type"] = _raw("adaptive")
            members["thinking"] = msgspec.Raw(_encode(thinking))
    elif kind == "adaptive" and not _names(model, ADAPTIVE_TOO):
        members["thinking"] = _raw(_budgeted(members))


def _budgeted(members: _Members) -> dict[str, Any]:
    """Return the thinking with a budget that comes nearest to the adaptive one."""
    effort = lenient.text(lenient.mapping(_value(members, "output_config")).get("effort"))
    budget = _max_tokens(members) * EFFORT_PERCENT.get(effort, DEFAULT_PERCENT) // 100
    return {"type": "enabled", "budget_tokens": budget} if budget >= LEAST_BUDGET_TOKENS else {"type": "disabled"}


def _max_tokens(members: _Members) -> int:
    found = _value(members, "max_tokens")
    if type(found) not in {int, float} or not 0 < found < math.inf:
        raise BadRequest(
            "max_tokens: expected a positive number, found none; adaptive thinking becomes a budget on this model, "
            "and the budget is a share of it",
        )
    return int(found)


def _remove_unsupported(members: _Members, flags: list[str], model: str) -> None:
    for name in ALWAYS_REMOVED:
        members.pop(name, None)
    if CONTEXT_MANAGEMENT not in flags:
        members.pop("context_management", None)
    if _names(model, ADAPTIVE_ONLY):
        _remove_format(members)
    elif EFFORT not in flags:
        members.pop("output_config", None)


def _remove_format(members: _Members) -> None:
    """Take `format` out of `output_config`, and that too if nothing else is in it."""
    if "format" not in lenient.mapping(_value(members, "output_config")):
        return
    config = _members(bytes(members["output_config"]))
    del config["format"]
    if config:
        members["output_config"] = msgspec.Raw(_encode(config))
    else:
        del members["output_config"]


def _names(model: str, parts: tuple[str, ...]) -> bool:
    return any(part in model for part in parts)


def _value(members: _Members, name: str) -> Any:
    return lenient.read(members[name]) if name in members else None


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(value).encode())  # msgspec writes no integers beyond 64 bits


def _members(data: bytes) -> _Members:
    """Return an object's members as they are written, of those with one name the last."""
    try:
        try:
            return _DECODER.decode(data)
        except ValueError:  # a lone surrogate in a name
            return {name: msgspec.Raw(text.encode()) for name, text in _scan(data.decode())}
    except RecursionError as failure:
        raise BadRequest("expected a JSON object as the body, found one that is nested too deeply") from failure


def _scan(text: str) -> Iterator[tuple[str, str]]:
    """Yield the names and the texts of the members of a valid object."""
    at = _skip(text, text.index("{") + 1)
    while text[at] != "}":
        name, at = _SCANNER.raw_decode(text, at)
        start = _skip(text, text.index(":", at) + 1)
        _parsed, at = _SCANNER.raw_decode(text, start)
        yield name, text[start:at]
        at = _skip(text, at)
        at = _skip(text, at + (text[at] == ","))


def _skip(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at


def _encode(members: _Members) -> bytes:
    try:
        return msgspec.json.encode(members)
    except ValueError:  # a lone surrogate in a name, which only an escape can spell
        return b"{%b}" % b",".join(b"%b:%b" % (json.dumps(name).encode(), raw) for name, raw in members.items())
