"""What the configuration takes, where it comes from, and what it says about mistakes."""

import os
import pickle
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from bridgeserver.config import (
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
    load,
    render,
)
from bridgeserver.config.conversion import option_of
from bridgeserver.config.members import default_of
from bridgeserver.config.rendering import toml
from bridgeserver.errors import ConfigError
from bridgeserver.secret import Secret

OPERATIONS = Path(__file__).parents[1] / "docs" / "operations.md"
STRUCTS: dict[str, type[msgspec.Struct]] = {
    "server": ServerConfig,
    "store": StoreConfig,
    "journal": JournalConfig,
    "pool": PoolConfig,
    "records": RecordsConfig,
    "dumps": DumpsConfig,
    "tools": ToolsConfig,
    "tracing": TracingConfig,
    "logs": LogsConfig,
    "metrics": MetricsConfig,
    "providers[]": ProviderConfig,
    "mcp_servers[]": McpServerConfig,
    "prices[]": PriceConfig,
}
KEY = "sk-test-0123456789abcdefghij"

Read = Callable[..., Config]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Load a configuration from the text of a file, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def read(text: str = "", environ: Mapping[str, str] | None = None, **flags: object) -> Config:
        Path("bridgecore.toml").write_text(text)
        return load(None, environ or {}, {name.replace("__", "."): value for name, value in flags.items()})

    return read


@pytest.fixture
def mistakes(read: Read) -> Callable[..., list[str]]:
    """Return the mistakes of such a configuration, which must have some, those that break one provider among them."""

    def mistakes(text: str = "", environ: Mapping[str, str] | None = None, **flags: object) -> list[str]:
        try:
            config = read(text, environ, **flags)
        except ConfigError as exc:
            return exc.mistakes
        assert config.broken
        return [broken.reason for broken in config.broken]

    return mistakes


Mistakes = Callable[..., list[str]]


def provider(members: str = "", name: str = "a") -> str:
    """Return a provider in TOML."""
    return f'[[providers]]\nname = "{name}"\ntype = "openai"\n{members}\n'


