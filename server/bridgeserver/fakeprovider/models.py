"""The lists of models: the catalogue's, and a few names that clients expect to find."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from bridgeserver.fakeprovider.answer import Answer, json_answer
from bridgeserver.fakeprovider.faults import Family
from bridgeserver.fakeprovider.seed import CREATED_AT

_KNOWN: dict[Family, tuple[str, ...]] = {
    "anthropic": ("claude-haiku-4-5", "claude-opus-4-5", "claude-sonnet-4-5"),
    "openai": ("gpt-5", "gpt-5-codex", "gpt-5-mini"),
}


def list_models(family: Family, scripted: Iterable[str]) -> Answer:
    """Answer with every model on one page."""
    models = [_model(family, name) for name in (*_KNOWN[family], *sorted(scripted))]
    if family == "openai":
        return json_answer({"object": "list", "data": models})
    ends = {"first_id": models[0]["id"], "last_id": models[-1]["id"]}
    return json_answer({"data": models, "has_more": False, **ends})


def one_model(family: Family, name: str) -> Answer:
    """Answer with one model; every name is one."""
    return json_answer(_model(family, name))


def _model(family: Family, name: str) -> dict[str, Any]:
    if family == "openai":
        return {"id": name, "object": "model", "created": CREATED_AT, "owned_by": "system"}
    created_at = datetime.fromtimestamp(CREATED_AT, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": name, "display_name": name, "created_at": created_at, "lifecycle": "active"}
