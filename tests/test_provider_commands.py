"""`bridgecore providers`, as a person types it."""

from pathlib import Path

import pytest

import commandlab
import gateway as gateways

KEY = "sk-first-0123456789abcdef"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a configuration of three providers."""
    gateways.write_config(tmp_path, "http://127.0.0.1:9")
    return tmp_path


def ok(folder: Path, *arguments: str, typed: str = "") -> str:
    """Run an action that succeeds and return what it printed."""
    return commandlab.succeed(folder, "providers", *arguments, typed=typed)


def rows(folder: Path) -> dict[str, list[str]]:
    """Return the cells of the list by name."""
    lines = [line.split("  ") for line in ok(folder, "list").splitlines()[1:]]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    return {name: rest for name, *rest in cells}


def test_add_switch_and_remove(folder: Path) -> None:
    """A stored provider replaces the file's until it is removed; a switch shows where it was set."""
    ok(folder, "add", "openai", "--key", "-", "--key", "-", "--base-url", "http://10.0.0.1/v1", typed=f"{KEY}\nother\n")
    ok(folder, "add", "mine", "--type", "anthropic", "--disabled", "--display-name", "Mine", "--auth", "bearer")
    ok(folder, "disable", "anthropic")
    assert rows(folder) == {
        "anthropic": ["anthropic", "disabled (override)", "file", "http://127.0.0.1:9", "1"],
        "openai": ["openai", "enabled", "store", "http://10.0.0.1/v1", "2"],
        "switched-off": ["anthropic", "disabled", "file", "http://127.0.0.1:9", "1"],
        "mine": ["anthropic", "disabled", "store", "https://api.anthropic.com", "0"],
    }
    ok(folder, "enable", "mine")
    ok(folder, "enable", "switched-off")
    ok(folder, "reset", "anthropic")
    ok(folder, "remove", "openai")
    assert {name: cells[1:3] for name, cells in rows(folder).items()} == {
        "anthropic": ["enabled", "file"],
        "openai": ["enabled", "file"],
        "switched-off": ["enabled (override)", "file"],
        "mine": ["enabled", "store"],
    }


def test_a_key_file_is_announced_once(folder: Path) -> None:
    """The first stored key makes the file and a warning on standard error; the key itself is nowhere."""
    warned = [
        commandlab.bridgecore(folder, "providers", "add", name, "--type", "openai", "--key", KEY).stderr
        for name in ("a", "b")
    ]
    assert "bridgecore.db.key" in warned[0]
    assert warned[1] == ""
    assert KEY not in warned[0]


def test_a_broken_provider_is_listed_with_its_reason(folder: Path) -> None:
    """Without its sealing key a stored provider is broken, hides the file's, and says what to do."""
    ok(folder, "add", "openai", "--key", KEY)
    (folder / "bridgecore.db.key").unlink()
    done = commandlab.bridgecore(folder, "providers", "list")
    assert "provider openai is not served: the key file" in done.stderr
    assert [line.split()[2:4] for line in done.stdout.splitlines() if line.startswith("openai")] == [
        ["broken", "store"]
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["add", "mine"], 'type: found "mine", expected "anthropic", "openai", "copilot" or "bedrock"'),
        (["add", "openai", "--key", "env:OPENAI_API_KEY"], "found a reference that begins with env:"),
        (["add", "openai", "--key", "-"], "--key -: found an empty line or none"),
        (["add", "openai", "--base-url", "http://169.254.169.254"], "no link-local or metadata address"),
        (["remove", "openai"], "no stored provider 'openai'"),
        (["enable", "x"], "no provider named 'x'; there are: anthropic, openai, switched-off"),
        (["reset", "openai"], "no override of provider 'openai' to end"),
    ],
)
def test_what_is_refused(folder: Path, arguments: list[str], complaint: str) -> None:
    """A mistake is one line that says what was expected, and exit code 1."""
    done = commandlab.bridgecore(folder, "providers", *arguments, typed="")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("bridgecore: ")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_every_mistake_has_a_line(folder: Path) -> None:
    """Several mistakes of one request are all said."""
    done = commandlab.bridgecore(folder, "providers", "add", "A", "--type", "x", "--key", "a b")
    assert done.returncode == 1
    assert [line.startswith("bridgecore: request: ") for line in done.stderr.splitlines()] == [True] * 3


def test_wrong_usage(folder: Path) -> None:
    """An action without its name is wrong usage."""
    assert commandlab.bridgecore(folder, "providers", "remove").returncode == 2
