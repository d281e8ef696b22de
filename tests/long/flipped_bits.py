"""Flipped bits over run and audit folders: each is found, or every figure and verdict stays the same.

    python -m tests.long.flipped_bits --n 200

Each trial copies a folder, flips one bit of one file (a file by chance, then a bit of it), and gives the same commands
again: of a finished run with its audit ``rkld.unlearn`` and ``rkld.audit``, of an interrupted one ``rkld.unlearn``.
"""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

import rkld
from rkld.progress import NoProgress
from rkld.runfolder.checksums import weights_hash
from tests.long.world import AUDIT, FORGET, KEPT, RUN, STRANGERS, files, make_original, report

STATES = ("finished", "interrupted")

ROUTINE = (
    "Loading",
    "Base",
    "Weights",
    "Model    ",
    "Prompts",
    "Stopped by",
    "Own words",
    "Replay",
    "Rewordings",
    "is finished already",
    "Warning",
)
"""Beginnings or ends of what is said in any run."""


class Interrupt(TrainerCallback):
    """Ends the distillation in its fifth step, as a power cut would."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5 and "checkpoints" in str(args.output_dir):
            raise KeyboardInterrupt


class Listening(NoProgress):
    """Keeps what is said: all of it, or what is not said in any run."""

    def __init__(self, everything: bool = False) -> None:
        self.said: list[str] = []
        self.everything = everything

    def say(self, text: str) -> None:
        routine = " goes on after: " in text or any(text.startswith(one) or text.endswith(one) for one in ROUTINE)
        if self.everything or not routine:
            self.said.append(text)


@contextmanager
def listening(everything: bool = False) -> Iterator[Listening]:
    """What is said by progress and by logged warnings."""
    heard = Listening(everything)

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.said.append(record.getMessage())

    handler, logger = Handler(logging.WARNING), logging.getLogger("rkld")
    logger.addHandler(handler)
    try:
        yield heard
    finally:
        logger.removeHandler(handler)


@dataclass
class Folders:
    """The folders that bits are flipped in, and what the same commands say of them undisturbed."""

    original: Path
    run: dict[str, Path]
    expected: dict[str, Mapping[str, Any]] = field(default_factory=dict)


def unlearn(original: Path, folder: Path, **more: Any) -> rkld.Result:
    return rkld.unlearn(original, FORGET, retain=KEPT, holdout=STRANGERS, out=str(folder), **{**RUN, **more})


def look(state: str, folders: Folders, run: Path, heard: Listening) -> dict[str, Any]:
    """Figures, verdict and weights after the same commands again."""
    result = unlearn(folders.original, run, progress=heard)
    found: dict[str, Any] = {"metrics": result.metrics, "weights": weights_hash(result.model_path)}
    if state == "finished":
        audited = rkld.audit(run, FORGET, original=folders.original, retain=KEPT, progress=heard, **AUDIT).document
        found["audit"] = {name: audited[name] for name in ("verdict", "gates", "metrics", "membership", "texts")}
    return found


def make_folders(folder: Path) -> Folders:
    original = make_original(folder)
    found = Folders(original, {state: folder / state for state in STATES})
    unlearn(original, found.run["finished"])
    with suppress(KeyboardInterrupt):
        unlearn(original, found.run["interrupted"], callbacks=[Interrupt()])
    for state in STATES:
        if state == "finished":
            look(state, found, found.run[state], Listening())  # makes the audit
        shutil.copytree(found.run[state], folder / "undisturbed" / state)
        with listening() as heard:
            found.expected[state] = look(state, found, folder / "undisturbed" / state, heard)
        assert not heard.said, heard.said
    return found


@dataclass(frozen=True)
class Trial:
    """One flipped bit.

    Attributes:
        outcome: "refused" by a sentence, "said" and mended, "said, other figures", "same" without a word; "unnoticed"
            (other figures without a word) and "traceback" are what must not be.
    """

    state: str
    file: str
    bit: int
    outcome: str
    what: str = ""

    @property
    def held(self) -> bool:
        return self.outcome not in ("unnoticed", "traceback")


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def trial(folders: Folders, rng: random.Random, state: str) -> Trial:
    """Flip one bit in a copy, and see what the same commands make of it."""
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        shutil.copytree(folders.run[state], run)
        path = rng.choice([path for path in files(run) if path.stat().st_size])
        bit = rng.randrange(8 * path.stat().st_size)
        flip(path, bit)
        name = path.relative_to(run).as_posix()
        with listening() as heard:
            try:
                found = look(state, folders, run, heard)
            except rkld.UserError as error:
                return Trial(state, name, bit, "refused", str(error))
            except Exception as error:
                return Trial(state, name, bit, "traceback", repr(error))
    same = found == folders.expected[state]
    outcome = ("said" if same else "said, other figures") if heard.said else "same" if same else "unnoticed"
    return Trial(state, name, bit, outcome, "; ".join(heard.said))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng, started = random.Random(given.seed), time.time()
    with tempfile.TemporaryDirectory() as folder:
        folders = make_folders(Path(folder))
        trials = [trial(folders, rng, STATES[number % 2]) for number in range(given.n)]
    for one in trials:
        if not one.held or one.outcome == "said, other figures":
            print(f"{one.outcome}: {one.state} {one.file} bit {one.bit}: {one.what[:300]}")
    outcomes = {state: dict(Counter(one.outcome for one in trials if one.state == state)) for state in STATES}
    report({"flipped bits": given.n, **outcomes, "seconds": round(time.time() - started)})
    raise SystemExit(0 if all(one.held for one in trials) else 1)


if __name__ == "__main__":
    main()