# Defaults and precedence


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file, the database and its journal are in the working directory, and there is no provider."""
    monkeypatch.chdir(tmp_path)
    config = load(None, {}, {})
    assert (config.server.host, config.server.port, config.server.max_connections) == ("127.0.0.1", 8080, 11_024)
    assert config.store.url == f"sqlite:///{tmp_path}/bridgecore.db"
    assert config.journal.path == tmp_path / "bridgecore.db.journal"
    assert config.providers == ()


def test_precedence(read: Read) -> None:
    """A flag beats the environment, which beats the file, which beats the default."""
    text = "[server]\nport = 1\nworkers = 2\ndrain_s = 3\n"
    environ = {"BRIDGECORE_SERVER__PORT": "11", "BRIDGECORE_SERVER__WORKERS": "12"}
    server = read(text, environ, server__port=21).server
    assert (server.port, server.workers, server.drain_s, server.unready_s) == (21, 12, 3, 5)


def test_max_connections_follows_max_streams(read: Read) -> None:
    """The limit of connections leaves room beside the streams, unless it is given."""
    assert read("[server]\nmax_streams = 5").server.max_connections == 1029
    assert read("[server]\nmax_streams = 5\nmax_connections = 7").server.max_connections == 7


def _write_certificate(chain: Path, key: Path) -> None:
    certificate: Any = trustme.CA().issue_cert("gateway.test")
    key.write_bytes(certificate.private_key_pem.bytes())
    chain.write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))


def test_relative_paths_count_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths from every source count from the folder of the file."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "etc"
    folder.mkdir()
    _write_certificate(folder / "cert.pem", folder / "key.pem")
    (folder / "key").write_text(f"{KEY}\n")
    (folder / "gateway.toml").write_text('[server]\ntls_cert = "cert.pem"\n' + provider('keys = ["file:key"]'))
    environ = {"BRIDGECORE_SERVER__TLS_KEY": "key.pem", "BRIDGECORE_JOURNAL__PATH": "waiting"}
    config = load(Path("etc/gateway.toml"), environ, {})
    assert (config.server.tls_cert, config.server.tls_key) == (folder / "cert.pem", folder / "key.pem")
    assert config.store.url == f"sqlite:///{folder}/bridgecore.db"
    assert config.journal.path == folder / "waiting"
    assert config.providers[0].keys[0].reveal() == KEY


def test_absolute_paths_stay(read: Read) -> None:
    """An absolute path is taken as it is, and the journal lies beside its database."""
    config = read('[store]\nurl = "sqlite:////var/lib/gateway.db"')
    assert config.store.url == "sqlite:////var/lib/gateway.db"
    assert config.journal.path == Path("/var/lib/gateway.db.journal")


def test_named_file_must_exist(tmp_path: Path) -> None:
    """A file that was asked for and is not there is a mistake."""
    with pytest.raises(ConfigError, match="found no such file") as caught:
        load(tmp_path / "nothing.toml", {}, {})
    assert caught.value.mistakes[0].startswith(f"{tmp_path}/nothing.toml: ")


def test_unreadable_files(tmp_path: Path) -> None:
    """A folder and a file that is not text are refused with the reason."""
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path, {}, {})
    (tmp_path / "binary").write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match="not UTF-8 at offset 5"):
        load(tmp_path / "binary", {}, {})


def test_empty_file() -> None:
    """The null device is a configuration without a file."""
    assert load(Path(os.devnull), {}, {"server.port": 0}).server.port == 0


# Providers


def test_provider_defaults(read: Read) -> None:
    """Base URL and header follow from the type, and the type from a name that is one."""
    first, second = read('[[providers]]\nname = "anthropic"\n' + provider()).providers
    assert (first.type, first.base_url, first.auth) == ("anthropic", "https://api.anthropic.com", "x-api-key")
    assert (second.type, second.base_url, second.auth) == ("openai", "https://api.openai.com/v1", "bearer")
    assert (first.keys, first.enabled, first.extra_headers, first.query) == ((), True, {}, {})


def test_providers_from_key_variables(read: Read) -> None:
    """Without a configured provider, the usual key variables bring theirs, unless they are empty."""
    (found,) = read("", {"ANTHROPIC_API_KEY": KEY, "OPENAI_API_KEY": ""}).providers
    assert (found.name, found.type, found.keys) == ("anthropic", "anthropic", (Secret(KEY),))


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        pytest.param(provider(), {}, id="file"),
        pytest.param("", {"BRIDGECORE_PROVIDERS__A__TYPE": "openai"}, id="environment"),
    ],
)
def test_configured_providers_are_all(read: Read, text: str, environ: dict[str, str]) -> None:
    """Once a provider is configured, key variables bring none."""
    config = read(text, environ | {"ANTHROPIC_API_KEY": KEY, "OPENAI_API_KEY": KEY})
    assert [provider.name for provider in config.providers] == ["a"]


def test_environment_changes_a_provider_by_name(read: Read) -> None:
    """A variable reaches the provider of its name, with `_` for `-`, wherever it stands in the file."""
    environ = {
        "BRIDGECORE_PROVIDERS__MY_OWN_2__BASE_URL": "http://127.0.0.1:9/v1",
        "BRIDGECORE_PROVIDERS__MY_OWN_2__KEYS": "one, two",
    }
    first, second = read(provider() + provider("enabled = false", "my-own-2"), environ).providers
    assert first.base_url == "https://api.openai.com/v1"
    assert (second.name, second.base_url, second.enabled) == ("my-own-2", "http://127.0.0.1:9/v1", False)
    assert second.keys == (Secret("one"), Secret("two"))


def test_environment_adds_a_provider(read: Read) -> None:
    """A name that the file does not have becomes a provider."""
    environ = {"BRIDGECORE_PROVIDERS__NEW_ONE__TYPE": "openai", "BRIDGECORE_PROVIDERS__OPENAI__ENABLED": "no"}
    assert [(found.name, found.enabled) for found in read(provider(), environ).providers] == [
        ("a", True),
        ("new-one", True),
        ("openai", False),
    ]


def test_keys(read: Read, tmp_path: Path) -> None:
    """A key is a literal, the content of a variable, or that of a file without one newline at its end."""
    (tmp_path / "unix").write_bytes(b"from-file\n")
    (tmp_path / "windows").write_bytes(b"from-windows\r\n")
    text = provider('keys = ["literal:x", "env:A_KEY", "file:unix", "file:windows"]')
    (found,) = read(text, {"A_KEY": "from-variable"}).providers
    assert [key.reveal() for key in found.keys] == ["literal:x", "from-variable", "from-file", "from-windows"]


def test_link_local_can_be_allowed(read: Read) -> None:
    """An operator who means a link-local address may have it."""
    text = provider('base_url = "http://169.254.1.2/v1"\nallow_link_local = true')
    assert read(text).providers[0].base_url == "http://169.254.1.2/v1"


# Values


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("true", True),
        ("1", True),
        ("YES", True),
        ("on", True),
        ("false", False),
        ("0", False),
        ("No", False),
        ("off", False),
    ],
)
def test_switches_in_variables(read: Read, word: str, value: bool) -> None:
    """A switch is spelt in the usual ways."""
    opposite = str(not value).lower()
    text = f"[server]\naccess_log = {opposite}"
    assert read(text, {"BRIDGECORE_SERVER__ACCESS_LOG": word}).server.access_log is value


@pytest.mark.parametrize("text", ["10.0.0.0/8, ::1", '["10.0.0.0/8", "::1"]', "10.0.0.0/8,::1,"])
def test_lists_in_variables(read: Read, text: str) -> None:
    """A list is JSON, or has commas."""
    assert read("", {"BRIDGECORE_SERVER__TRUSTED_PROXIES": text}).server.trusted_proxies == ("10.0.0.0/8", "::1")


def test_tables_in_variables(read: Read) -> None:
    """A table is JSON."""
    environ = {
        "BRIDGECORE_PROVIDERS__A__EXTRA_HEADERS": '{"x-team": "a b"}',
        "BRIDGECORE_PROVIDERS__A__QUERY": '{"version": "1"}',
        "BRIDGECORE_SERVER__UNREADY_S": "0.1",
    }
    config = read(provider(), environ)
    assert (config.providers[0].extra_headers, config.providers[0].query) == ({"x-team": "a b"}, {"version": "1"})
    assert config.server.unready_s == 0.1


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("[server]\nport = 65536", "server.port: found 65536, expected a port from 0 to 65535"),
        ("[server]\nport = -1", "server.port: found -1, expected a port from 0 to 65535"),
        ('[server]\nport = "80"', 'server.port: found "80", expected a port from 0 to 65535'),
        ("[server]\nworkers = 0", "server.workers: found 0, expected a whole number from 1 to 256"),
        ("[server]\nworkers = true", "server.workers: found true, expected a whole number from 1 to 256"),
        ("[server]\ndrain_s = -1", "server.drain_s: found -1, expected seconds, from 0 to 86400"),
        ("[server]\ndrain_s = nan", "server.drain_s: found NaN, expected seconds, from 0 to 86400"),
        ("[server]\nbody_timeout_s = 0", "server.body_timeout_s: found 0, expected seconds, more than 0"),
        ("[server]\nbody_timeout_s = inf", "server.body_timeout_s: found Infinity, expected seconds, more than 0"),
        ("[server]\naccess_log = 1", "server.access_log: found 1, expected true or false"),
        ('[server]\nlog_level = "all"', 'server.log_level: found "all", expected "debug", "info"'),
        ('[server]\nhost = "[::1]"', 'server.host: found "[::1]", expected an address or a host name'),
        ('[server]\nhost = "h:80"', 'server.host: found "h:80", expected an address or a host name'),
        ('[server]\ntls_key = ""', 'server.tls_key: found "", expected the path of a file'),
        ('[server]\ntrusted_proxies = "::1"', 'server.trusted_proxies: found "::1", expected a list of addresses'),
        ('[server]\ntrusted_proxies = ["::1", "x"]', 'server.trusted_proxies[1]: found "x", expected an address'),
        ("[journal]\nmax_bytes = 1979-05-27", 'journal.max_bytes: found "1979-05-27", expected bytes'),
        ('[journal]\nsync = "never"', 'journal.sync: found "never", expected "none", "interval" or "always"'),
        ('[server]\nlog_format = "' + "x" * 99 + '"', 'server.log_format: found "' + "x" * 59 + '…, expected "auto"'),
        ("[store]\nurl = {}", "store.url: found a table, expected"),
        ('[store]\nurl = "sqlite://"', 'store.url: found "sqlite://", expected'),
        ('[store]\nurl = "sqlite:///:memory:"', 'store.url: found "sqlite:///:memory:", expected'),
        ('server = "x"', "server: found a value, expected a table: write [server] above its options"),
        ("[providers]", "providers: found no list of tables, expected one: write [[providers]] above each"),
        ('[[providers]]\ntype = "openai"', "providers[0].name: found nothing, expected lower-case letters"),
        (
            '[[providers]]\nname = "mine"',
            'providers[0].type: found nothing, expected "anthropic", "openai", "copilot" or "bedrock"',
        ),
        (provider(name="A"), 'providers[0].name: found "A", expected lower-case letters'),
        (provider(name="a-"), 'providers[0].name: found "a-", expected lower-case letters'),
        (provider(name="a\\n"), 'providers[0].name: found "a\\n", expected lower-case letters'),
        (provider() + provider(), 'providers[1].name: found "a" a second time, expected a name of its own'),
    ],
)
def test_mistakes_in_values(mistakes: Mistakes, text: str, mistake: str) -> None:
    """A value out of range is named with its place, what was found and what was expected."""
    (found,) = mistakes(text)
    assert found.startswith(f"bridgecore.toml: {mistake}")


def test_what_copilot_cannot_have(mistakes: Mistakes) -> None:
    """Every caller of Copilot brings his own token, as a bearer token."""
    found = mistakes('[[providers]]\nname = "x"\ntype = "copilot"\nkeys = ["a"]\nauth = "x-api-key"')
    assert [line.partition(": ")[2] for line in found] == [
        "providers[0].keys: found a key, expected none: every caller of Copilot brings his own token",
        'providers[0].auth: found "x-api-key", expected "bearer", which is all that Copilot takes',
    ]


PAIR = "AKIDEXAMPLE:a-secret-access-key-0123456789"


def bedrock(members: str) -> str:
    """Return a Bedrock provider in TOML."""
    return f'[[providers]]\nname = "aws"\ntype = "bedrock"\n{members}\n'


@pytest.mark.parametrize(
    ("members", "url", "region"),
    [
        ('region = "eu-central-1"', "https://bedrock-runtime.eu-central-1.amazonaws.com", "eu-central-1"),
        (
            'region = "us-east-1"\nbedrock_api = "mantle"',
            "https://bedrock-mantle.us-east-1.api.aws/anthropic",
            "us-east-1",
        ),
        (
            'base_url = "https://bedrock-runtime.us-gov-west-1.amazonaws.com"\nregion = "eu-west-1"',
            "https://bedrock-runtime.us-gov-west-1.amazonaws.com",
            "us-gov-west-1",
        ),
        (
            'base_url = "https://vpce-1.bedrock-runtime.eu-west-1.vpce.amazonaws.com"',
            "https://vpce-1.bedrock-runtime.eu-west-1.vpce.amazonaws.com",
            "eu-west-1",
        ),
        ('base_url = "http://127.0.0.1:9"\nregion = "eu-west-1"', "http://127.0.0.1:9", "eu-west-1"),
    ],
)
def test_bedrocks_place(read: Read, members: str, url: str, region: str) -> None:
    """The URL follows from the region, and the region from the URL where that names one."""
    (found,) = read(bedrock(f'{members}\nkeys = ["{PAIR}"]')).providers
    assert (found.base_url, found.region, found.auth) == (url, region, "aws")
    assert "claude" in found.model
    assert "haiku" in found.small_fast_model


@pytest.mark.parametrize(
    ("members", "mistake"),
    [
        pytest.param("", "region: found nothing, expected region or base url required", id="gw-B1"),
        pytest.param('region = "Europe"', 'region: found "Europe", expected a region of AWS', id="region"),
        pytest.param('base_url = "http://h"', "region: found nothing, and none in the host of base_url", id="host"),
        pytest.param(
            f'region = "eu-west-1"\nkeys = ["{PAIR.partition(":")[0]}"]',
            "keys: found something else, expected both access key and access key secret must be provided together",
            id="gw-B2-one-of-two",
        ),
        pytest.param('region = "eu-west-1"\nkeys = [":x"]', "keys: found something else", id="gw-B2-empty"),
        pytest.param('region = "eu-west-1"\nkeys = ["a:b", "c:d"]', "keys: found 2 keys", id="two-pairs"),
        pytest.param('region = "eu-west-1"\nauth = "x-api-key"', 'auth: found "x-api-key"', id="auth"),
        pytest.param(
            'region = "eu-west-1"\nmodel = ""', 'model: found "", expected the id of a model', id="gw-B2-model"
        ),
        pytest.param('region = "eu-west-1"\naws_external_id = "x"', "aws_external_id: found an external id", id="role"),
        pytest.param(
            f'region = "eu-west-1"\nkeys = ["{PAIR}"]\naws_profile = "p"', "aws_profile: found a profile", id="profile"
        ),
    ],
)
def test_bedrocks_mistakes(mistakes: Mistakes, members: str, mistake: str) -> None:
    """What the reference says at the first request is said of the configuration, and no secret is shown."""
    (found,) = mistakes(bedrock(members))
    assert found.partition(": ")[2].startswith(f"providers[0].{mistake}")
    assert "a-secret" not in found


def test_options_of_bedrock_belong_to_bedrock(mistakes: Mistakes) -> None:
    """Elsewhere they would be without effect."""
    found = mistakes(provider('region = "eu-west-1"\nmodel = "m"\nauth = "aws"'))
    assert [line.partition(": ")[2].partition(":")[0] for line in found] == [
        "providers[0].region",
        "providers[0].model",
        "providers[0].auth",
    ]


# URLs and hosts


def test_a_bad_base_url_breaks_its_provider_only(read: Read) -> None:
    """The others are there; another mistake in the same provider stops everything, as ever."""
    text = provider('base_url = "http://[h"', "bad") + provider(name="good")
    config = read(text)
    assert [found.name for found in config.providers] == ["good"]
    (broken,) = config.broken
    assert (broken.name, broken.type) == ("bad", "openai")
    for more in (text + provider(name="bad"), provider('base_url = "http://[h"\nenabled = 3')):
        with pytest.raises(ConfigError):
            read(more)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com",
        "http://host:1/v1/",
        "http://[::1]:8080/v1",
        "http://in_side:80/@x",
        "HTTPS://EXAMPLE.com.",
    ],
)
def test_base_urls(read: Read, url: str) -> None:
    """A base URL is taken as it is written."""
    assert read(provider(f'base_url = "{url}"')).providers[0].base_url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example.com",
        "ftp://h",
        "https://",
        "https:///v1",
        "http://h:",
        "http://h:0",
        "http://h:65536",
        "http://h:x",
        "http://me@h",
        "http://h?",
        "http://h#",
        "http://h/ x",
        "http://h\\n",
        "http://[::1",
        "http://[h]",
        "http://::1",
        "http://h%2e",
    ],
)
def test_bad_base_urls(mistakes: Mistakes, url: str) -> None:
    """What no request can be sent to is refused."""
    (found,) = mistakes(provider(f'base_url = "{url}"'))
    assert found.startswith("bridgecore.toml: providers[0].base_url: found ")
    assert "expected an http or https URL with a host" in found


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.0.1",
        "169.254.169.254.",
        "[fe80::1]",
        "[fe80::1%25eth0]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "metadata.google.internal",
        "METADATA.google.internal.",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.1.1",
    ],
)
def test_link_local_addresses(mistakes: Mistakes, host: str) -> None:
    """A base URL that leads to a metadata service is refused, however it is spelt."""
    (found,) = mistakes(provider(f'base_url = "http://{host}:80/v1"'))
    assert "expected no link-local or metadata address, or allow_link_local = true" in found


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_plain_http_on_loopback(read: Read, host: str) -> None:
    """This machine may be served without TLS."""
    assert read("", server__host=host).server.host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example.com"])
def test_plain_http_elsewhere(read: Read, mistakes: Mistakes, tmp_path: Path, host: str) -> None:
    """Other addresses need TLS, or the operator's word that plain HTTP is meant."""
    assert mistakes("", server__host=host) == [
        (
            f'command line: server.host: found "{host}" with plain HTTP, '
            "expected a loopback address, or tls_cert and tls_key, or insecure_http = true"
        ),
    ]
    assert read("[server]\ninsecure_http = true", server__host=host).server.host == host
    _write_certificate(tmp_path / "pem", tmp_path / "key")
    assert read('[server]\ntls_cert = "pem"\ntls_key = "key"', server__host=host).server.host == host


