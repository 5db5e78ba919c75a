"""What the provider keeps between requests: responses and conversations."""

from typing import Any

import msgspec

from bridgeserver.fakeprovider.answer import Answer, failed, json_answer
from bridgeserver.fakeprovider.asked import Asked
from bridgeserver.fakeprovider.received import Received
from bridgeserver.fakeprovider.routes import Route
from bridgeserver.fakeprovider.script import Fault
from bridgeserver.fakeprovider.seed import make_id

KEPT_LIMIT = 1024
"""Objects that are kept; the oldest goes first."""


class Objects:
    """Responses and conversations by id."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._requests: dict[str, bytes] = {}

    def keep(self, object_id: str, text: bytes, request: bytes) -> None:
        """Keep an object and the request that made it."""
        self._objects[object_id] = text
        self._requests[object_id] = request
        if len(self._objects) > KEPT_LIMIT:
            oldest = next(iter(self._objects))
            del self._objects[oldest], self._requests[oldest]

    def answer(self, route: Route, received: Received, asked: Asked) -> Answer:
        """Answer a request for an object, for its input, or for a new conversation."""
        if route.name == "conversations":
            return self._converse(make_id(asked.seed, "conv_", 48), asked)
        text = self._objects.get(route.object_id)
        if text is None:
            message = f"{route.name.capitalize()} with id '{route.object_id}' not found."
            return failed("openai", Fault(404, message=message))
        if received.method == "DELETE":
            return self._delete(route)
        if route.name == "input_items":
            return _page(_input_items(self._requests[route.object_id], route.object_id))
        if route.name == "cancel":
            return json_answer(msgspec.json.decode(text, type=dict[str, msgspec.Raw]) | {"status": "cancelled"})
        if received.method == "POST":
            return self._converse(route.object_id, asked)
        return Answer(200, (text,))

    def _converse(self, conversation_id: str, asked: Asked) -> Answer:
        answer = json_answer(
            {
                "id": conversation_id,
                "object": "conversation",
                "created_at": asked.created_at,
                "metadata": asked.value("metadata") or {},
            }
        )
        self.keep(conversation_id, answer.pieces[0], b"{}")
        return answer

    def _delete(self, route: Route) -> Answer:
        del self._objects[route.object_id], self._requests[route.object_id]
        kind = "response" if route.name == "response" else "conversation.deleted"
        return json_answer({"id": route.object_id, "object": kind, "deleted": True})


def _input_items(request: bytes, seed: str) -> list[dict[str, Any]]:
    """Return the input of a request as items with ids, newest first."""
    items = msgspec.json.decode(request).get("input", [])
    if isinstance(items, str):
        items = [{"type": "message", "role": "user", "content": items}]
    return [_whole_item(item, make_id(f"{seed}{number}", "msg_", 48)) for number, item in enumerate(items)][::-1]


def _whole_item(item: dict[str, Any], item_id: str) -> dict[str, Any]:
    whole = {"type": "message", "id": item_id, "status": "completed", **item}
    if isinstance(whole.get("content"), str):
        whole["content"] = [{"type": "input_text", "text": whole["content"]}]
    return whole


def _page(items: list[dict[str, Any]]) -> Answer:
    ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]}
    return json_answer({"object": "list", "data": items, **ends, "has_more": False})
