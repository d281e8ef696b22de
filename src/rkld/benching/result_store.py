"""What a piece of a benchmark has written once it is finished, with the settings it was made by."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rkld.errors import UserError
from rkld.files import write_json


def read(path: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """What :func:`write` wrote there; None where it has not been.

    Args:
        asked: the settings now, as JSON has them.

    Raises:
        UserError: it was made with other settings.
    """
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    different = [
        f"  {name}: {found['settings'].get(name)!r} then, {value!r} now"
        for name, value in asked.items()
        if found["settings"].get(name) != value
    ]
    if different:
        raise UserError(
            f"{path.parent}: this was made with other settings. Give another --out, or delete it.\n"
            + "\n".join(different)
        )
    return found


def write(path: Path, settings: Mapping[str, Any], started: float, **content: Any) -> dict[str, Any]:
    """Write what was made, and give it back as it will be read.

    Args:
        started: in seconds, of ``time.time()``; seconds of an interrupted piece are those of its last start.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    device = "GPU" if torch.cuda.is_available() else "CPU"
    seconds = round(time.time() - started, 1)
    write_json(path, {"settings": settings, **content, "seconds": seconds, "device": device})
    return json.loads(path.read_text(encoding="utf-8"))
