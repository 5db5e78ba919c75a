"""Connections to PostgreSQL by asyncpg alone, for the parent and its workers, and what their failures are called."""

import asyncio
import ssl
from collections.abc import Iterator, Mapping
from typing import Any

import asyncpg

from bridgeserver.config.databases import has_member, place
from bridgeserver.errors import StoreError, StoreUnavailable

APPLICATION = "bridgecore"

PASSING = frozenset({"08", "40", "53", "57", "58"})
"""Classes of SQLSTATE that tell of the moment: connection, rollback (deadlock), resources (disk full, too many
connections), an operator (a shutdown, a cancelled statement), the system below."""

PASSING_CODES = frozenset({"25006", "55P03"})
"""A server that only reads, as a standby does until it is promoted; a lock that was not to be had in time."""

LASTING_CODES = frozenset({"57P04"})
"""A database that was dropped."""

FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""What asyncpg raises; a TimeoutError is an OSError."""


async def connect(
    url: str, *, timeout_s: float, statement_s: float | None, settings: Mapping[str, str]
) -> "asyncpg.Connection[Any]":
    """Return a connection to the database at *url*, whose statements may take *statement_s*; raises FAILURES.

    A server that does not answer any more is noticed a moment after it should have ended a statement by itself.
    """
    names = {} if has_member(url, "application_name") else {"application_name": APPLICATION}
    limits = {"statement_timeout": str(int((statement_s or 0) * 1000))}
    return await asyncpg.connect(
        url,
        timeout=timeout_s,
        command_timeout=None if statement_s is None else statement_s * 1.25,
        server_settings={**names, **limits, **settings},
    )


async def cancel_others() -> None:
    """End every other task of the loop, such as asking a server that is silent to cancel a statement."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)  # what was terminated is let go of in the next turn


def failure(url: str, exc: BaseException, hint: str) -> StoreError:
    """Return what an exception of the driver, or one around it, means.

    Only the server's own message is taken, and its detail is removed where it stands: it quotes the rows.
    """
    inner = next((link for link in _chain(exc) if isinstance(link, FAILURES)), exc)
    if isinstance(inner, asyncpg.PostgresError):
        inner.detail = None
    elif isinstance(inner, asyncpg.DataError):
        inner.args = ("a value does not fit its column",)
    kind = StoreUnavailable if _passes(inner) else StoreError
    return kind(f"the database {place(url)} failed ({_reason(inner)}): {hint}")


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


def _passes(exc: BaseException) -> bool:
    if isinstance(
        exc, asyncpg.InvalidCachedStatementError
    ):  # somebody has migrated; the next statement is planned anew
        return True
    if isinstance(exc, asyncpg.PostgresError):
        code = exc.sqlstate or ""
        return code not in LASTING_CODES and (code[:2] in PASSING or code in PASSING_CODES)
    if isinstance(exc, OSError):
        return not isinstance(exc, ssl.SSLCertVerificationError)
    # Of the others only a connection that is gone passes: what else asyncpg refuses is wrong in itself.
    return isinstance(exc, asyncpg.InterfaceError) and not isinstance(exc, ValueError)


def _reason(exc: BaseException) -> str:
    if isinstance(exc, TimeoutError):
        return "it does not answer"
    text = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return text.partition("\n")[0] or type(exc).__name__
