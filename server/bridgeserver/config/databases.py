"""Which database a URL names, what may be shown of it, and what is wrong with it."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

SQLITE = "sqlite:///"
POSTGRESQL = "postgresql://"

VISIBLE = re.compile(r"[\x21-\x7e]+")
BROKEN_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
SERVER = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
ABSOLUTE = re.compile("/.+"), "an absolute path"

MEMBERS = {
    "host": (re.compile("/.+"), "the folder of a socket, as an absolute path"),
    "port": (re.compile("[0-9]{1,5}"), "the number in the name of that socket"),
    "sslmode": (
        re.compile("disable|allow|prefer|require|verify-ca|verify-full"),
        "disable, allow, prefer, require, verify-ca or verify-full",
    ),
    "sslrootcert": ABSOLUTE,
    "sslcert": ABSOLUTE,
    "sslkey": ABSOLUTE,
    "application_name": (re.compile("[ -~]{1,63}"), "1 to 63 characters"),
    "target_session_attrs": (
        re.compile("any|primary|standby|read-write|read-only|prefer-standby"),
        "any, primary, standby, read-write, read-only or prefer-standby",
    ),
}
"""What may follow the `?` of a PostgreSQL URL, and what each takes."""


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite database; None for a database on a server."""
    return Path(url.removeprefix(SQLITE)) if url.startswith(SQLITE) else None


def is_store_url(text: str) -> bool:
    """Whether *text* names a database of a kind that this version knows."""
    return _is_sqlite_url(text) or _is_postgresql_url(text)


def _is_sqlite_url(text: str) -> bool:
    # A database in memory would not be shared by the processes.
    path = text.removeprefix(SQLITE)
    return path not in {text, "", ":memory:"} and not set(path) & {"?", "\0", "\n", "\r"}


def _is_postgresql_url(text: str) -> bool:
    if not text.startswith(POSTGRESQL) or not VISIBLE.fullmatch(text) or BROKEN_ESCAPE.search(text) or "#" in text:
        return False
    place, _, path = text.removeprefix(POSTGRESQL).partition("?")[0].partition("/")
    user, _, servers = place.rpartition("@")
    is_named = path != "" and "/" not in path and "@" not in user
    return is_named and (not servers or all(SERVER.fullmatch(server) for server in servers.split(",")))


def mistakes(url: str) -> Iterator[tuple[str, str]]:
    """Yield what was found and expected of each wrong member behind the `?` of a URL; no value is shown."""
    if not url.startswith(POSTGRESQL):
        return
    seen = set[str]()
    for name, value in _members(url):
        if name not in MEMBERS:
            yield "a member that is not known", f"one of {', '.join(MEMBERS)} behind the ?"
        elif name in seen:
            yield f"{name} a second time", "each member once"
        elif not MEMBERS[name][0].fullmatch(value):
            yield f"something else as {name}", MEMBERS[name][1]
        seen.add(name)


def shown(url: str) -> str:
    """Return a URL without its password."""
    return re.sub("(//[^/?@:]*):[^/?@]*@", r"\1:...@", url, count=1) if url.startswith(POSTGRESQL) else url


def place(url: str) -> str:
    """Return what messages call the database."""
    if not url.startswith(POSTGRESQL):
        return url.removeprefix(SQLITE)
    parts = urlsplit(url)
    servers = parts.netloc.rpartition("@")[2] or dict(_members(url)).get("host", "")
    return f"{parts.path.removeprefix('/')} at {servers}" if servers else parts.path.removeprefix("/")


def has_member(url: str, name: str) -> bool:
    """Whether a member stands behind the `?` of a URL."""
    return name in dict(_members(url))


def _members(url: str) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(url).query, keep_blank_values=True)
