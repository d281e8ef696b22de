"""What ``make wheel`` runs in a clean environment with the package alone: the command, its files, the demo's beginning.

The demo is interrupted once the phase "before" is noted. Its model comes from the user's cache, or is fetched once;
``--without-demo`` leaves it out.
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
    version = said(rkld_command, "--version").strip()
    assert "unlearn" in said(rkld_command, "--help")
    found = json.loads(said(rkld_command, "doctor", "--json"))  # which compares every file with the package's record
    assert found["sound"] and not found["rkld"]["editable"], found
    with tempfile.TemporaryDirectory() as folder:
        said(rkld_command, "init", str(Path(folder) / "jane"))
    print(f"{version} on Python {found['system']['python']}: the command runs and finds its files")
    if "--without-demo" in sys.argv[1:]:
        return
    demo_begins(rkld_command, version)


def said(*command: str) -> str:
    """What a command prints that must end well, in no folder of ours."""
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder).stdout


def demo_begins(rkld_command: str, version: str) -> None:
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
