"""`bridgecore records`: filters, the three forms, and following."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

import samples
from bridgeserver import cli, record_commands
from bridgeserver.records import AnyRecord
from bridgeserver.store import Store, open_store
from gateway import clean_environment
from querylab import fill, request


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store that commands use."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record_commands, "end_with_the_pipe", lambda: None)  # which is for a whole process
    store = open_store(f"sqlite:///{tmp_path}/bridgecore.db")
    store.upgrade()
    yield store
    store.close()


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what `bridgecore records` prints."""
    assert cli.run(["records", *arguments]) == 0
    return capsys.readouterr().out


def ids(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the last digits of the ids of what is printed as JSON."""
    return "".join(json.loads(line)["id"][-1] for line in printed(capsys, "--json", *arguments).splitlines())


def test_filters_are_flags(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Each chooses as its parameter of the API does, and all must hold."""
    store.create_key("ann", "", is_admin=False, actor="test")
    (ann,) = store.list_users()
    fill(
        store,
        request(1, user_id=ann.id, model="a", provider_name="team", session_id="s"),
        request(2, model="b", client="Zed"),
        [samples.interception(3, started_at=1)],
    )
    assert ids(capsys) == "312"
    assert ids(capsys, "--user", "ann") == ids(capsys, "--model", "a") == ids(capsys, "--provider", "team") == "1"
    assert ids(capsys, "--client", "Zed") == ids(capsys, "--after", "2026-09-21T14:13:22Z") == "2"
    assert ids(capsys, "--session", "s", "--user", "ann") == "1"
    assert ids(capsys, "--status", "open") == ids(capsys, "--before", "2026-09-21T14:13:21Z") == "3"
    assert ids(capsys, "--user", "ann", "--model", "b") == ""


def test_a_limit_is_of_the_last_ones(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """They come in the order of their beginning all the same."""
    fill(store, *(request(number, model=f"m{number % 2}") for number in range(1, 8)))
    assert ids(capsys, "--limit", "3") == "567"
    assert ids(capsys, "--limit", "2", "--model", "m0") == "46"
    assert ids(capsys, "--limit", "7") == ids(capsys, "--limit", "99") == "1234567"


@pytest.mark.parametrize(
    "wrong", [["--after", "yesterday"], ["--limit", "0"], ["--limit", "x"], ["--status", "done"], ["--json", "--csv"]]
)
@pytest.mark.usefixtures("store")
def test_wrong_usage(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A flag with another value is named, and the exit code is 2."""
    with pytest.raises(SystemExit) as exit_:
        cli.run(["records", *wrong])
    assert exit_.value.code == 2
    assert f"argument {wrong[-2] if len(wrong) == 2 and wrong[0] != '--json' else '--csv'}" in capsys.readouterr().err


def test_csv_has_names_and_no_formulas(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """It is what the export of the API is."""
    fill(store, request(1, model="=1+1"), request(2))
    text = printed(capsys, "--csv")
    assert text.count("\r\n") == text.count("\n") == 3
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(row["id"], row["model"], row["prompt"]) for row in rows] == [
        ("i0001", "'=1+1", "prompt 1"),
        ("i0002", "m", "prompt 2"),
    ]


def test_a_table_is_for_people(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns are as wide as their cells, a line as wide as the terminal, and nothing reaches the terminal itself."""
    fill(
        store,
        request(1, model="short", tokens=10),
        [
            replace(samples.interception(2), started_at=1),
            replace(samples.prompt(2, text="\x1b]0;owned\x07\n" + "long " * 500), created_at=1),
        ],
        costs={1: 1_234_560},
    )
    first, second, third = printed(capsys).splitlines()
    titles = ["started", "user", "provider", "model", "status", "in", "out", "cost", "tools", "prompt"]
    assert first.split() == titles
    assert "\x1b" not in second
    assert third.split()[2:9] == ["u1", "main", "short", "completed", "40", "20", "$1.2346"]
    assert third.index("short") == first.index("model")
    assert len(second) > 500
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    lines = printed(capsys).splitlines()
    assert max(map(len, lines)) == 60
    assert lines[1].endswith("…")


def test_following_prints_what_ends(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what ends from then on, as the filters say, until as many as asked for were printed."""
    fill(store, request(1))
    later: list[list[AnyRecord]] = [request(2, model="other"), [samples.interception(3)], *map(request, (4, 5, 6))]
    monkeypatch.setattr(record_commands, "_wait", lambda: fill(store, later.pop(0)))
    assert ids(capsys, "--follow", "--model", "m", "--limit", "2") == "45"
    assert len(later) == 1


def test_a_long_export_is_counted_on_the_terminal(store: Store, tmp_path: Path) -> None:
    """While its output goes to a file, standard error shows how far it is; without a terminal nothing is shown."""
    fill(store, *(request(number) for number in range(1, 4)))
    shown, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    command = [sys.executable, "-m", "bridgeserver", "records", "--csv"]
    environment = clean_environment() | {"TERM": "xterm"}
    with_bar = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=terminal, timeout=60, cwd=tmp_path, env=environment
    )
    assert b"3/3" in os.read(shown, 1 << 16)
    os.close(terminal)
    os.close(shown)
    without = subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=tmp_path, env=environment)
    assert without.stderr == b""
    assert with_bar.stdout == without.stdout
    assert without.stdout.count(b"\r\n") == 4
