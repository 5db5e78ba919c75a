"""Rules of the house that no linter knows."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
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


def ranks() -> dict[str, int]:
    """Return where each room of the server stands in the list of docs/design.md; lower rooms have higher numbers."""
    listed = (ROOT / "docs/design.md").read_text().partition("server/bridgeserver/ ")[2].partition("```")[0]
    lines = re.findall(r"^ {4}(\S.*?)/? {2,}", listed, re.MULTILINE)
    return {name.strip(" /"): rank for rank, line in enumerate(lines) for name in line.split(",")}


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of the server that a file names in imports, wherever these stand in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "bridgeserver":
            yield from (f"bridgeserver.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bridgeserver."):
            yield str(node.module)


def test_imports_point_down_the_list_of_the_design() -> None:
    """A room imports itself and those below it; the types of tools, which import nothing, stand in a room above."""
    server, rank = ROOT / "server/bridgeserver", ranks()
    upward: set[tuple[str, str]] = set()
    for path in server.rglob("*.py"):
        room = path.relative_to(server).parts[0].removesuffix(".py")
        for module in imported(path):
            other = module.split(".")[1]
            if room in rank and rank.get(other, len(rank)) < rank[room]:
                upward.add((room, module))
    assert upward == {("weaving", "bridgeserver.tools.tool")}


def test_the_tables_of_the_readme_are_rendered_from_results() -> None:
    """A figure in the README stands in benchmarks/results, and nobody edited it by hand."""
    check = subprocess.run(
        [sys.executable, ROOT / "benchmarks/render.py", "--check"], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stdout + check.stderr
