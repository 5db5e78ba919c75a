"""MCP servers in the configuration, and what is said about mistakes in them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from bridgeserver.config import Config, McpServerConfig, ToolsConfig, load, render
from bridgeserver.errors import ConfigError
from bridgeserver.secret import Secret

TOKEN = "Bearer hunter2-0123456789abcdef"

Read = Callable[..., Config]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Load a configuration from the text of a file in an empty folder."""

    def read(text: str = "", environ: Mapping[str, str] | None = None) -> Config:
        file = tmp_path / "bridgecore.toml"
        file.write_text(text)
        return load(file, environ or {}, {})

    return read


def server(members: str = "", name: str = "wiki") -> str:
    """Return a server in TOML."""
    return f'[[mcp_servers]]\nname = "{name}"\nurl = "http://127.0.0.1:9/mcp"\n{members}\n'


def mistakes(read: Read, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the mistakes of a configuration, without where it is."""
    with pytest.raises(ConfigError) as caught:
        read(text, environ)
    return [line.partition(": ")[2] for line in caught.value.mistakes]


def test_defaults(read: Read) -> None:
    """Without a word there is no server, and the tools have their defaults."""
    config = read()
    assert (config.mcp_servers, config.tools) == ((), ToolsConfig())
    (found,) = read(server()).mcp_servers
    assert found == McpServerConfig(name="wiki", url="http://127.0.0.1:9/mcp")


def test_every_member(read: Read) -> None:
    """A server and the section are taken as they are written."""
    text = server('headers = { X-Team = "a b" }\nuser_token = true\nallow = "^ask_"\ndeny = "x$"\nenabled = false') + (
        '[tools]\nmax_turns = 3\nskip_models = ""\nrecord_results = true'
    )
    config = read(text)
    assert config.mcp_servers == (
        McpServerConfig(
            name="wiki",
            url="http://127.0.0.1:9/mcp",
            headers={"X-Team": Secret("a b")},
            user_token=True,
            allow="^ask_",
            deny="x$",
            enabled=False,
        ),
    )
    assert config.tools == ToolsConfig(max_turns=3, skip_models="", record_results=True)


def test_header_values(read: Read, tmp_path: Path) -> None:
    """A value is a literal with its spaces, the content of a variable, or that of a file without its last newline."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    text = server('headers = { X-A = "Bearer a b", X-B = "env:B", X-C = "file:token" }')
    (found,) = read(text, {"B": TOKEN}).mcp_servers
    values = {name: value.reveal() for name, value in found.headers.items()}
    assert values == {"X-A": "Bearer a b", "X-B": TOKEN, "X-C": TOKEN}


def test_the_environment_changes_and_adds_servers(read: Read) -> None:
    """A server is addressed by its name, with `_` for `-`, and added if there is none of it."""
    environ = {
        "BRIDGECORE_MCP_SERVERS__MY_WIKI__DENY": "^delete",
        "BRIDGECORE_MCP_SERVERS__NEW__URL": "http://127.0.0.1:1/",
        "BRIDGECORE_MCP_SERVERS__NEW__HEADERS": '{"Authorization": "env:NEW_TOKEN"}',
        "BRIDGECORE_TOOLS__CALL_TIMEOUT_S": "1.5",
        "NEW_TOKEN": TOKEN,
    }
    config = read(server(name="my-wiki"), environ)
    assert [(found.name, found.deny) for found in config.mcp_servers] == [("my-wiki", "^delete"), ("new", "")]
    assert config.mcp_servers[1].headers["Authorization"].reveal() == TOKEN
    assert config.tools.call_timeout_s == 1.5
    assert config.providers == ()


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("[mcp_servers]", "mcp_servers: found no list of tables, expected one: write [[mcp_servers]] above each"),
        ('[[mcp_servers]]\nurl = "http://h"', "mcp_servers[0].name: found nothing, expected lower-case letters"),
        ('[[mcp_servers]]\nname = "a"', "mcp_servers[0].url: found nothing, expected an http or https URL"),
        (server(name="A"), 'mcp_servers[0].name: found "A", expected lower-case letters'),
        (server() + server(), 'mcp_servers[1].name: found "wiki" a second time, expected a name of its own'),
        (server("uri = 1"), "mcp_servers[0].uri: found an unknown name, expected url (the nearest name)"),
        (server('allow = "("'), 'mcp_servers[0].allow: found "(", expected a regular expression'),
        (server('deny = "[a"'), 'mcp_servers[0].deny: found "[a", expected a regular expression'),
        ('[tools]\nskip_models = "*"', 'tools.skip_models: found "*", expected a regular expression'),
        ("[tools]\nmax_turns = 0", "tools.max_turns: found 0, expected a whole number from 1 to 1000"),
        ("[tools]\nturns = 1", "tools.turns: found an unknown name, expected max_turns (the nearest name)"),
        (
            server('headers = { Host = "a" }'),
            'mcp_servers[0].headers.Host: found "Host", expected the name of a header',
        ),
        (server('headers = { X-A = "a", x-a = "b" }'), "mcp_servers[0].headers: found a header a second time"),
        (
            server('user_token = true\nheaders = { authorization = "Bearer x" }'),
            "mcp_servers[0].headers: found Authorization beside user_token = true, expected one of the two",
        ),
    ],
)
def test_mistakes(read: Read, text: str, mistake: str) -> None:
    """Each is named with its place, what was found and what was expected."""
    (found,) = mistakes(read, text)
    assert found.startswith(mistake)


