"""Kills at random file operations and at random moments: started again, a run ends in the same bytes.

    python -m tests.long.kills --operations 20 --moments 20

Each trial starts ``rkld unlearn`` in a new folder and kills it (SIGKILL) once: at one of its operations on files of the
run folder, counted by an audit hook (``killing/sitecustomize.py``), or after a while. The same command again must exit
with 0 and leave the model, figures, answers and stop of a run that nobody disturbed; no line of metrics.jsonl twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rkld.runfolder.checksums import checksums
from tests.long.world import RUN, make_original, report, write_records

KILLING = Path(__file__).with_name("killing")

OWN = ("seconds", "steering", "hashes")
"""Of a phase's note: what each run has of its own, its time and hashes with its salt."""


class World:
    """The model and the records, and the command that unlearns them."""

    def __init__(self, folder: Path):
        self.folder, self.original, self.records = folder, make_original(folder), write_records(folder)

    def start(self, run: Path, kill_at: int = 0, count_to: Path | None = None) -> subprocess.Popen[str]:
        flags = []
        for name, value in RUN.items():
            flag = name.replace("_", "-")
            flags += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
        records = [f"--{name}={path}" for name, path in self.records.items()]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(KILLING), *filter(None, sys.path)]),
            "OMP_NUM_THREADS": "1",
            "RKLD_KILL_FOLDER": str(run),
            "RKLD_KILL_AT": str(kill_at),
            "RKLD_KILL_COUNT": str(count_to or ""),
        }
        command = [sys.executable, "-m", "rkld", "unlearn", str(self.original), *records, *flags, "--out", str(run)]
        return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def left(run: Path) -> dict[str, Any]:
    """What must be equal."""
    phases = json.loads((run / "manifest.json").read_text())["phases"]
    return {
        "model": checksums(run, ["model"]),
        "answers": json.loads((run / "answers.json").read_text()),
        **{name: {key: value for key, value in phase.items() if key not in OWN} for name, phase in phases.items()},
    }


def doubled(run: Path) -> int:
    """Lines of metrics.jsonl that are there twice, whatever else differs in them."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return sum(n - 1 for n in Counter((row["phase"], row.get("set"), row.get("step")) for row in rows).values())


def trial(world: World, expected: Mapping[str, Any], kill_at: int = 0, after: float | None = None) -> str:
    """Kill once, start again: "same", or how it ended."""
    run = world.folder / "killed" / "run"
    shutil.rmtree(run.parent, ignore_errors=True)
    process = world.start(run, kill_at)
    try:
        process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    if process.returncode != -signal.SIGKILL:
        return f"was not killed, but ended with {process.returncode}"
    again = world.start(run)
    said, _ = again.communicate()
    if again.returncode:
        return f"exit code {again.returncode}: {said[-500:]}"
    found = left(run)
    different = [name for name in expected if found.get(name) != expected[name]]
    if different:
        return f"other {', '.join(different)}"
    return f"{n} lines doubled" if (n := doubled(run)) else "same"


def kills(operations: int, moments: int, seed: int = 0) -> tuple[dict[str, Counter[str]], dict[str, Any]]:
    """How so many trials of each kind ended, and the size of the undisturbed run."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        world = World(Path(temporary))
        run, count = world.folder / "undisturbed" / "run", world.folder / "count"
        began = time.time()
        said, _ = (process := world.start(run, count_to=count)).communicate()
        if process.returncode:
            raise SystemExit(f"the undisturbed run failed:\n{said}")
        seconds, of_a_run = time.time() - began, int(count.read_text())
        expected, outcomes = left(run), {}
        for kind, n in {"operations": operations, "moments": moments}.items():
            outcomes[kind] = Counter()
            for _ in range(n):
                at = rng.randint(1, of_a_run) if kind == "operations" else 0
                after = rng.uniform(0, 0.95 * seconds) if kind == "moments" else None
                outcome = trial(world, expected, at, after)
                outcomes[kind][outcome if outcome == "same" else "not the same"] += 1
                if outcome != "same":
                    print(f"killed at operation {at} or after {after} s: {outcome}")
    return outcomes, {"operations of a run": of_a_run, "seconds of a run": round(seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=20)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    started = time.time()
    outcomes, size = kills(given.operations, given.moments, given.seed)
    report({**{kind: dict(found) for kind, found in outcomes.items()}, **size, "seconds": round(time.time() - started)})
    raise SystemExit(0 if all(set(found) <= {"same"} for found in outcomes.values()) else 1)


if __name__ == "__main__":
    main()