def test_tls_files(mistakes: Mistakes, tmp_path: Path) -> None:
    """A certificate needs its key, and both need to be there."""
    (tmp_path / "pem").touch()
    assert mistakes('[server]\ntls_cert = "pem"') == [
        "bridgecore.toml: server.tls_key: found nothing, expected both tls_cert and tls_key, or neither",
    ]
    assert mistakes('[server]\ntls_cert = "pem"\ntls_key = "gone"') == [
        f"bridgecore.toml: server.tls_key: found no file at {tmp_path}/gone, expected a PEM file",
    ]
    (mistake,) = mistakes('[server]\ntls_cert = "pem"\ntls_key = "pem"')
    assert mistake.startswith("bridgecore.toml: server.tls_cert: found a certificate that cannot be used with tls_key")


# Headers


@pytest.mark.parametrize("place", ["127.0.0.1:9090", "localhost:0", "[::1]:9090", "127.9.9.9:65535", ""])
def test_the_parents_own_address(read: Read, place: str) -> None:
    """On loopback it needs nothing beside it."""
    assert read(f'[server]\nadmin_listen = "{place}"').server.admin_listen == place


@pytest.mark.parametrize("place", ["0.0.0.0:9090", "[::]:9090", "metrics.example:9090"])
def test_the_parents_own_address_for_others(read: Read, mistakes: Mistakes, place: str) -> None:
    """It is for them to see only if the operator has said so, or with TLS."""
    text = f'[server]\nadmin_listen = "{place}"\n'
    (mistake,) = mistakes(text)
    assert mistake == (
        f'bridgecore.toml: server.admin_listen: found "{place}" with plain HTTP, '
        "expected a loopback address, or tls_cert and tls_key, or insecure_http = true"
    )
    assert read(text + "insecure_http = true").server.admin_listen == place


