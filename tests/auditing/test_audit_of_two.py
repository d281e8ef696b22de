"""A whole audit on two processes (torchrun, gloo), by its command, against the same on one."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

from rkld.benching.worlds.people import people
from rkld.files import write_jsonl
from rkld.models.saving import save_model
from rkld.runfolder.checksums import unsealed
from tests.helpers import in_processes, model

pytestmark = pytest.mark.slow

WORLD = people(n=4, seed=0)
OPTIONS = [
    *("--attacks", "standard,relearning,8bit,logit_lens", "--samples", "3", "--k", "2", "--top", "2"),
    *("--max-new-tokens", "8", "--relearn-epochs", "2"),
]
APART = ("seconds", "hash", "salt", "file", "checksum", "records_hash", "out")
"""What differs between two audits of the same: clocks, hashes under a salt of each one's own, and the folder."""


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Two tiny models with random weights, and what to say to have one audited beside the other."""
    folder = tmp_path_factory.mktemp("audit")
    for seed in (0, 1):
        save_model(model(dtype=torch.float32, seed=seed), folder / f"model{seed}")
    write_jsonl(folder / "forget.jsonl", WORLD.forget([0])[:5])
    write_jsonl(folder / "retain.jsonl", WORLD.forget([1])[:3])
    data = ["--forget", str(folder / "forget.jsonl"), "--retain", str(folder / "retain.jsonl")]
    beside = ["--original", str(folder / "model1")]
    return ["-m", "rkld", "audit", str(folder / "model0"), *data, *beside, *OPTIONS]


def without(found: Any, names: tuple[str, ...] = APART) -> Any:
    if isinstance(found, dict):
        return {name: without(value) for name, value in found.items() if name not in names}
    return [without(value) for value in found] if isinstance(found, list) else found


def alike(one: Any, two: Any, where: str = "") -> None:
    """The same, numbers up to rounding."""
    assert type(one) is type(two), where
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for name, value in one.items():
            alike(value, two[name], f"{where}/{name}")
    elif isinstance(one, list):
        assert len(one) == len(two), where
        for number, pair in enumerate(zip(one, two, strict=True)):
            alike(*pair, f"{where}/{number}")
    elif isinstance(one, float):
        assert two == pytest.approx(one, abs=1e-4), where
    elif isinstance(one, str):  # sentences quote figures, to so many digits
        assert re.sub(r"\d", "0", two) == re.sub(r"\d", "0", one), where
    else:
        assert two == one, where


def test_two_processes_write_the_evidence_that_one_writes(command, tmp_path):
    """Every question is asked once, by one of them; the first alone judges, writes and prints."""
    done = [in_processes(n, [*command, "--out", str(tmp_path / str(n))], seconds=600) for n in (1, 2)]
    assert {d.returncode for d in done} == {1}, done[1].stderr[-3000:]  # random weights do not pass
    assert done[1].stdout.count("audit.json") == done[0].stdout.count("audit.json") > 0, "each process prints"
    one, two = (unsealed(json.loads((tmp_path / n / "audit.json").read_text())) for n in ("1", "2"))
    assert one is not None and two is not None
    assert {"sampling", "relearning", "8bit"} <= one["readings"]["audited"].keys(), one["not_run"]
    alike(without(one), without(two))
    names = [sorted(path.name.split(".")[0] for path in (tmp_path / n / "readings").iterdir()) for n in ("1", "2")]
    assert names[0] == names[1]
    for path in (tmp_path / "1" / "readings").iterdir():
        (other,) = (p for p in (tmp_path / "2" / "readings").iterdir() if same_reading(p, path, one, two))
        alike(without(json.loads(path.read_text())), without(json.loads(other.read_text())))


def same_reading(theirs, mine, one, two) -> bool:
    """Whether two files hold the same reading of the same model."""
    of = [
        {(role, name) for role, files in document["readings"].items() for name, f in files.items() if f["file"] == p}
        for document, p in ((one, mine.name), (two, theirs.name))
    ]
    return bool(of[0]) and of[0] == of[1]


def test_an_audit_of_two_is_gone_on_with_by_one(command, tmp_path):
    """What two have read is read again by none."""
    out = tmp_path / "out"
    done = in_processes(2, [*command, "--out", str(out)], seconds=600)
    assert (out / "audit.json").exists(), done.stderr[-3000:]
    (out / "audit.json").unlink()
    stamps = {path: path.stat().st_mtime_ns for path in (out / "readings").iterdir()}
    again = in_processes(1, [*command, "--out", str(out)], seconds=300)
    assert again.returncode == 1 and (out / "audit.json").exists(), again.stderr[-3000:]
    assert {path: path.stat().st_mtime_ns for path in (out / "readings").iterdir()} == stamps
