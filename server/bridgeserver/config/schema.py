"""Every option: its name, type, range and default.

An option's type carries one `Meta`. Its `description` is what a mistake says was expected; its `extra` may
hold a `check` that says whether a value is acceptable, and `is_secret`, so that no mistake shows the value.
Options without a default here get it from others (`loader`); docs/operations.md lists them all.
"""

from math import isfinite
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from bridgeserver.config import checks, databases
from bridgeserver.secret import Secret

Switch = Annotated[bool, Meta(description="true or false")]
Port = Annotated[int, Meta(ge=0, le=65_535, description="a port from 0 to 65535")]
Workers = Annotated[int, Meta(ge=1, le=256, description="a whole number from 1 to 256")]
Count = Annotated[int, Meta(ge=1, le=1_000_000, description="a whole number from 1 to 1000000")]
Size = Annotated[int, Meta(ge=1024, le=1 << 40, description="bytes, from 1024 to 2^40")]
HeadSize = Annotated[int, Meta(ge=1024, le=128 << 10, description="bytes, from 1024 to 131072")]
JournalSize = Annotated[int, Meta(ge=1 << 20, le=1 << 50, description="bytes, from 1048576 to 2^50")]
Failures = Annotated[int, Meta(ge=0, le=1000, description="a whole number from 0 to 1000; 0 is off")]
Probes = Annotated[int, Meta(ge=1, le=1000, description="a whole number from 1 to 1000")]
Seconds = Annotated[float, Meta(gt=0, le=86_400, description="seconds, more than 0 and at most 86400")]
LongSeconds = Annotated[float, Meta(ge=60, le=31_536_000, description="seconds, from 60 to 31536000")]
Pause = Annotated[float, Meta(ge=0, le=86_400, description="seconds, from 0 to 86400")]

