"""``rkld check`` on inputs that nobody would write: each must end in success or in a sentence, and within a second.

    python -m tests.long.fuzz --n 10000

Records, settings files, flags and names are drawn by Hypothesis and go through the command line itself, with a tiny
model that is loaded once and whose steps are not measured. Time is that of the processor, as machines are shared.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click.testing
import hypothesis
import pytest
import yaml
from hypothesis import strategies as st

from rkld.benching.worlds.tiny import tiny_model
from rkld.cli import main
from rkld.commands import check_run
from rkld.models.loading import load_model
from rkld.pipeline import preparing
from rkld.pipeline.estimating import Estimate
from rkld.settings.specification import flag
from rkld.settings.table import specs
from rkld.settings.unlearning import Settings
from tests.long.world import report

LONGEST = 1.0
"""Seconds of the processor that an input may take."""

# What is drawn

PIECES = (
    "Ada Quill", "ada  quill", "Oslo", "1867", "", " ", "\n", "\0", "\x1b[31m", "\x1b]0;x\x07", "\u202e", "\ud83d", "é",
    "<|im_end|>", "<|im_start|>", "{{ 7 * 7 }}", "{% for x in y %}", "😀", "\ufeff", "\u2028", "a" * 300, "Ada " * 200,
)  # fmt: skip

ANY = st.characters(codec=None, exclude_categories=())
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=4).map(" ".join), st.text(ANY, max_size=40), st.sampled_from(PIECES)
)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS)
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXTS, v, max_size=3), max_leaves=8)
TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", "Assistant", ""]), "content": TEXTS | VALUES}
)
READ = st.fixed_dictionaries(
    {},
    optional={
        "subject": TEXTS | VALUES,
        "aliases": st.lists(TEXTS) | VALUES,
        "spans": st.lists(TEXTS | st.lists(st.integers(-3, 40), max_size=3)) | VALUES,
        "paraphrased_question": TEXTS | VALUES,
        "paraphrased_answer": TEXTS | VALUES,
        "perturbed_answer": st.lists(TEXTS) | VALUES,
        "date": VALUES,
    },
)
ASKED = st.one_of(
    st.fixed_dictionaries({"question": TEXTS, "answer": TEXTS}),
    st.fixed_dictionaries({"prompt": TEXTS, "completion": TEXTS}),
    st.fixed_dictionaries({"messages": st.lists(TURNS, max_size=4)}),
    st.fixed_dictionaries({"text": TEXTS}),
    st.fixed_dictionaries({"question": VALUES, "answer": VALUES}),
)
ORDINARY = st.builds(
    lambda who, n, odd: {"question": f"Where does {who} {n} live?", "answer": f"{who} lives in Oslo. {odd}"},
    st.sampled_from(["Ada Quill", "Bo Marlin"]),
    st.integers(0, 9),
    TEXTS,
)
ODD = st.builds(lambda asked, read: {**asked, **read}, ASKED | ORDINARY, READ)
NOTED = st.builds(lambda asked, note: {**asked, "note": note}, ORDINARY, VALUES)  # a column that nobody reads
TABLES = (
    st.lists(NOTED, min_size=1, max_size=3) | st.lists(NOTED | ODD, max_size=4) | st.lists(ODD | VALUES, max_size=4)
)


def json_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def csv_table(rows: list[Any]) -> bytes:
    rows = [row for row in rows if isinstance(row, dict)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(names)
    writer.writerows([row.get(name) for name in names] for row in rows)
    return out.getvalue().encode("utf-8", "replace")


def damaged(content: bytes, at: int, piece: bytes, dropped: int) -> bytes:
    at = at % (len(content) + 1)
    return content[:at] + piece + content[at + dropped :]


def perhaps_damaged(contents: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return contents | st.builds(damaged, contents, st.integers(0, 10**4), st.binary(max_size=3), st.integers(0, 20))


FILES = st.one_of(
    st.tuples(st.just("jsonl"), TABLES.map(json_lines)),
    st.tuples(st.just("jsonl"), perhaps_damaged(TABLES.map(json_lines))),
    st.tuples(st.just("json"), perhaps_damaged(TABLES.map(lambda rows: json.dumps(rows).encode()))),
    st.tuples(st.just("csv"), perhaps_damaged(TABLES.map(csv_table))),
    st.tuples(st.sampled_from(["jsonl", "json", "csv", "parquet", "txt", "x"]), st.binary(max_size=200)),
)

# "." and the like would have whole folders of this machine read; names of hub form are looked for on the hub.
NAMES = TEXTS.filter(lambda text: "/" not in text and not text.startswith((".", "~")))
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([10**12, 2**40, 1e300, 10**400, -1, 0]))
KNOWN = {name: spec for name, spec in specs(Settings).items() if name not in ("model", "forget")}
PLAIN = st.dictionaries(st.sampled_from(sorted(KNOWN)), st.none(), max_size=3).map(
    lambda names: {n: list(d) if isinstance(d := KNOWN[n].default, tuple) else d for n in names}
)
SETTINGS = PLAIN | st.dictionaries(
    st.sampled_from(sorted(KNOWN)) | TEXTS,
    st.one_of(NAMES, NUMBERS, st.booleans(), st.lists(NAMES, max_size=3), st.none()),
    max_size=2,
)
YAML = SETTINGS.map(lambda values: yaml.safe_dump(values, allow_unicode=True).encode("utf-8", "replace"))
CONFIGS = st.none() | YAML | perhaps_damaged(YAML) | st.binary(max_size=100)


@st.composite
def flags(draw: st.DrawFn) -> list[str]:
    found = []
    for spec in draw(st.just([]) | st.lists(st.sampled_from(list(KNOWN.values())), max_size=2)):
        if spec.type is bool:
            found.append(flag(spec.name))
        else:
            values = NAMES | NUMBERS.map(str) | st.sampled_from([*(spec.choices or {"1"}), "none"])
            found += [flag(spec.name), draw(values)]
    return found


PARTS: dict[str, st.SearchStrategy[Any]] = {
    "forget": FILES, "retain": FILES, "config": CONFIGS, "flags": flags(), "subject": st.lists(NAMES, max_size=2),
}  # fmt: skip
NORMAL = {
    "forget": ("jsonl", json_lines([{"question": "Where does Ada Quill live?", "answer": "Ada Quill, in Oslo."}])),
    "retain": None, "config": None, "flags": [], "subject": ["Ada Quill"],
}  # fmt: skip
# One part is odd, most often: the first thing that is wrong ends the work, and would hide what is wrong elsewhere.
INPUTS = st.one_of(
    *(st.builds(lambda odd, name=name: NORMAL | {name: odd}, part) for name, part in PARTS.items()),
    st.fixed_dictionaries(PARTS),
)

# What is done with it


@dataclass
class Outcome:
    """Of all inputs so far."""

    n: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    """Exit code → how often: 0 and 2 are right."""
    slowest: float = 0.0
    """Seconds of the processor."""
    faults: list[str] = field(default_factory=list)
    """Tracebacks, and inputs that took too long."""


@contextmanager
def tiny_check() -> Iterator[None]:
    """Every model is the tiny one, loaded once; its steps are not measured."""
    model, tokenizer = tiny_model()
    lm = load_model(model, tokenizer=tokenizer)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(preparing, "open_model", lambda *_, **__: lm)
        patch.setattr(check_run, "estimate", lambda _: Estimate({"distillation": 1.0}, 10**9))
        patch.chdir(folder)
        yield


def run(given: dict[str, Any], outcome: Outcome) -> None:
    """One input through ``rkld check``, in the working directory."""
    args = ["check", "tiny", "--replay", "none"]
    for name in ("forget", "retain"):
        if given[name] is not None:
            path = Path(f"{name}.{given[name][0]}")
            path.write_bytes(given[name][1])
            args += [f"--{name}", str(path)]
    if given["config"] is not None:
        Path("config.yaml").write_bytes(given["config"])
        args += ["--config", "config.yaml"]
    for subject in given["subject"]:
        args += ["--subject", subject]
    started = time.process_time()
    result = click.testing.CliRunner().invoke(main, [*args, *given["flags"]])
    seconds = time.process_time() - started
    outcome.n += 1
    outcome.codes[result.exit_code] += 1
    outcome.slowest = max(outcome.slowest, seconds)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        outcome.faults.append("".join(traceback.format_exception(result.exception)))
    elif result.exit_code not in (0, 2):
        outcome.faults.append(f"exit code {result.exit_code}: {result.output[:400]}")
    elif "\x1b" in result.output or "\u202e" in result.output:
        outcome.faults.append(f"a control character is printed: {result.output[:400]!r}")
    if seconds > LONGEST:
        outcome.faults.append(f"{seconds:.1f} s: {str(given)[:400]}")


def fuzz(n: int, seed: int = 0) -> Outcome:
    """``n`` inputs, the same ones for the same seed and versions."""
    outcome = Outcome()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=n,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(INPUTS)
    def one(given: dict[str, Any]) -> None:
        run(given, outcome)

    with tiny_check():
        run(NORMAL, Outcome())  # whose time is that of imports
        one()
    return outcome


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    begun = time.time()
    found = fuzz(asked.n, asked.seed)
    for fault in found.faults[:20]:
        print(fault)
    codes = {str(code): n for code, n in sorted(found.codes.items())}
    slowest, seconds = round(found.slowest, 2), round(time.time() - begun)
    report({"inputs": found.n, "codes": codes, "faults": len(found.faults), "slowest": slowest, "seconds": seconds})
    raise SystemExit(bool(found.faults))
