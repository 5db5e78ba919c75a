"""The configuration: one frozen tree, read once from the file, the environment and the flags."""

from bridgeserver.config.loader import DEFAULT_FILE, load
from bridgeserver.config.rendering import render
from bridgeserver.config.schema import (
    BrokenProvider,
    Config,
    DumpsConfig,
    JournalConfig,
    LogsConfig,
    McpServerConfig,
    MetricsConfig,
    PoolConfig,
    PriceConfig,
    ProviderConfig,
    RecordsConfig,
    ServerConfig,
    StoreConfig,
    ToolsConfig,
    TracingConfig,
)

__all__ = [
    "DEFAULT_FILE",
    "BrokenProvider",
    "Config",
    "DumpsConfig",
    "JournalConfig",
    "LogsConfig",
    "McpServerConfig",
    "MetricsConfig",
    "PoolConfig",
    "PriceConfig",
    "ProviderConfig",
    "RecordsConfig",
    "ServerConfig",
    "StoreConfig",
    "ToolsConfig",
    "TracingConfig",
    "load",
    "render",
]