Host = Annotated[
    str,
    Meta(description="an address or a host name, without brackets and port", extra={"check": checks.is_host}),
]
Place = Annotated[
    str,
    Meta(
        description='an address or a host name with a port, such as "127.0.0.1:9090" or "[::1]:9090"',
        extra={"check": checks.is_place},
    ),
]
Network = Annotated[
    str,
    Meta(description='an address or a network such as "10.0.0.0/8"', extra={"check": checks.is_network}),
]
FilePath = Annotated[Path | None, Meta(description="the path of a file")]
FolderPath = Annotated[Path, Meta(description="the path of a folder")]
StoreUrl = Annotated[
    str,
    Meta(
        description='"sqlite:///FILE", "postgresql://USER:PASSWORD@HOST:PORT/DATABASE", "env:NAME" or "file:PATH"',
        extra={"check": databases.is_store_url, "may_be_reference": True},
    ),
]
BaseUrl = Annotated[
    str,
    Meta(
        description="an http or https URL with a host, without credentials, query and fragment",
        extra={"check": checks.is_base_url},
    ),
]
ProviderName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9]+(-[a-z0-9]+)*\Z",
        description="lower-case letters and digits, with single hyphens between them",
    ),
]
ProviderType = Annotated[
    Literal["anthropic", "openai", "copilot", "bedrock"],
    Meta(description='"anthropic", "openai", "copilot" or "bedrock"'),
]
Auth = Annotated[
    Literal["bearer", "x-api-key", "api-key", "aws", "none"],
    Meta(description='"bearer", "x-api-key", "api-key", "aws" or "none"'),
]
Keys = Annotated[
    tuple[Annotated[Secret, Meta(description="a key", extra={"is_secret": True})], ...],
    Meta(description='a list of keys, each a literal, "env:NAME" or "file:PATH"', extra={"is_secret": True}),
]
SealingKeys = Annotated[
    tuple[
        Annotated[
            Secret,
            Meta(
                description="32 bytes in base64, as `openssl rand -base64 32` prints them",
                extra={"is_secret": True, "check": checks.is_sealing_key},
            ),
        ],
        ...,
    ],
    Meta(
        description='a key of 32 bytes in base64 or a list of such, each a literal, "env:NAME" or "file:PATH"',
        extra={"is_secret": True, "may_be_single": True},
    ),
]
Tokens = Annotated[
    tuple[
        Annotated[
            Secret,
            Meta(
                description="at least 16 visible ASCII characters without spaces",
                extra={"is_secret": True, "check": checks.is_token},
            ),
        ],
        ...,
    ],
    Meta(
        description='a token or a list of such, each a literal, "env:NAME" or "file:PATH"',
        extra={"is_secret": True, "may_be_single": True},
    ),
]
Region = Annotated[
    str, Meta(pattern=r"^([a-z]{2,}(-[a-z]+)+-[0-9]+)?\Z", description='a region of AWS such as "eu-central-1"')
]
BedrockApi = Annotated[Literal["invoke", "mantle"], Meta(description='"invoke" or "mantle"')]
ModelId = Annotated[
    str,
    Meta(pattern=r"^[\x21-\x7e]{1,512}\Z", description="the id of a model or the ARN of an inference profile"),
]
Word = Annotated[str, Meta(pattern=r"^[\x21-\x7e]{0,2048}\Z", description="text without spaces")]
HeaderName = Annotated[
    str,
    Meta(
        description="the name of a header that neither carries a credential nor belongs to the connection",
        extra={"check": checks.is_extra_header},
    ),
]
HeaderValue = Annotated[
    str,
    Meta(
        pattern=r"^([\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?)?\Z",
        description="printable ASCII without spaces at its ends",
        extra={"is_secret": True},
    ),
]
McpUrl = Annotated[
    str,
    Meta(
        description="an http or https URL with a host, without credentials and fragment",
        extra={"check": checks.is_mcp_url},
    ),
]
McpHeaderName = Annotated[
    str,
    Meta(
        description="the name of a header that does not belong to the connection", extra={"check": checks.is_mcp_header}
    ),
]
HeaderSecret = Annotated[
    Secret,
    Meta(
        description="printable ASCII without spaces at its ends",
        extra={"is_secret": True, "check": checks.is_header_text},
    ),
]
Pattern = Annotated[
    str, Meta(description="a regular expression, which is searched for", extra={"check": checks.is_pattern})
]
CollectorUrl = Annotated[
    str,
    Meta(
        description="an http or https URL with a host, without credentials, query and fragment, or nothing",
        extra={"check": checks.is_collector_url},
    ),
]
Ratio = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")]
ServiceName = Annotated[
    str, Meta(pattern=r"^[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?\Z", description="a name in printable ASCII")
]
Turns = Annotated[int, Meta(ge=1, le=1000, description="a whole number from 1 to 1000")]
Days = Annotated[int, Meta(ge=0, le=36_500, description="whole days from 0 to 36500; 0 is for ever")]
ModelPattern = Annotated[
    str,
    Meta(pattern=r"^[\x21-\x7e]{1,512}\Z", description="the name of a model, in which * stands for any text"),
]
Dollars = Annotated[
    float,
    Meta(ge=0, le=1_000_000, description="dollars for a million tokens, from 0 to 1000000", extra={"check": isfinite}),
]
QueryName = Annotated[str, Meta(min_length=1, description="the name of a parameter")]
QueryValue = Annotated[str, Meta(description="text", extra={"is_secret": True})]


class ServerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the gateway listens, and what it allows."""

    host: Host = "127.0.0.1"
    port: Port = 8080
    workers: Workers = 1
    max_body_bytes: Size = 32 << 20
    max_buffered_bytes: Size = 256 << 20
    max_head_bytes: HeadSize = 64 << 10
    keepalive_timeout_s: Seconds = 90.0
    body_timeout_s: Seconds = 60.0
    client_stall_s: Seconds = 300.0
    upstream_connect_timeout_s: Seconds = 10.0
    upstream_idle_timeout_s: Seconds = 600.0
    upstream_pool: Count = 1024
    upstream_pool_wait_s: Pause = 5.0
    unready_s: Pause = 5.0
    drain_s: Pause = 300.0
    max_streams: Count = 10_000
    max_connections: Count
    identity_grace_s: Pause = 900.0
    insecure_http: Switch = False
    tls_cert: FilePath = None
    tls_key: FilePath = None
    trusted_proxies: Annotated[tuple[Network, ...], Meta(description="a list of addresses and networks")] = ()
    log_format: Annotated[
        Literal["auto", "json", "console"],
        Meta(description='"auto", "json" or "console"'),
    ] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description='"debug", "info", "warning" or "error"'),
    ] = "info"
    access_log: Switch = False
    admin_listen: Place = ""


class StoreConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where users, keys and records are kept."""

    url: StoreUrl = "sqlite:///bridgecore.db"
    encryption_key: SealingKeys = ()


class PoolConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bridges that are kept ready, one for each caller and gateway key."""

    max_bridges: Count = 5000
    ttl_s: Seconds = 900.0


class JournalConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where records wait for the store, and what happens when it does not take them."""

    path: FolderPath
    max_bytes: JournalSize = 1 << 30
    max_lag_s: Seconds = 30.0
    sync: Annotated[
        Literal["none", "interval", "always"],
        Meta(description='"none", "interval" or "always"'),
    ] = "none"
    on_store_failure: Annotated[Literal["spool", "reject"], Meta(description='"spool" or "reject"')] = "spool"
    lost_after_s: LongSeconds = 86_400.0


class RecordsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is recorded, and for how long."""

    retention_days: Days = 0
    content: Switch = True


class MetricsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What Prometheus is told, and whom else than administrators."""

    token: Tokens = ()
    user_label: Switch = False


class DumpsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the requests and answers of providers with `dumps` are kept as files, for debugging."""

    path: FolderPath
    max_file_bytes: Size = 4 << 20
    max_bytes: Size = 1 << 30


class ProviderConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One provider: where it is, and what it is shown."""

    name: ProviderName
    type: ProviderType
    base_url: BaseUrl
    keys: Keys = ()
    enabled: Switch = True
    auth: Auth
    extra_headers: Annotated[
        dict[HeaderName, HeaderValue],
        Meta(description="a table of header names and values", extra={"is_secret": True}),
    ] = {}
    query: Annotated[
        dict[QueryName, QueryValue],
        Meta(description="a table of parameters and values", extra={"is_secret": True}),
    ] = {}
    shared_state: Switch = False
    allow_link_local: Switch = False
    actor_headers: Switch = False
    dumps: Switch = False
    breaker_failures: Failures = 0
    breaker_interval_s: Pause = 10.0
    breaker_timeout_s: Seconds = 30.0
    breaker_probes: Probes = 3
    region: Region = ""
    bedrock_api: BedrockApi = "invoke"
    model: ModelId = "global.anthropic.claude-sonnet-4-5-20250929-v1:0"
    small_fast_model: ModelId = "global.anthropic.claude-haiku-4-5-20251001-v1:0"
    aws_profile: Word = ""
    aws_role: Word = ""
    aws_external_id: Word = ""


class McpServerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One MCP server, whose tools every caller has."""

    name: ProviderName
    url: McpUrl
    headers: Annotated[
        dict[McpHeaderName, HeaderSecret],
        Meta(description="a table of header names and values", extra={"is_secret": True}),
    ] = {}
    user_token: Switch = False
    allow: Pattern = ""
    deny: Pattern = ""
    enabled: Switch = True
    allow_link_local: Switch = False

    @property
    def public_url(self) -> str:
        """Where it is, without the query, which may hold a secret."""
        return self.url.partition("?")[0]


class ToolsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the tools of MCP servers are offered to models, and called."""

    max_turns: Turns = 25
    call_timeout_s: Seconds = 60.0
    connect_timeout_s: Seconds = 10.0
    max_result_bytes: Size = 1 << 20
    max_tools: Count = 128
    skip_models: Pattern = "haiku"
    record_results: Switch = False


class TracingConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the spans of requests go, and of which."""

    endpoint: CollectorUrl = ""
    headers: Annotated[
        dict[McpHeaderName, HeaderSecret],
        Meta(description="a table of header names and values", extra={"is_secret": True}),
    ] = {}
    sample_ratio: Ratio = 1.0
    trust_parent: Switch = False
    service_name: ServiceName = "bridgecore"


class LogsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is logged beside events."""

    records: Switch = False
    record_content: Switch = False


class PriceConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the tokens of a model cost, in place of what the gateway knows."""

    model: ModelPattern
    provider: Annotated[
        str, Meta(pattern=r"^([a-z0-9]+(-[a-z0-9]+)*)?\Z", description="the name of a provider, or nothing for any")
    ] = ""
    input: Dollars = 0.0
    output: Dollars = 0.0
    cache_read: Dollars = 0.0
    cache_write: Dollars = 0.0


class BrokenProvider(Struct, frozen=True, kw_only=True):
    """A provider that cannot be reached as it is configured; the others are served without it."""

    name: str
    type: str
    reason: str


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration; relative paths are resolved, and references to keys are followed."""

    server: ServerConfig
    store: StoreConfig
    journal: JournalConfig
    pool: PoolConfig
    records: RecordsConfig
    dumps: DumpsConfig
    tools: ToolsConfig
    tracing: TracingConfig
    logs: LogsConfig
    metrics: MetricsConfig
    providers: tuple[ProviderConfig, ...]
    broken: tuple[BrokenProvider, ...] = ()
    mcp_servers: tuple[McpServerConfig, ...] = ()
    prices: tuple[PriceConfig, ...] = ()