@pytest.mark.parametrize(
    "place", ["9090", ":9090", "::1:9090", "127.0.0.1:", "127.0.0.1:65536", "h:-1", "[h]:1", "h:1x"]
)
def test_what_is_no_address_with_a_port(mistakes: Mistakes, place: str) -> None:
    """The mistake shows two that are."""
    (mistake,) = mistakes(f'[server]\nadmin_listen = "{place}"')
    assert mistake == (
        f'bridgecore.toml: server.admin_listen: found "{place}", '
        'expected an address or a host name with a port, such as "127.0.0.1:9090" or "[::1]:9090"'
    )


def test_tokens_for_the_metrics(read: Read, mistakes: Mistakes) -> None:
    """One or several, as literals or references; one that could be guessed is refused, and none is shown."""
    token = "a-token-for-prometheus"
    assert read(f'[metrics]\ntoken = "{token}"').metrics.token == (Secret(token),)
    found = read(f'[metrics]\ntoken = ["env:T", "{token}-2"]', {"T": token})
    assert found.metrics.token == (Secret(token), Secret(token + "-2"))
    assert token not in render(found)
    (mistake,) = mistakes('[metrics]\ntoken = "short-secret"')
    assert mistake.endswith("expected at least 16 visible ASCII characters without spaces")
    assert "short-secret" not in mistake


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "X-Api-Key",
        "api-key",
        "connection",
        "Transfer-Encoding",
        "host",
        "content-length",
        "cookie",
        "a b",
        "",
    ],
)
def test_forbidden_header_names(mistakes: Mistakes, name: str) -> None:
    """Headers that carry credentials or belong to the connection are not extra."""
    (found,) = mistakes(provider(f'extra_headers = {{ "{name}" = "v" }}'))
    assert "expected the name of a header that neither" in found


