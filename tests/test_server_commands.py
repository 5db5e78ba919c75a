"""`bridgecore tools servers` and the changes to them, as a person types it."""

import subprocess
from pathlib import Path

import pytest

import commandlab
import gateway as gateways

SECRET = "hunter2-0123456789abcdef"
SERVERS = """
[[mcp_servers]]
name = "clock"
url = "http://127.0.0.1:9/clock?key=hunter2"

[[mcp_servers]]
name = "wiki"
url = "http://127.0.0.1:9/mcp"
user_token = true
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a configuration of two MCP servers, and a user."""
    gateways.write_config(tmp_path, "http://127.0.0.1:9", more=SERVERS)
    gateways.make_key(tmp_path, "ann")
    return tmp_path


def tools(folder: Path, *arguments: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
    """Run an action, with *typed* as its standard input."""
    return commandlab.bridgecore(folder, "tools", *arguments, typed=typed)


def ok(folder: Path, *arguments: str, typed: str = "") -> str:
    """Run an action that succeeds and return what it printed."""
    return commandlab.succeed(folder, "tools", *arguments, typed=typed)


def rows(folder: Path) -> dict[str, list[str]]:
    """Return the cells of the list by name."""
    head, *lines = ok(folder, "servers").splitlines()
    assert head.split() == ["name", "status", "source", "user", "token", "URL"]
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    return {name: rest for name, *rest in cells}


def test_add_switch_and_remove(folder: Path) -> None:
    """A stored server replaces the file's until it is removed; a switch shows where it was set."""
    ok(folder, "add", "wiki", "--url", f"http://10.0.0.1/mcp?key={SECRET}", "--disabled", "--deny", "draft")
    headers = ("--header", "Authorization=-", "--header", "X-Team=a=b")
    ok(folder, "add", "mine", "--url", "http://10.0.0.1/mine", *headers, typed=f"Bearer {SECRET}\n")
    ok(folder, "disable", "clock")
    assert rows(folder) == {
        "clock": ["disabled (override)", "file", "no", "http://127.0.0.1:9/clock"],
        "wiki": ["disabled", "store", "no", "http://10.0.0.1/mcp"],
        "mine": ["enabled", "store", "no", "http://10.0.0.1/mine"],
    }
    store = b"".join(file.read_bytes() for file in folder.glob("bridgecore.db*") if file.is_file())
    assert b"0123456789abcdef" not in store
    ok(folder, "enable", "wiki")
    ok(folder, "reset", "clock")
    ok(folder, "remove", "mine")
    assert {name: cells[:2] for name, cells in rows(folder).items()} == {
        "clock": ["enabled", "file"],
        "wiki": ["enabled", "store"],
    }


def test_users_log_in_to_stored_servers(folder: Path) -> None:
    """A stored server with tokens of users takes them, and takes them along when it goes."""
    ok(folder, "add", "mine", "--url", "http://10.0.0.1/mine", "--user-token")
    ok(folder, "login", "mine", "--user", "ann", typed=SECRET)
    assert "mine" in ok(folder, "logins")
    ok(folder, "add", "wiki", "--url", "http://10.0.0.1/mcp")
    assert "'wiki' takes no token of a user" in tools(folder, "login", "wiki", "--user", "ann", typed=SECRET).stderr
    ok(folder, "remove", "mine")
    assert "mine" not in ok(folder, "logins")
    assert "there are: clock, wiki" in tools(folder, "login", "mine", "--user", "ann", typed=SECRET).stderr


def test_moving_a_server_into_the_store_keeps_its_tokens(folder: Path) -> None:
    """They stay where the stored one is at the same place as the file's, and only there."""
    ok(folder, "login", "wiki", "--user", "ann", typed=SECRET)
    ok(folder, "add", "wiki", "--url", "http://127.0.0.1:9/v2", "--user-token")
    assert "wiki" in ok(folder, "logins")
    ok(folder, "remove", "wiki")
    ok(folder, "login", "wiki", "--user", "ann", typed=SECRET)
    ok(folder, "add", "wiki", "--url", "http://127.0.0.1:10/mcp", "--user-token")
    assert "wiki" not in ok(folder, "logins")


def test_a_broken_server_is_listed_with_its_reason(folder: Path) -> None:
    """Without its sealing key a stored server is broken, hides the file's, and says what to do."""
    ok(folder, "add", "wiki", "--url", "http://10.0.0.1/mcp", "--header", f"X-A={SECRET}")
    (folder / "bridgecore.db.key").unlink()
    done = tools(folder, "servers")
    assert "MCP server wiki is not served: the key file" in done.stderr
    assert [line.split()[1:3] for line in done.stdout.splitlines() if line.startswith("wiki")] == [["broken", "store"]]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["add", "A", "--url", "http://h"], 'mcp_servers.A.name: found "A", expected lower-case'),
        (["add", "a", "--url", "http://169.254.169.254?hunter2"], "no link-local or metadata address"),
        (["add", "a", "--url", "http://h", "--header", "X-A=env:HOME"], "found a reference that begins with env:"),
        (["add", "a", "--url", "http://h", "--header", "X-A=-"], "--header X-A=-: found an empty line or none"),
        (["add", "a", "--url", "http://h", "--header", "hunter2"], "--header: found no =, expected NAME=VALUE"),
        (
            ["add", "a", "--url", "http://h", "--header", "X-A=hunter2", "--header", "X-A=b"],
            "--header: found a name a second time",
        ),
        (
            ["add", "a", "--url", "http://h", "--user-token", "--header", "Authorization=hunter2"],
            "found Authorization beside user_token = true",
        ),
        (["remove", "wiki"], "no stored MCP server 'wiki'; there are: none"),
        (["enable", "x"], "no MCP server named 'x'; there are: clock, wiki"),
        (["reset", "wiki"], "no override of MCP server 'wiki' to end"),
    ],
)
def test_what_is_refused(folder: Path, arguments: list[str], complaint: str) -> None:
    """A mistake is one line that says what was expected and shows no secret, and exit code 1."""
    done = tools(folder, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("bridgecore: ")
    assert complaint in done.stderr
    assert "hunter2" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_wrong_usage(folder: Path) -> None:
    """An action without its name, and a server without its URL, are wrong usage."""
    assert tools(folder, "remove").returncode == 2
    assert tools(folder, "add", "mine").returncode == 2
    assert list(rows(folder)) == ["clock", "wiki"]
