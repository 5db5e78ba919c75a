"""The operations of the API: the dispatcher goes by this table, and the OpenAPI document is made of it."""

import re
from functools import cached_property
from typing import Any

from msgspec import Struct

from bridgeserver.api.answers import NewToken, Providers, Servers, TokenView, UserTokens
from bridgeserver.api.parameters import INSTANTS, PREFIX, TEXT, Parameter, choice, choices, texts, whole
from bridgeserver.provider_catalog import NewProvider, Patch, ProviderView
from bridgeserver.server_catalog import ServerPatch, ServerView
from bridgeserver.store import views
from bridgeserver.store.queries.usage import GROUPS
from bridgeserver.store.stored import ServerFields

ROOT = "/-/api/v1"
PROVIDERS = f"{ROOT}/providers"
MCP_SERVERS = f"{ROOT}/mcp-servers"
USERS = f"{ROOT}/users"

# A text of other than these needs an escape in a path; names of providers and of servers never do.
PLACES = {"provider": r"([A-Za-z0-9-]{1,128})", "server": r"([A-Za-z0-9-]{1,128})", "user": "([^/]+)", "id": "([^/]+)"}
"""What may stand in a path, by the name of the place."""


class Operation(Struct, frozen=True, kw_only=True, dict=True):
    """What can be done at one path with one method."""

    name: str
    method: str = "GET"
    path: str
    text: str
    answers: dict[int, Any]
    """The type of the answer by status; None where it has no body, `str` for an export."""
    parameters: tuple[Parameter, ...] | None = None
    """None where a query is passed over."""
    body: Any = None
    is_open: bool = False
    """Whether a user's key may do it; what that sees is the user's own."""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What a raw path must match as a whole; the groups are its places."""
        parts = re.split(r"\{(\w+)\}", self.path)
        return re.compile("".join(PLACES[part] if odd % 2 else re.escape(part) for odd, part in enumerate(parts)))

    @property
    def places(self) -> list[str]:
        """The names of the places in the path."""
        return re.findall(r"\{(\w+)\}", self.path)


SELECTION = (
    Parameter("user", TEXT, "Name or id of the user; a user's key sees its own user in any case."),
    Parameter("provider", TEXT, "Name of the provider."),
    Parameter("provider_type", TEXT, "Type of the provider, like `anthropic`."),
    Parameter("model", TEXT, "Model, as the client named it."),
    Parameter("client", TEXT, "Client, like `Claude Code`."),
    Parameter("session_id", TEXT, "Session."),
    Parameter("status", choice("open", "completed", "failed", "cancelled", "interrupted"), "How it ended."),
)

STARTED = (
    Parameter("started_after", INSTANTS, "Only what began at this time or later."),
    Parameter("started_before", INSTANTS, "Only what began before this time."),
)

PERIOD = (
    Parameter("from", INSTANTS, "Beginning of the period; by default 30 days before its end."),
    Parameter("to", INSTANTS, "End of the period, which is not part of it; by default now."),
)

FORMAT = Parameter("format", choice("csv", "jsonl"), "Lines of CSV, or a JSON object a line.", "csv")

LIMIT = Parameter("limit", whole(1, 1000), "At most so many.", 100)

VALUES = (Parameter("prefix", PREFIX, "Only those that begin so.", ""), LIMIT)

GROUP_BY = Parameter("group_by", choices(*GROUPS), "A row for each combination of these; by default one row.", ())

SESSIONS = (
    *SELECTION,
    *STARTED,
    Parameter("q", texts(may_be_empty=True), 'Filters as words, like `initiator:ann model:"x y"`.', ""),
    LIMIT,
    Parameter("after_session_id", TEXT, "The `next` of the page before, or a session's id."),
    Parameter("offset", whole(0, 1_000_000), "Pass over so many; not beside a cursor."),
)

THREADS = (
    Parameter("user", TEXT, "Whose session, where several users have one of this id."),
    Parameter("limit", whole(1, 200), "At most so many threads.", 50),
    Parameter("after_id", TEXT, "The threads after this one."),
    Parameter("before_id", TEXT, "The threads before this one."),
)

OPERATIONS = (
    Operation(
        name="list_interceptions",
        path=f"{ROOT}/interceptions",
        text="Interceptions, the newest first.",
        parameters=(
            *SELECTION,
            *STARTED,
            LIMIT,
            Parameter("after", TEXT, "The `next` of the page before, which is the id of an interception."),
        ),
        answers={200: views.Interceptions},
        is_open=True,
    ),
    Operation(
        name="export_interceptions",
        path=f"{ROOT}/interceptions/export",
        text="All interceptions that match, the oldest first.",
        parameters=(*SELECTION, *STARTED, FORMAT),
        answers={200: str},
        is_open=True,
    ),
    Operation(
        name="get_interception",
        path=f"{ROOT}/interceptions/{{id}}",
        text="One interception.",
        parameters=(),
        answers={200: views.Interception},
        is_open=True,
    ),
    Operation(
        name="list_sessions",
        path=f"{ROOT}/sessions",
        text="Sessions, the one that was active last first.",
        parameters=SESSIONS,
        answers={200: views.Sessions},
        is_open=True,
    ),
    Operation(
        name="get_session",
        path=f"{ROOT}/sessions/{{id}}",
        text="One session with its threads, the oldest first.",
        parameters=THREADS,
        answers={200: views.SessionThreads},
        is_open=True,
    ),
    Operation(
        name="list_models",
        path=f"{ROOT}/models",
        text="Models that were asked for.",
        parameters=VALUES,
        answers={200: views.Models},
        is_open=True,
    ),
    Operation(
        name="list_clients",
        path=f"{ROOT}/clients",
        text="Clients that asked.",
        parameters=VALUES,
        answers={200: views.Clients},
        is_open=True,
    ),
    Operation(
        name="list_users",
        path=USERS,
        text="Users; a user's key sees its own.",
        parameters=VALUES,
        answers={200: views.Users},
        is_open=True,
    ),
    Operation(
        name="get_usage",
        path=f"{ROOT}/usage",
        text="What requests used and cost, by group.",
        parameters=(GROUP_BY, *PERIOD, *SELECTION),
        answers={200: views.UsageReport},
        is_open=True,
    ),
    Operation(
        name="get_unpriced",
        path=f"{ROOT}/usage/unpriced",
        text="Models without a price, and what they used.",
        parameters=(*PERIOD, *SELECTION),
        answers={200: views.Unpriced},
        is_open=True,
    ),
    Operation(
        name="export_usage",
        path=f"{ROOT}/usage/export",
        text="What requests used and cost, by group, however many there are.",
        parameters=(GROUP_BY._replace(default=("user", "provider", "model")), *PERIOD, *SELECTION, FORMAT),
        answers={200: str},
        is_open=True,
    ),
    Operation(
        name="get_openapi",
        path=f"{ROOT}/openapi.json",
        text="This document.",
        answers={200: dict[str, Any]},
        is_open=True,
    ),
    Operation(
        name="list_providers", path=PROVIDERS, text="Providers of the file and of the store.", answers={200: Providers}
    ),
    Operation(
        name="create_provider",
        method="POST",
        path=PROVIDERS,
        text="Store a provider.",
        body=NewProvider,
        answers={201: ProviderView},
    ),
    Operation(name="get_provider", path=f"{PROVIDERS}/{{provider}}", text="One provider.", answers={200: ProviderView}),
    Operation(
        name="change_provider",
        method="PATCH",
        path=f"{PROVIDERS}/{{provider}}",
        text="Change a provider; one of the file can only be switched.",
        body=Patch,
        answers={200: ProviderView},
    ),
    Operation(
        name="delete_provider",
        method="DELETE",
        path=f"{PROVIDERS}/{{provider}}",
        text="Delete a provider of the store.",
        answers={204: None},
    ),
    Operation(
        name="reset_provider",
        method="POST",
        path=f"{PROVIDERS}/{{provider}}/reset",
        text="End the override of a provider of the file.",
        answers={200: ProviderView, 204: None},
    ),
    Operation(
        name="list_mcp_servers",
        path=MCP_SERVERS,
        text="MCP servers of the file and of the store.",
        answers={200: Servers},
    ),
    Operation(
        name="create_mcp_server",
        method="POST",
        path=MCP_SERVERS,
        text="Store an MCP server.",
        body=ServerFields,
        answers={201: ServerView},
    ),
    Operation(
        name="get_mcp_server", path=f"{MCP_SERVERS}/{{server}}", text="One MCP server.", answers={200: ServerView}
    ),
    Operation(
        name="change_mcp_server",
        method="PATCH",
        path=f"{MCP_SERVERS}/{{server}}",
        text="Change an MCP server; one of the file can only be switched.",
        body=ServerPatch,
        answers={200: ServerView},
    ),
    Operation(
        name="delete_mcp_server",
        method="DELETE",
        path=f"{MCP_SERVERS}/{{server}}",
        text="Delete an MCP server of the store, and its users' tokens.",
        answers={204: None},
    ),
    Operation(
        name="reset_mcp_server",
        method="POST",
        path=f"{MCP_SERVERS}/{{server}}/reset",
        text="End the override of an MCP server of the file.",
        answers={200: ServerView, 204: None},
    ),
    Operation(
        name="list_tokens",
        path=f"{USERS}/{{user}}/tools",
        text="For which MCP servers a user has a token.",
        answers={200: UserTokens},
    ),
    Operation(
        name="set_token",
        method="PUT",
        path=f"{USERS}/{{user}}/tools/{{server}}",
        text="Store a user's own token for an MCP server.",
        body=NewToken,
        answers={200: TokenView, 201: TokenView},
    ),
    Operation(
        name="remove_token",
        method="DELETE",
        path=f"{USERS}/{{user}}/tools/{{server}}",
        text="Delete a user's own token for an MCP server.",
        answers={204: None},
    ),
)