@pytest.mark.parametrize("value", ['"a\\nb"', '" a"', '"a "', '"\\u0000"', '"é"', "1"])
def test_bad_header_values(mistakes: Mistakes, value: str) -> None:
    """A value that would break the head is refused."""
    (found,) = mistakes(provider(f"extra_headers = {{ x-a = {value} }}"))
    assert found.startswith("bridgecore.toml: providers[0].extra_headers.x-a: found a value of type")


# What mistakes say


def test_all_mistakes_at_once(mistakes: Mistakes) -> None:
    """Every source is read to its end, and every mistake gets one line that names its place."""
    text = '[server]\nport = "x"\nprot = 1\n[store]\nurl = 5\n' + provider('keys = ["env:NONE"]\nbase_url = "x"')
    environ = {"BRIDGECORE_SERVER__WORKERS": "many", "BRIDGECORE_PROVIDERS__A__ENABLED": "maybe"}
    found = mistakes(text, environ, server__unready_s=-1)
    assert sorted(line.partition(": found")[0] for line in found) == [
        "bridgecore.toml: providers[0].base_url",
        "bridgecore.toml: providers[0].keys[0]",
        "bridgecore.toml: server.port",
        "bridgecore.toml: server.prot",
        "bridgecore.toml: store.url",
        "command line: server.unready_s",
        "environment: providers.a.enabled",
        "environment: server.workers",
    ]
    assert not any("\n" in line for line in found)


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("[sever]", "sever: found an unknown name, expected server (the nearest name)"),
        (
            "[zzz]",
            (
                "zzz: found an unknown name, expected one of "
                "dumps, journal, logs, mcp_servers, metrics, pool, prices, providers, records, server, store, tools"
            ),
        ),
        ("[server]\nprot = 1", "server.prot: found an unknown name, expected port (the nearest name)"),
        ("[server]\nzzz = 1", "server.zzz: found an unknown name, expected a name that docs/operations.md lists"),
        ('[server]\n"a\\nb" = 1', 'server."a\\nb": found an unknown name'),
        (
            provider('api_keys = ["sk-x"]'),
            "providers[0].api_keys: found an unknown name, expected keys (the nearest name)",
        ),
    ],
)
def test_unknown_names_in_the_file(mistakes: Mistakes, text: str, mistake: str) -> None:
    """An unknown name is a mistake, and the nearest known one is suggested."""
    (found,) = mistakes(text)
    assert found.startswith(f"bridgecore.toml: {mistake}")


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("BRIDGECORE_SERVER__PROT", "BRIDGECORE_SERVER__PORT"),
        ("BRIDGECORE_SERVER_PORT", "BRIDGECORE_SERVER__PORT"),
        ("BRIDGECORE_server__port", "BRIDGECORE_SERVER__PORT"),
        ("BRIDGECORE_PORT", "BRIDGECORE_SERVER__PORT"),
        ("BRIDGECORE_PROVIDERS__A__KEY", "BRIDGECORE_PROVIDERS__A__KEYS"),
        ("BRIDGECORE_PROVIDERS__KEYS", "BRIDGECORE_PROVIDERS__NAME__KEYS"),
        ("BRIDGECORE_MCP_SERVERS__WIKI__URI", "BRIDGECORE_MCP_SERVERS__WIKI__URL"),
        ("BRIDGECORE_TOOLS__MAX_TURN", "BRIDGECORE_TOOLS__MAX_TURNS"),
    ],
)
def test_unknown_variables(mistakes: Mistakes, variable: str, nearest: str) -> None:
    """A variable that sets nothing is a mistake."""
    assert mistakes("", {variable: "9000"}) == [
        f"environment: {variable}: found an unknown name, expected {nearest} (the nearest name)",
    ]


