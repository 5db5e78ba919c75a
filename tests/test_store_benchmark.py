"""The benchmark of the store runs, and the page that shows its figures is rendered from them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # behind everything, so that an installed package is still the one that is tested

from benchmarks.store import report  # noqa: E402

PAGE = ROOT / "docs/performance.md"
RAW = ROOT / "benchmarks/results/store.json"


def test_the_benchmark_of_the_store_runs(tmp_path: Path) -> None:
    """A quick run asks and ships everything, and the blocks of the page can be made and checked from what it writes."""
    out, page = tmp_path / "store.json", tmp_path / "performance.md"
    command = [sys.executable, "-m", "benchmarks.store", "--quick", "--engines", "sqlite", "--rows", "1500"]
    command += ["--folder", str(tmp_path), "--json", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=90, stdout=subprocess.DEVNULL)
    results = json.loads(out.read_text())
    assert {row["engine"] for row in results["queries"]} == {"sqlite"}
    assert all(len(row["ms"]) == 2 for row in results["queries"])
    assert [row["batch"] for row in results["shipping"]] == [1000, 8000]
    assert all(row["cpu_us_a_record"] > 0 for row in results["shipping"])
    assert all(len(show(results).splitlines()) >= 3 for name, show in report.BLOCKS.items() if name != "store")
    shutil.copy(PAGE, page)
    report.main(["--json", str(out), "--page", str(page)])
    report.main(["--json", str(out), "--page", str(page), "--check"])
    assert "1,500 interceptions" in page.read_text()


def test_the_stores_figures_are_rendered_from_results() -> None:
    """A figure of the store on the page stands in benchmarks/results, and nobody edited it by hand."""
    text = PAGE.read_text()
    assert report.page(text, json.loads(RAW.read_text())) == text