@pytest.mark.parametrize(
    "url",
    ["", "h", "ftp://h", "http://me:hunter2@h/", "http://h/#hunter2", "http://h/?a=hunter2 b", "http://h/?a#hunter2"],
)
def test_bad_urls(read: Read, url: str) -> None:
    """What no request can be sent to is refused, and no part of it that may be secret is shown."""
    (found,) = mistakes(read, f'[[mcp_servers]]\nname = "a"\nurl = "{url}"')
    assert "mcp_servers[0].url: found" in found
    assert "expected an http or https URL with a host" in found
    assert "hunter2" not in found


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "metadata.google.internal", "2852039166"])
def test_link_local_addresses(read: Read, host: str) -> None:
    """They are refused unless the operator means them."""
    text = f'[[mcp_servers]]\nname = "a"\nurl = "http://{host}/mcp?key=hunter2"\n'
    (found,) = mistakes(read, text)
    assert found.endswith("expected no link-local or metadata address, or allow_link_local = true")
    assert "hunter2" not in found
    assert read(text + "allow_link_local = true").mcp_servers[0].url.endswith("hunter2")


@pytest.mark.parametrize(
    "value",
    ['""', '" hunter2"', '"hunter2 "', '"hunter2\\nx: y"', '"hunter2\\u0007"', '"hunter2é"', "5", '["hunter2"]'],
)
def test_bad_header_values(read: Read, value: str) -> None:
    """A value that would break the head is refused and never shown."""
    (found,) = mistakes(read, server(f"headers = {{ X-A = {value} }}"))
    assert found.startswith("mcp_servers[0].headers.X-A: found ")
    assert "hunter2" not in found


def test_bad_references(read: Read, tmp_path: Path) -> None:
    """A reference that leads nowhere is named, and what it leads to is not."""
    (tmp_path / "two").write_text("hunter2\nhunter2\n")
    text = server('headers = { X-A = "env:UNSET", X-B = "env:BAD", X-C = "file:two", X-D = "file:gone" }')
    rule, gone = "printable ASCII without spaces at its ends", "No such file or directory"
    assert mistakes(read, text, {"BAD": "hunter2\r\n"}) == [
        f"mcp_servers[0].headers.{rest}"
        for rest in (
            f"X-A: found env:UNSET, which is not set, expected a variable that holds {rule}",
            f"X-B: found env:BAD, which holds something else, expected {rule}",
            f"X-C: found file:two, which holds something else, expected {rule}",
            f"X-D: found file:gone, which cannot be read ({gone}), expected a file that holds {rule}",
        )
    ]


def test_nothing_shows_a_secret(read: Read) -> None:
    """Header values are masked and the query is left out; where there is neither, the rendering reads back."""
    text = server(f'headers = {{ Authorization = "{TOKEN}" }}').replace("/mcp", "/mcp?key=hunter2")
    config = read(text)
    assert "hunter2" not in render(config)
    assert 'url = "http://127.0.0.1:9/mcp?…"' in render(config)
    assert "hunter2-0" not in repr(config)
    config = read(server() + "[tools]\nmax_turns = 2")
    assert read(render(config)) == config


def test_the_package_has_to_be_there(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra; who installed without it is told its name when the configuration is read."""
    monkeypatch.setattr("bridgeserver.config.mcp.find_spec", {"others": "are there"}.get)
    assert mistakes(read, server()) == [
        "mcp_servers[0].name: found no package mcp, expected `pip install 'bridgecore[mcp]'`"
    ]
    assert read(server("enabled = false")).mcp_servers
