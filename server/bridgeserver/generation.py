"""What the gateway serves at one time: providers and the connections to them, as one snapshot that never changes.

A request takes the generation in force once, when it begins, and keeps it to its end.
"""

from collections.abc import Mapping
from types import MappingProxyType

from bridgeserver.providers import Provider
from bridgeserver.upstream import Origin, Upstream


class Generation:
    """One immutable snapshot; a change of the configuration makes another one."""

    __slots__ = ("_upstreams", "number", "providers")

    def __init__(
        self, number: int, providers: Mapping[str, Provider], upstreams: Mapping[Origin, Upstream] | None = None
    ) -> None:
        self.number = number
        self.providers = MappingProxyType(dict(providers))
        self._upstreams = dict(upstreams or {})

    def upstream(self, origin: Origin) -> Upstream:
        """Return the connections to the origin of one of the providers."""
        return self._upstreams[origin]
