"""How rkld is called in the shell that it was called from, for the commands that it prints."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path


def command(*arguments: str | Path) -> str:
    """A command that works as it stands: "rkld report runs/demo", and ".venv/bin/rkld report runs/demo" where nothing
    is activated."""
    return " ".join([_program(), *(shlex.quote(str(argument)) for argument in arguments)])


def _program() -> str:
    """ "rkld" where the shell finds this one by it; else its script's path, or this interpreter's ``-m rkld``."""
    script, found = Path(sysconfig.get_path("scripts")) / "rkld", shutil.which("rkld")
    if not script.exists():
        return "rkld" if found else f"{shlex.quote(_near(Path(sys.executable)))} -m rkld"
    if found and os.path.samefile(found, script):
        return "rkld"
    return shlex.quote(_near(script))


def _near(path: Path) -> str:
    """Relative, where it lies below the folder that we are in."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def has_screen() -> bool:
    """Whether there is a screen to open a browser on: elsewhere one in the terminal would be started, and wait."""
    return sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
