"""What a request asks for."""

from typing import Any

import msgspec

from bridgeserver.fakeprovider.seed import make_seed
from bridgeserver.protocols import lenient

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])

_CONVERSATION = ("model", "messages", "input")

_EMPTY = {b"", b"null", b'""', b"[]"}


class Asked(msgspec.Struct, frozen=True):
    """A request body, its members read only where they are needed, and what its answer's ids are made from."""

    members: dict[str, msgspec.Raw]
    seed: str
    created_at: int

    def value(self, name: str, default: Any = None) -> Any:
        """Return a member as a Python value."""
        raw = self.members.get(name)
        return default if raw is None else lenient.read(raw)

    def objects(self, name: str) -> list[dict[str, Any]]:
        """Return the elements of a member; one that is no object is an empty one."""
        return [lenient.mapping(element) for element in lenient.array(self.value(name))]

    @property
    def model(self) -> str:
        return str(self.value("model", ""))

    @property
    def is_stream(self) -> bool:
        return self.value("stream") is True


def read_asked(body: bytes, salt: int, created_at: int) -> Asked | None:
    """Read a request body; None when it is not a JSON object.

    The seed comes from the conversation alone: a request gives the same ids whether it streams or not, and
    whether or not something on the way asked for more (tools, usage).
    """
    try:
        members = _MEMBERS.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    said = [bytes(members[name]) for name in _CONVERSATION if name in members]
    return Asked(members, make_seed(salt, *(said or [body])), created_at)


def first_missing(asked: Asked, needed: tuple[str, ...]) -> str | None:
    """Return the first of the *needed* members that is absent, null or empty."""
    return next((name for name in needed if bytes(asked.members.get(name, b"")) in _EMPTY), None)