def test_a_variable_does_not_rename_a_provider(mistakes: Mistakes) -> None:
    """The variable's own name says which provider is meant."""
    (found,) = mistakes(provider(), {"BRIDGECORE_PROVIDERS__A__NAME": "b"})
    assert found.startswith("environment: BRIDGECORE_PROVIDERS__A__NAME: found an unknown name")


def test_unknown_flag(mistakes: Mistakes) -> None:
    """A flag that sets nothing is a mistake too."""
    assert mistakes("", sever__port=1, server__prot=1) == [
        "command line: sever.port: found an unknown name, expected server (the nearest name)",
        "command line: server.prot: found an unknown name, expected port (the nearest name)",
    ]


def test_kubernetes_service_variables(read: Read) -> None:
    """What Kubernetes says of a service named `bridgecore` is not ours."""
    environ = {
        "BRIDGECORE_SERVICE_HOST": "10.0.0.1",
        "BRIDGECORE_SERVICE_PORT": "80",
        "BRIDGECORE_SERVICE_PORT_HTTP": "80",
        "BRIDGECORE_PORT": "tcp://10.0.0.1:80",
        "BRIDGECORE_PORT_80_TCP": "tcp://10.0.0.1:80",
        "BRIDGECORE_PORT_80_TCP_ADDR": "10.0.0.1",
        "BRIDGECORE_CANARY_SERVICE_HOST": "10.0.0.2",
    }
    assert read("", environ) == read()


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("[server]\nport = = 1", "line 2, column 8: found broken TOML: Invalid value"),
        ("a = [1,\n", "line 2, column 1: found broken TOML: "),
        (f"a = 1{'0' * 5000}", "found broken TOML: Exceeds the limit"),
        ("a = 1\na = 2", "line 2, column 6: found broken TOML: Cannot overwrite a value"),
    ],
)
def test_syntax_errors(mistakes: Mistakes, text: str, mistake: str) -> None:
    """Broken TOML is reported with its line, its column and the reason."""
    (found,) = mistakes(text)
    assert found.startswith(f"bridgecore.toml: {mistake}")


