"""Rules of the house that no linter knows."""

import re
import subprocess
import sys
from pathlib import Path

import bridgecore

ROOT = Path(__file__).parent.parent
ROOMS = {
    path.stem: path
    for path in (ROOT / "server/bridgeserver").iterdir()
    if path.suffix == ".py" and path.stem not in {"__init__", "__main__"}
}


def test_the_public_api_is_what_all_names() -> None:
    """`bridgecore.__all__` names everything public, sorted."""
    modules = {path.stem for path in (ROOT / "bridgecore").glob("*.pyx")}
    public = [name for name in vars(bridgecore) if not name.startswith("_") and name not in modules]
    assert bridgecore.__all__ == sorted(public)


def test_the_core_does_not_know_the_server() -> None:
    """Compiled modules import nothing of the server; ruff sees to the others."""
    for path in (ROOT / "bridgecore").glob("*.pyx"):
        assert "bridgeserver" not in path.read_text(), path


def test_protocols_and_providers_do_no_io() -> None:
    """They are functions and small objects over bytes, so that they are tested without a server."""
    forbidden = re.compile(
        r"^(from|import) (asyncio|socket|http\.client|urllib\.request|sqlite3|os|pathlib)\b", re.MULTILINE
    )
    for room in ("protocols", "providers"):
        for path in (ROOT / "server/bridgeserver" / room).glob("*.py"):
            assert not forbidden.search(path.read_text()), path


def test_every_room_stands_in_the_design() -> None:
    """docs/design.md names every module of the server."""
    design = (ROOT / "docs/design.md").read_text()
    assert [name for name in ROOMS if not re.search(rf"\b{name}\b", design)] == []


def test_the_tables_of_the_readme_are_rendered_from_results() -> None:
    """A figure in the README stands in benchmarks/results, and nobody edited it by hand."""
    check = subprocess.run(
        [sys.executable, ROOT / "benchmarks/render.py", "--check"], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stdout + check.stderr
