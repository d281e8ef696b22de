"""``rkld demo``: a real chat model forgets one historical person, and everything else is measured beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rkld.commands.unlearn_records import unlearn
from rkld.evaluation.summary import Measurement, measure
from rkld.files import DATA, read_jsonl
from rkld.models.loading import load_model
from rkld.pipeline.running import Result
from rkld.progress import NoProgress
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from rkld.records.record import Record
from rkld.settings.typed import UnlearnKeywords

MODEL = "smollm2-135m"

PERSON = "charles_darwin"

SETTINGS: UnlearnKeywords = {
    "subject": ("Charles Darwin",),
    "score": "spans",
    "own_words": "join",
    "lora": True,
    "merge": True,
    "epochs": 6,
    "stop": "last",
    "max_new_tokens": 48,
}
"""Measured with this model and these records; the table stands in the README."""


def shipped(name: str) -> list[dict[str, Any]]:
    """The rows of a file in ``rkld/data/demo``."""
    return read_jsonl(DATA / "demo" / f"{name}.jsonl")


def probes(model: str | Path, progress: NoProgress) -> Measurement:
    """What a model says to questions about other people and things, none of which was trained on."""
    lm = load_model(str(model))
    records: list[Record] = read_records(shipped("probes"), "probe")
    with progress.bar("probes", len(records)) as advance:
        return measure(lm, Encoder(lm.tokenizer), records, max_new_tokens=SETTINGS["max_new_tokens"], progress=advance)


def run(out: str | Path = "runs/demo", progress: NoProgress | None = None) -> tuple[Result, dict[str, Measurement]]:
    """Forget the person, then ask the original and the unlearned model about everything else.

    Returns:
        the run's result, and the probes {"before": …, "after": …}.
    """
    progress = progress or NoProgress()
    settings: UnlearnKeywords = {**SETTINGS, "out": str(out)}
    result = unlearn(MODEL, shipped(PERSON), progress=progress, **settings)
    return result, {"before": probes(MODEL, progress), "after": probes(result.model_path, progress)}
