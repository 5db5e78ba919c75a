"""Installs the peers of `peers.toml`, each into a folder of its own: python -m benchmarks.gateway.prepare DIR [NAME …].

It needs the network, python3 with venv and pip, and npm for those that want it. The benchmark itself fetches nothing.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.gateway.peers import PINS, Pin


def install(pin: Pin, folder: Path) -> None:
    """Install one peer into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    if pin.installer == "pip":
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"{pin.package}=={pin.version}"], check=True)
    else:
        folder.mkdir(parents=True)
        wanted = {"dependencies": {pin.package: pin.version}, "overrides": dict(pin.overrides)}
        (folder / "package.json").write_text(json.dumps(wanted))
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=folder, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="install the gateways that the benchmark compares with")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PINS)}; all of them if none is named")
    options = parser.parse_args()
    for name in options.names or PINS:
        print(f"installing {PINS[name].package} {PINS[name].version} into {options.folder / name}", flush=True)
        install(PINS[name], (options.folder / name).absolute())


if __name__ == "__main__":
    main()