# Secrets


def test_key_mistakes(mistakes: Mistakes, tmp_path: Path) -> None:
    """A key that cannot be one is described and never shown."""
    (tmp_path / "two").write_text("first-secret\nsecond-secret\n")
    keys = ["", "a secret", "env:UNSET", "env:EMPTY", "env:BAD", "file:two", "file:gone", "se\\u0007cret"]
    text = provider(f"keys = {toml(tuple(keys))}".replace("\\\\u", "\\u"))
    rule = "expected a key of visible ASCII characters without spaces"
    assert mistakes(text, {"EMPTY": "", "BAD": "a secret\n"}) == [
        f"bridgecore.toml: providers[0].keys[{index}]: found {rest}"
        for index, rest in enumerate(
            [
                f"a literal of 0 characters, {rule}",
                f"a literal of 8 characters, {rule}",
                "env:UNSET, which is not set, expected a variable that holds a key",
                "env:EMPTY, which is empty, expected a variable that holds a key",
                f"env:BAD, which holds something else, {rule}",
                f"file:two, which holds something else, {rule}",
                "file:gone, which cannot be read (No such file or directory), expected a file that holds a key",
                f"a literal of 7 characters, {rule}",
            ],
        )
    ]


@pytest.mark.parametrize(
    "members",
    [
        'keys = "hunter2"',
        "keys = { a = 'hunter2' }",
        "keys = ['hunter2 ']",
        "keys = [['hunter2']]",
        "extra_headers = 'hunter2'",
        "extra_headers = { a = ['hunter2'] }",
        "extra_headers = { a = ' hunter2' }",
        "query = ['hunter2']",
        "query = { a = ['hunter2'] }",
        "hunter = 'hunter2'",
        "base_url = 'https://me:hunter2@h/'",
        "base_url = 'https://me:/?#hunter2@h/'",
        "base_url = 'https://h/?key=hunter2'",
    ],
)
def test_mistakes_show_no_secret(mistakes: Mistakes, members: str) -> None:
    """Whatever is wrong with a value that may hold a secret, the mistake does not show it."""
    (found,) = mistakes(provider(members))
    assert "hunter2" not in found


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@db/bridge/more",
        "postgresql://me:hunter2",
        "postgresql://me:hunt@er2@db/bridge",
        "postgresql://me:hunter2@db/",
        "postgres://me:hunter2@db/bridge",
        "postgresql://me:hunter2@db:port/bridge",
        "postgresql://me:hunter2@db/bridge#fragment",
        "postgresql://me:hun ter2@db/bridge",
        "postgresql://me:hunter2%@db/bridge",
    ],
)
def test_store_password_is_not_shown(mistakes: Mistakes, url: str) -> None:
    """A URL that names no database is refused without its password, wherever that ends."""
    (found,) = mistakes(f'[store]\nurl = "{url}"')
    assert "hun" not in found
    assert "er2" not in found
    assert "postgresql://USER:PASSWORD@HOST:PORT/DATABASE" in found


@pytest.mark.parametrize(
    ("query", "found", "expected"),
    [
        ("ssl=hunter2", "a member that is not known", "one of host, port, sslmode,"),
        ("sslmode=hunter2", "something else as sslmode", "disable, allow, prefer,"),
        ("sslrootcert=hunter2", "something else as sslrootcert", "an absolute path"),
        ("host=hunter2", "something else as host", "the folder of a socket"),
        ("application_name=a&application_name=hunter2", "application_name a second time", "each member once"),
        ("application_name=", "something else as application_name", "1 to 63 characters"),
    ],
)
def test_members_of_a_postgresql_url(mistakes: Mistakes, query: str, found: str, expected: str) -> None:
    """Each mistake behind the `?` is named, and no value is shown."""
    (mistake,) = mistakes(f'[store]\nurl = "postgresql://me:hunter2@db/bridge?{query}"')
    assert f"store.url: found {found}, expected {expected}" in mistake
    assert "hunter2" not in mistake


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@db:5432/bridge?sslmode=verify-full&sslrootcert=/etc/ca.pem&application_name=west",
        "postgresql://me@a:5432,b:5433/bridge?target_session_attrs=read-write",
        "postgresql://me:p%40%2Fss@[::1]:5432/bridge",
        "postgresql:///bridge?host=/run/postgresql",
        "postgresql://127.0.0.1/bridge",
    ],
)
def test_postgresql_urls_that_are_taken(read: Read, tmp_path: Path, url: str) -> None:
    """The URL is kept as it is; the journal lies beside the configuration file."""
    config = read(f'[store]\nurl = "{url}"')
    assert config.store.url == url
    assert config.journal.path == tmp_path / "bridgecore.journal"
    assert config.dumps.path == tmp_path / "bridgecore.dumps"


