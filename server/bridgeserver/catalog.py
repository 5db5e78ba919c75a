"""What an administrator sees and changes of one kind: those of the configuration file and of the store, in one list.

One of the store replaces the file's of that name whole. One of the file is changed in the file; all that can be done to
it here is to switch it, which writes an override, and to end that override again.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import msgspec
from msgspec import UNSET, Struct

from bridgeserver.asks import Refused
from bridgeserver.bodies import convert, read
from bridgeserver.status import McpServerStatus, ProviderStatus, ReloadStatus
from bridgeserver.store.stored import StoredProvider, StoredServer

View = dict[str, Any]
"""Members of one of the kind as the answers show it."""


class Shape(Struct, frozen=True, kw_only=True):
    """What the answers show of any kind; one of the file has no id here."""

    id: str | None
    name: str
    enabled: bool
    source: Literal["file", "store"]
    status: Literal["enabled", "disabled", "error"]
    status_reason: str
    override: bool | None
    """What a switch of the file's one has set `enabled` to."""


NOT_YET = "the workers do not have it yet"

Stored = TypeVar("Stored", StoredProvider, StoredServer)
Status = TypeVar("Status", ProviderStatus, McpServerStatus)
Shown = TypeVar("Shown", bound="Shape")


class State(Protocol):
    """What is needed of the reloader."""

    @property
    def file_names(self) -> Collection[str]:
        """The providers of the configuration file."""
        ...

    @property
    def file_servers(self) -> Mapping[str, str]:
        """The URLs of the MCP servers of the configuration file by name."""
        ...

    def status(self) -> ReloadStatus:
        """Return what is in force now."""
        ...

    def apply(self, timeout_s: float) -> bool:
        """Reload now, and wait until every worker follows; return False if that takes longer than *timeout_s*."""
        ...


class Catalog(ABC, Generic[Stored, Status, Shown]):
    """One kind of both sources. Methods raise Refused for what cannot be done, and what the store raises."""

    noun: ClassVar[str]
    fixed: ClassVar[tuple[str, ...]]
    """Members that are for good."""
    patch: ClassVar[type[Struct]]
    """The body of a request for a change: what is omitted stays."""
    shape: type[Shown]

    def __init__(self, state: State) -> None:
        self._state = state

    @abstractmethod
    def create(self, body: bytes, actor: str) -> str:
        """Store one and return its name."""

    @abstractmethod
    def _stored(self) -> Sequence[Stored]:
        """Return those of the store."""

    @abstractmethod
    def _file_names(self) -> Collection[str]:
        """Return the names of those of the file."""

    @abstractmethod
    def _in_force(self, status: ReloadStatus) -> Sequence[Status]:
        """Return what is in force of both."""

    @abstractmethod
    def _stored_view(self, stored: Stored) -> View:
        """Return what is shown of a stored one, beside its state."""

    @abstractmethod
    def _file_view(self, name: str, found: Status | None) -> View:
        """Return the same of one of the file, with what is said of it if it is in force."""

    @abstractmethod
    def _change(self, name: str, given: dict[str, Any], actor: str) -> None:
        """Change a stored one."""

    @abstractmethod
    def _switch(self, name: str, *, enabled: bool, actor: str) -> None:
        """Override `enabled` of one of the file."""

    @abstractmethod
    def _delete(self, name: str, actor: str) -> None:
        """Delete a stored one."""

    @abstractmethod
    def _overrides(self) -> Mapping[str, bool]:
        """Return the overrides by name."""

    @abstractmethod
    def _end_override(self, name: str, actor: str) -> None:
        """End one of these."""

    def views(self) -> list[Shown]:
        """Return all by name."""
        status = self._state.status()
        overrides = self._overrides()
        in_force = {(found.source, found.name): found for found in self._in_force(status)}
        stored = {item.name: item for item in self._stored()}
        reason = status.last_error or status.store_error or NOT_YET
        views: list[View] = [
            self._stored_view(item) | _state("store", in_force.get(("store", name)), reason) | {"override": None}
            for name, item in stored.items()
        ]
        from_file = {name for source, name in in_force if source == "file"} | {*self._file_names()}
        for name in from_file - stored.keys():
            found = in_force.get(("file", name))
            view = self._file_view(name, found) | _state("file", found, NOT_YET) | {"override": overrides.get(name)}
            enabled = found is None or found.status != "disabled"
            views.append(view | {"enabled": overrides.get(name, enabled)})
        return sorted((self.shape(**view) for view in views), key=lambda view: view.name)

    def find(self, id_or_name: str) -> Shown | None:
        """Return one, or None if there is no such; a name beats an id."""
        views = self.views()
        return next((view for member in ("name", "id") for view in views if getattr(view, member) == id_or_name), None)

    def view(self, id_or_name: str) -> Shown:
        """Return one."""
        view = self.find(id_or_name)
        if view is None:
            raise Refused(404, f"no {self.noun} has the id or the name {id_or_name}; the list shows those there are")
        return view

    def change(self, id_or_name: str, body: bytes, actor: str) -> str:
        """Change one and return its name."""
        view = self.view(id_or_name)
        given = given_of(convert(read(body), self.patch))
        name = view.name
        for member in self.fixed:
            if given.pop(member, getattr(view, member)) != getattr(view, member):
                raise Refused(409, f"{member}: it is for good: create another {self.noun}, and delete {name}")
        if view.source == "store":
            self._change(name, given, actor)
        elif given.keys() - {"enabled"}:
            raise Refused(
                409,
                f"{self.noun} {name} is in the configuration file, and only `enabled` can be changed here: "
                "change the file and reload, or create one of that name, which replaces it whole",
            )
        elif given:
            self._switch(name, enabled=given["enabled"], actor=actor)
        return name

    def delete(self, id_or_name: str, actor: str) -> None:
        """Delete one of the store."""
        view = self.view(id_or_name)
        if view.source == "file":
            raise Refused(
                409,
                f"{self.noun} {view.name} is in the configuration file: remove it there and reload, "
                'or switch it off with PATCH and {"enabled": false}',
            )
        self._delete(view.name, actor)

    def reset(self, name: str, actor: str) -> None:
        """End the override of one of the file; without one nothing changes."""
        if name in self._overrides():
            self._end_override(name, actor)
        elif self.view(name).source == "store":
            raise Refused(409, f"{self.noun} {name} is in the store and has no override: PATCH changes it itself")


def given_of(struct: Struct) -> dict[str, Any]:
    """Return the members that were given."""
    return {name: value for name, value in msgspec.structs.asdict(struct).items() if value is not UNSET}


def _state(source: Literal["file", "store"], found: ProviderStatus | McpServerStatus | None, missing: str) -> View:
    status, reason = ("error", missing) if found is None else (found.status, found.reason)
    return {"source": source, "status": status, "status_reason": reason}
