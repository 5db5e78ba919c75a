"""`bridgecore tools`, as a person types it, and the example of docs/tools.md."""

import json
import os
import pty
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import commandlab
import gateway as gateways
from bridgeserver.fakeprovider import load_scripts, running
from bridgeserver.tool_commands import TYPED_LIMIT

EXAMPLES = Path(__file__).parents[1] / "examples"

TOKEN, OTHER = "token-of-ann-0123456789", "token-of-ann-9876543210"
SERVERS = """
[[mcp_servers]]
name = "wiki"
url = "http://127.0.0.1:9/mcp"
user_token = true

[[mcp_servers]]
name = "clock"
url = "http://127.0.0.1:9/clock"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a configuration of two MCP servers and a store of two users."""
    gateways.write_config(tmp_path, "http://127.0.0.1:9", more=SERVERS)
    for user in ("ann", "bob"):
        gateways.make_key(tmp_path, user)
    return tmp_path


def tools(folder: Path, *arguments: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
    """Run an action, with *typed* as its standard input."""
    return commandlab.bridgecore(folder, "tools", *arguments, typed=typed)


def ok(folder: Path, *arguments: str, typed: str = "") -> str:
    """Run an action that succeeds and return what it printed."""
    return commandlab.succeed(folder, "tools", *arguments, typed=typed)


def rows(folder: Path, *arguments: str) -> list[list[str]]:
    """Return user and server of each line of the list."""
    head, *lines = ok(folder, "logins", *arguments).splitlines()
    assert head.split() == ["user", "server", "created", "updated"]
    return [line.split()[:2] for line in lines]


def stored(folder: Path) -> bytes:
    """Return all that stands in the files of the store, its key aside."""
    return b"".join(file.read_bytes() for file in folder.glob("bridgecore.db*") if file.is_file())


def test_login_list_and_logout(folder: Path) -> None:
    """A token is stored, listed without itself, and deleted."""
    assert rows(folder) == []
    assert ok(folder, "login", "wiki", "--user", "ann", typed=f"{TOKEN}\n") == ""
    assert ok(folder, "login", "wiki", "--user", "ann", "--token", "-", typed=f"{OTHER}\r\n") == ""
    ok(folder, "login", "wiki", "--user", "bob", typed=TOKEN)
    assert rows(folder) == [["ann", "wiki"], ["bob", "wiki"]]
    assert rows(folder, "--user", "bob") == [["bob", "wiki"]]
    assert b"token-of-ann" not in ok(folder, "logins").encode() + stored(folder)
    assert ok(folder, "logout", "wiki", "--user", "ann") == ""
    assert rows(folder) == [["bob", "wiki"]]


def on_a_terminal(folder: Path, typed: str) -> tuple[int, str]:
    """Log ann in at a terminal, type when the token is asked for, and return the exit code and what was shown."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "bridgeserver", "tools", "login", "wiki", "--user", "ann"],
        cwd=folder,
        env=gateways.clean_environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        shown = b""
        while not shown.endswith(b"token of ann for wiki: "):
            shown += os.read(ours, 1024)
        os.write(ours, typed.encode())
        with suppress(OSError):  # which is how Linux says that the other end is closed
            while data := os.read(ours, 1024):
                shown += data
        code = process.wait(30)
    os.close(ours)
    return code, shown.decode()


def test_a_token_is_typed_unseen(folder: Path) -> None:
    """On a terminal it is asked for, and nothing of it is echoed."""
    code, shown = on_a_terminal(folder, f"{TOKEN}\n")
    assert (code, TOKEN in shown) == (0, False), shown
    assert rows(folder) == [["ann", "wiki"]]


def test_nothing_usable_is_typed(folder: Path) -> None:
    """An empty line, the end of the input, and a line that may have been cut are one complaint and store nothing."""
    for typed, complaint in (
        ("\n", "token: found 0 characters"),
        ("\x04", "token: found the end of the input"),
        ("x" * TYPED_LIMIT + "\n", "token: found a line of 1023 characters or more"),
    ):
        code, shown = on_a_terminal(folder, typed)
        assert (code, complaint in shown) == (1, True), shown
        assert "xxx" not in shown
    assert rows(folder) == []


@pytest.mark.parametrize(
    ("arguments", "typed", "complaint"),
    [
        (
            ["login", "wik", "--user", "ann"],
            "t",
            "no MCP server named 'wik'; there are: wiki, clock",
        ),
        (["login", "clock", "--user", "ann"], "t", "'clock' takes no token of a user: set user_token = true"),
        (["login", "wiki", "--user", "eve"], "t", "no user named 'eve'; `bridgecore users list`"),
        (["login", "wiki", "--user", "ann"], "", "token: found an empty line or none, expected a token on a line"),
        (["login", "wiki", "--user", "ann", "--token", "-"], " \n", "token: found an empty line or none"),
        (
            ["login", "wiki", "--user", "ann"],
            "Bearer hunter2\n",
            "token: found 14 characters, expected the token itself",
        ),
        (["login", "wiki", "--user", "ann"], "env:hunter2\n", "token: found a reference that begins with env:"),
        (["logout", "wiki", "--user", "ann"], "", "user 'ann' has no token for 'wiki'; there are tokens for: none"),
        (["logout", "wiki", "--user", "eve"], "", "no user named 'eve'"),
        (["logins", "--user", "eve"], "", "no user named 'eve'"),
    ],
)
def test_what_is_refused(folder: Path, arguments: list[str], typed: str, complaint: str) -> None:
    """A mistake is one line that says what was expected and shows no token, and exit code 1."""
    done = tools(folder, *arguments, typed=typed)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("bridgecore: ")
    assert complaint in done.stderr
    assert "hunter2" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert rows(folder) == []


def test_a_token_does_not_stand_in_a_command(folder: Path) -> None:
    """It is refused there and not repeated."""
    for arguments in (["--token", "hunter2"], ["--token=hunter2"]):
        done = tools(folder, "login", "wiki", "--user", "ann", *arguments, typed="t")
        assert done.returncode == 2
        assert "expected -: other users of this machine can read" in done.stderr
        assert "hunter2" not in done.stderr
    assert tools(folder, "login", "wiki").returncode == 2
    assert rows(folder) == []


def test_a_token_can_be_deleted_when_its_server_is_gone(folder: Path) -> None:
    """Nothing is asked of the configuration."""
    ok(folder, "login", "wiki", "--user", "ann", typed=TOKEN)
    gateways.write_config(folder, "http://127.0.0.1:9")
    ok(folder, "logout", "wiki", "--user", "ann")
    assert rows(folder) == []


@pytest.fixture(scope="module")
def office() -> Iterator[str]:
    """The example's server, and its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen([sys.executable, str(EXAMPLES / "mcp_server.py"), str(port)]) as process:
        try:
            gateways.eventually(lambda: answers(port))
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()


def answers(port: int) -> bool | None:
    """Whether a server listens there; None while it does not."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return None


@pytest.fixture
def working(tmp_path: Path, office: str) -> Path:
    """A folder whose configuration has the example's server, one with tokens of users, and one that is away."""
    more = f"""
[[mcp_servers]]
name = "office"
url = "{office}"

[[mcp_servers]]
name = "mine"
url = "{office}"
user_token = true
deny = "book"

[[mcp_servers]]
name = "away"
url = "http://127.0.0.1:9/mcp"
"""
    gateways.write_config(tmp_path, "http://127.0.0.1:9", more=more)
    gateways.make_key(tmp_path, "ann")
    gateways.make_key(tmp_path, "bob")
    return tmp_path


def test_the_tools_of_a_user_are_listed(working: Path) -> None:
    """With those of a server that the user has a token for, and without a server that is away, which is named."""
    ok(working, "login", "mine", "--user", "ann", typed=TOKEN)
    everybodys = ["bmcp_office_book_room", "bmcp_office_free_rooms"]
    for user, ids in (
        ([], everybodys),
        (["--user", "bob"], everybodys),
        (["--user", "ann"], ["bmcp_mine_free_rooms", *everybodys]),
    ):
        done = tools(working, "list", *user)
        head, *lines = done.stdout.splitlines()
        assert head.split() == ["id", "server", "tool", "description"]
        assert [line.split()[0] for line in lines] == ids
        assert "mcp_server_failed" in done.stderr
        assert "away" in done.stderr
    listed = [json.loads(line) for line in ok(working, "list", "--json").splitlines()]
    assert [tool["id"] for tool in listed] == everybodys
    assert listed[1]["schema"]["required"] == ["people"]


def test_a_tool_is_called(working: Path) -> None:
    """What it answers is printed; an error of its own is exit code 1."""
    assert ok(working, "call", "bmcp_office_free_rooms", '{"people": 6}') == "Grace, Hedy\n"
    assert ok(working, "call", "bmcp_office_free_rooms", "-", typed='{"people": 99}') == "none\n"
    done = tools(working, "call", "bmcp_office_book_room", '{"room": "Eve", "purpose": "x"}')
    assert (done.returncode, "there is no room Eve" in done.stdout) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nothing"], "no tool 'nothing'; `bridgecore tools list` shows those there are"),
        (["bmcp_office_free_rooms", "people"], "arguments: found no JSON object"),
        (["bmcp_office_free_rooms", "[]"], "arguments: found no JSON object (Expected `object`, got `array`)"),
        (["bmcp_office_free_rooms", "--user", "eve"], "no user named 'eve'"),
    ],
)
def test_a_call_that_cannot_be_made(working: Path, arguments: list[str], complaint: str) -> None:
    """One line says why."""
    done = tools(working, "call", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert complaint in done.stderr


def test_without_servers_there_is_nothing_to_list(tmp_path: Path) -> None:
    """It says which there are."""
    gateways.write_config(tmp_path, "http://127.0.0.1:9")
    assert "no MCP server is there for this user; there are: none" in tools(tmp_path, "list").stderr


def test_the_worked_example(tmp_path: Path, office: str) -> None:
    """The files of the example do what docs/tools.md shows."""
    scripts = load_scripts(EXAMPLES / "model.toml")
    with running(scripts=scripts) as fake:
        config = (EXAMPLES / "tools.toml").read_text()
        config = config.replace("http://127.0.0.1:8090/mcp", office).replace("http://127.0.0.1:8091", fake.url)
        (tmp_path / "bridgecore.toml").write_text(f"{config}\n[server]\nport = 0\n")
        with gateways.running(tmp_path) as gateway:
            asked = {"model": "demo", "max_tokens": 100, "messages": [{"role": "user", "content": "Where?"}]}
            answer = gateway.ask("/anthropic/v1/messages", asked)
    assert [block["text"] for block in answer.json["content"]] == ["Rooms with six seats: Grace, Hedy"]
