"""The configuration: one frozen tree, read once from the file, the environment and the flags."""

from bridgeserver.config.loader import load
from bridgeserver.config.rendering import render
from bridgeserver.config.schema import Config, JournalConfig, ProviderConfig, ServerConfig, StoreConfig

__all__ = ["Config", "JournalConfig", "ProviderConfig", "ServerConfig", "StoreConfig", "load", "render"]
