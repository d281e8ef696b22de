"""A soak: erasure requests one after another in one process, each with its audit; memory and open files stay flat.

    python -m tests.long.soak --seconds 3600

Each request starts from the model that the last one left, every tenth from the original again. The first tenth of the
time warms up: allocators and caches grow then. After it, the process may grow by less than :data:`GROWTH` in all, and
hold no more open files.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import rkld
from tests.long.world import AUDIT, FORGET, KEPT, RUN, STRANGERS, make_original, report

GROWTH = 20
"""MiB."""

FRESH = 10
"""Requests after which the original is taken again."""


def resident() -> float:
    """Memory of this process that is held, MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def request(model: Path, number: int, folder: Path) -> Path:
    """Unlearn some of the records, audit the outcome, and return its folder."""
    out = folder / f"request-{number}"
    forget = [FORGET[(number + i) % len(FORGET)] for i in range(4)]
    result = rkld.unlearn(model, forget, retain=KEPT, holdout=STRANGERS, out=str(out), **RUN)
    rkld.audit(result.model_path, forget, retain=KEPT, holdout=STRANGERS, original=str(model), out=str(out), **AUDIT)
    return out


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def soak(seconds: float, at_least: int = 2) -> dict[str, Any]:
    """Requests for so long, and at least so many; what the process held after the warm-up and at the end."""
    started, memory, files = time.time(), [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        original = last = make_original(folder)
        while (passed := time.time() - started) < seconds or len(memory) < at_least:
            number = len(memory)
            out = request(original if number % FRESH == 0 else last, number, folder)
            if last != original:
                shutil.rmtree(last.parent)
            last = out / "model"
            memory.append((passed / seconds, resident()))
            files.append((passed / seconds, open_files()))
    warm = {name: [value for at, value in found if at >= 0.1] for name, found in (("MiB", memory), ("files", files))}
    tenth = max(1, len(warm["MiB"]) // 10)
    found = {
        "requests": len(memory),
        "MiB after the warm-up": round(median(warm["MiB"][:tenth])),
        "MiB at the end": round(median(warm["MiB"][-tenth:])),
        "open files after the warm-up": max(warm["files"][:tenth]),
        "open files at the end": max(warm["files"][-tenth:]),
        "seconds": round(time.time() - started),
    }
    flat = found["MiB at the end"] - found["MiB after the warm-up"] < GROWTH
    return {"flat": flat and found["open files at the end"] <= found["open files after the warm-up"], **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    found = soak(parser.parse_args().seconds)
    report(found)
    raise SystemExit(0 if found["flat"] else 1)


if __name__ == "__main__":
    main()
