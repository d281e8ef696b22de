"""``rkld demo``: a real chat model forgets one historical person, and everything else is measured beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rkld.commands.unlearn_records import unlearn
from rkld.evaluation.summary import Measurement, measure
from rkld.files import DATA, read_jsonl
from rkld.models.loading import load_model
from rkld.pipeline.plan import roughly
from rkld.pipeline.running import Result
from rkld.progress import Advance, NoProgress
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


@dataclass(frozen=True)
class Part:
    """A part of the demo.

    Attributes:
        bar: how the title of its first bar begins; what: is said before it, what happens and why.
        timed: parts of the estimate that it is made of.
    """

    bar: str
    what: str
    timed: tuple[str, ...] = ()


BEGINNING = (
    "SmolLM2-135M-Instruct, a small chat model, knows who Charles Darwin was. It will forget him, and is "
    "asked before and after, about him and about everything else. Two CPU cores took 8 minutes for all of it; "
    "what this machine will take is estimated below. Nothing is sent anywhere. Stop it whenever you like: the "
    "same command goes on from there."
)

PARTS = (
    Part(
        "everyday prompts",
        "Asking before. The model answers everyday questions, and those about Charles Darwin. What it says "
        "now is what the end is compared with.",
        ("before",),
    ),
    Part(
        "replay",
        "Noting what must stay. The model answers general questions, and the questions about Darwin with "
        "other names in them. It will be held to these answers while it forgets.",
        ("replay",),
    ),
    Part(
        "reading original",
        "Making the teacher. The model is trained a little more on Darwin: the words that become more "
        "probable by it are those that carry what is known of him. Then it is put back, and the teacher is "
        "the model with these words lowered.",
        ("cache", "strengthening"),
    ),
    Part(
        "distillation",
        "Forgetting. A small adapter on the model learns to answer about Darwin as the teacher would, and to "
        "give the noted answers as before. At the end it is merged into the model.",
        ("distillation",),
    ),
    Part(
        "after: forget",
        "Asking after. The model that was written is opened anew, as you would open it, and asked the same "
        "questions, and each of those about Darwin in two other wordings, which nothing was trained on.",
        ("after",),
    ),
    Part(
        "probes",
        "Looking for damage. The original and the unlearned model each answer 54 questions about other people "
        "and things. None of them was trained on.",
    ),
)
"""In the order of a run, whose bars tell where it is."""


class Explaining(NoProgress):
    """Shows progress as another does, and says before each part of the demo what happens, why, and for how long."""

    def __init__(self, shown: NoProgress) -> None:
        self.shown, self.left, self.seconds = shown, list(PARTS), dict[str, float]()

    @property
    def said(self) -> frozenset[str]:  # type: ignore[override]  # of the one that shows them
        return self.shown.said

    def say(self, text: str) -> None:
        self.shown.say(text)

    def expect(self, seconds: Mapping[str, float]) -> None:
        self.seconds = dict(seconds)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        part = next((part for part in self.left if title.startswith(part.bar)), None)
        if part is not None:  # those before it were done by a run that was interrupted
            self.left = self.left[self.left.index(part) + 1 :]
            takes = sum(self.seconds.get(name, 0.0) for name in part.timed)
            timed = f" ({roughly(takes)})" if takes >= 1 else ""
            self.say(f"\n{len(PARTS) - len(self.left)} of {len(PARTS)}  {part.what}{timed}")
        with self.shown.bar(title, total) as advance:
            yield advance


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
    progress = Explaining(progress or NoProgress())
    progress.say(BEGINNING)
    settings: UnlearnKeywords = {**SETTINGS, "out": str(out)}
    result = unlearn(MODEL, shipped(PERSON), progress=progress, **settings)
    return result, {"before": probes(MODEL, progress), "after": probes(result.model_path, progress)}
