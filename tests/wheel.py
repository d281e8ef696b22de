"""What ``make wheel`` runs in a clean environment with the wheel alone: the demo's first phase finds its data files.

The run is interrupted once the phase "before" is noted. The model comes from the user's cache, or is fetched once.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import rkld

LIMIT = 900.0
"""Seconds until the phase must be over, a download included."""


def main() -> None:
    rkld_command = str(Path(sys.executable).with_name("rkld"))
    home = Path(rkld.__file__).resolve()
    if "site-packages" not in home.parts:
        raise SystemExit(f"rkld was imported from {home.parent}, which is not the wheel's")
    version = subprocess.run([rkld_command, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "demo"
        started, manifest = time.monotonic(), run / "manifest.json"
        demo = subprocess.Popen([rkld_command, "demo", "--out", str(run)], cwd=folder)
        try:
            while time.monotonic() - started < LIMIT:
                phases = json.loads(manifest.read_text(encoding="utf-8"))["phases"] if manifest.exists() else {}
                if "before" in phases:
                    figures = phases["before"]["metrics"]["forget"]
                    print(f"{version}: the demo's first phase is done: {figures}")
                    return
                if demo.poll() is not None:
                    raise SystemExit(f"rkld demo ended with {demo.returncode} before its first phase was over")
                time.sleep(1)
            raise SystemExit(f"the first phase was not over after {LIMIT:.0f} s")
        finally:
            demo.send_signal(signal.SIGINT)
            demo.wait(timeout=60)


if __name__ == "__main__":
    main()
