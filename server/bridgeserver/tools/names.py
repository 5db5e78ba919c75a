"""Which tools of a server are offered, and by which ids models call them."""

import hashlib
import re
from typing import Final

PREFIX: Final = "bmcp_"

ID_CHARS: Final = 64
"""The longest name of a tool that OpenAI takes; Anthropic takes twice that."""

DIGEST_CHARS: Final = 8

_ILLEGAL = re.compile(r"[^A-Za-z0-9_-]")


def id_of(server: str, tool: str) -> str:
    """Return the id of a tool: `bmcp_<server>_<tool>` if that is legal for every provider.

    Where it is not, illegal characters become `_`, the end is cut, and a digest of the true name is added. A server's
    name has no `_`, so tools of two servers never meet in one id. And it follows from the two names alone: a model sees
    the ids of earlier turns again, and a prompt cache holds as long as no byte changes, whatever else is at hand.
    """
    name = f"{PREFIX}{server}_{tool}"
    legal = _ILLEGAL.sub("_", name)
    if legal == name and tool and len(name) <= ID_CHARS:
        return name
    digest = hashlib.sha256(f"{server}\0{tool}".encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_CHARS]
    return f"{legal[: ID_CHARS - DIGEST_CHARS - 1]}_{digest}"


class Filter:
    """The tools that are wanted, by their names: patterns are searched for, and an empty one says nothing."""

    def __init__(self, allow: str, deny: str) -> None:
        self._allow = re.compile(allow) if allow else None
        self._deny = re.compile(deny) if deny else None

    def takes(self, tool: str) -> bool:
        """Whether a tool of that name is offered: it is not denied, and it is allowed if anything has to be."""
        if self._deny is not None and self._deny.search(tool):
            return False
        return self._allow is None or self._allow.search(tool) is not None
