"""The content of a tool's result, in the forms that more than one protocol has."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from bridgeserver.protocols import lenient
from bridgeserver.weaving.edits import encode
from bridgeserver.weaving.weaver import Outcome

IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
"""What the vision models of both vendors read."""


class Image(NamedTuple):
    """An image in base64."""

    media_type: str
    data: str

    @property
    def url(self) -> str:
        """Return it as a `data:` URL."""
        return f"data:{self.media_type};base64,{self.data}"


Part = str | Image


def parts_of(outcome: Outcome) -> list[Part]:
    """Return what the model is told of a call: text, and images where its protocol can carry them.

    What no model reads is named, with its type and its place, so that the model knows that it is there.
    """
    result = outcome.result
    if result is None:
        return [f"Error: {outcome.error}"]
    parts = [_part(block) for block in result.content]
    if not parts and result.structured is not None:
        parts.append(encode(result.structured).decode())
    return parts or ["Error: the tool failed and did not say why" if result.is_error else "(the result is empty)"]


def text_of(outcome: Outcome) -> str:
    """Return what the model is told of a call, for a protocol that carries only text."""
    texts = [_described(part) if isinstance(part, Image) else part for part in parts_of(outcome)]
    return "\n".join(texts)


def _described(image: Image) -> str:
    return f"[an image of type {image.media_type}, which cannot be shown here]"


def _part(block: Mapping[str, Any]) -> Part:
    kind = block.get("type")
    media_type = lenient.text(block.get("mimeType")) or "unknown"
    if kind == "text":
        return lenient.text(block.get("text"))
    if kind == "image" and media_type in IMAGES:
        return Image(media_type, lenient.text(block.get("data")))
    if kind in {"image", "audio"}:
        return f"[{kind} of type {media_type}, which cannot be shown here]"
    if kind == "resource":
        return _resource(lenient.mapping(block.get("resource")))
    if kind == "resource_link":
        said = [lenient.text(block.get(member)) for member in ("title", "name", "description")]
        return f"[resource {block.get('uri')} of type {media_type}: {'; '.join(filter(None, said))}]"
    return encode(msgspec.to_builtins(block)).decode()


def _resource(resource: Mapping[str, Any]) -> Part:
    if isinstance(resource.get("text"), str):
        return lenient.text(resource["text"])
    media_type = lenient.text(resource.get("mimeType")) or "unknown"
    if media_type in IMAGES:
        return Image(media_type, lenient.text(resource.get("blob")))
    return f"[binary resource {resource.get('uri')} of type {media_type}, which cannot be shown here]"
