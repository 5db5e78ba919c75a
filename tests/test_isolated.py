"""Scripts that need an interpreter of their own: what they check has to fail their process, or print."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import bridgecore

SCRIPTS = sorted((Path(__file__).parent / "isolated").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_a_script_ends_well_and_says_nothing(script: Path) -> None:
    """In the interpreter's development mode, with warnings as errors, each ends with 0 and prints nothing."""
    environment = {**os.environ, "PYTHONPATH": str(Path(bridgecore.__file__).parent.parent)}
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", str(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
