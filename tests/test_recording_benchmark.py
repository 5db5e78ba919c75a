"""The benchmark of recording runs, and says what its rows cost."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "recording.py"


def test_the_benchmark_of_recording_runs(tmp_path: Path) -> None:
    """A quick run measures every row; it fails by itself when records are missing in the store."""
    out = tmp_path / "recording.json"
    subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--json", out], check=True, timeout=60, stdout=subprocess.DEVNULL
    )
    rows = {row["row"]: row["median"] for row in json.loads(out.read_text())["rows"]}
    assert len(rows) == 5
    assert all(cost > 0 for name, cost in rows.items() if name.startswith("shipping"))