def test_a_store_url_may_be_a_reference(read: Read, mistakes: Mistakes, tmp_path: Path) -> None:
    """It holds a password, so it may come from a variable or a file; what is wrong there is not shown."""
    url = "postgresql://me:hunter2@db/bridge"
    (tmp_path / "url").write_text(f"{url}\n")
    assert read('[store]\nurl = "env:DATABASE"', {"DATABASE": url}).store.url == url
    assert read('[store]\nurl = "file:url"').store.url == url
    assert read("", {"BRIDGECORE_STORE__URL": "env:DATABASE", "DATABASE": url}).store.url == url
    (found,) = mistakes('[store]\nurl = "env:DATABASE"', {"DATABASE": "mysql://me:hunter2@db/bridge"})
    assert "store.url: found env:DATABASE, which holds something else, expected" in found
    assert "hunter2" not in found


def test_a_printed_url_has_no_password(read: Read) -> None:
    """`check --print` shows where the database is, and not how one gets in."""
    printed = render(read('[store]\nurl = "postgresql://me:hunter2@db:5432/bridge?sslmode=require"'))
    assert 'url = "postgresql://me:...@db:5432/bridge?sslmode=require"' in printed
    assert "hunter2" not in printed


def test_variable_with_a_secret_in_broken_json(mistakes: Mistakes) -> None:
    """A list or table that is not JSON is not shown either."""
    environ = {"BRIDGECORE_PROVIDERS__A__KEYS": "[hunter2", "BRIDGECORE_PROVIDERS__A__QUERY": "hunter2"}
    found = mistakes(provider(), environ)
    assert sorted(line.partition(": found")[0] for line in found) == [
        "environment: providers.a.keys",
        "environment: providers.a.query",
    ]
    assert not any("hunter2" in line for line in found)


# The tree


FULL = (
    '[server]\nport = 0\nlog_format = "json"\ntrusted_proxies = ["::1"]\nunready_s = 0.25\n'
    + provider(f'keys = ["{KEY}"]\nextra_headers = {{ "x.a" = "header-secret" }}\nquery = {{ k = "query-secret" }}')
    + provider("enabled = false", "b")
)


def test_pickling(read: Read) -> None:
    """The tree reaches a spawned worker whole, keys included."""
    config = read(FULL)
    copy = pickle.loads(pickle.dumps(config))
    assert copy == config
    assert copy.providers[0].keys[0].reveal() == KEY


def test_the_tree_hides_keys(read: Read) -> None:
    """Showing the tree shows no key."""
    assert KEY not in repr(read(FULL))


def test_render(read: Read) -> None:
    """The rendering is TOML with every option, and masks what may be secret."""
    config = read(FULL)
    text = render(config)
    tables = tomllib.loads(text)
    assert tables["server"]["trusted_proxies"] == ["::1"]
    assert tables["server"]["max_connections"] == 11_024
    assert "# tls_cert is not set" in text
    assert tables["journal"]["path"] == str(config.journal.path)
    assert [found["name"] for found in tables["providers"]] == ["a", "b"]
    assert tables["providers"][0]["keys"] == ["sk-t...ghij"]
    assert tables["providers"][0]["extra_headers"] == {"x.a": "he...et"}
    assert tables["providers"][0]["query"] == {"k": "qu...et"}
    assert KEY not in text


def test_render_reads_back(read: Read) -> None:
    """Where nothing is masked, the rendering is the same configuration."""
    config = read("[server]\nunready_s = 0.25\n" + provider(), server__port=7)
    assert read(render(config)) == config


@pytest.mark.parametrize("text", ['a"b\\c', "tab\t", "del\x7f", "é🌍", "new\nline"])
def test_rendered_strings(text: str) -> None:
    """Every text survives being written as TOML."""
    assert tomllib.loads(f"a = {toml(text)}") == {"a": text}


# The documentation


def documented() -> dict[str, str]:
    """Return the defaults of the table of options, by option."""
    rows = re.findall(
        r"^\| `([a-z_\[\]]+\.[a-z_]+)` \|[^|]*\| ([^|]+) \| [^|]+ \|$", OPERATIONS.read_text(), re.MULTILINE
    )
    assert len(rows) == len(dict(rows)), "an option is listed twice"
    return dict(rows)


def options() -> dict[str, msgspec.structs.FieldInfo]:
    """Return every option of the tree."""
    return {
        f"{section}.{field.name}": field
        for section, struct in STRUCTS.items()
        for field in msgspec.structs.fields(struct)
    }


def test_every_option_is_documented() -> None:
    """The table lists the options of the tree, in its order, and no others."""
    assert list(documented()) == list(options())


def test_documented_defaults() -> None:
    """The table's defaults are those of the tree; those that follow from other options are in words."""
    for name, default in documented().items():
        field = options()[name]
        if field.required:
            assert not re.fullmatch(r"`[^`]*`", default), name
        else:
            value = default_of(field)
            assert default == ("not set" if value is None else f"`{toml(value)}`"), name


def test_every_option_says_what_it_expects() -> None:
    """Each option has the text that its mistakes need."""
    assert all(option_of(field.type).expected for field in options().values())
