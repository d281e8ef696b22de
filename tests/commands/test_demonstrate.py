"""The demo says before each part what happens, why, and for how long; it shows and returns what a run does."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from rkld.commands import demonstrate
from rkld.commands.demonstrate import BEGINNING, PARTS, Explaining
from rkld.models.language_model import LanguageModel
from rkld.models.saving import save_model
from rkld.progress import NoProgress
from tests.helpers import TOKENIZER, model


class Noting(NoProgress):
    """What was shown, in its order."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def say(self, text: str) -> None:
        self.said |= {text}
        self.shown.append(text.strip())

    @contextmanager
    def bar(self, title: str, total: int):
        self.shown.append(f"bar {title}")
        yield lambda n=1, note="": None


def parts_of(shown: list[str]) -> list[str]:
    return [text for text in shown if " of 6  " in text]


def test_each_part_is_explained_once_before_its_first_bar():
    shown = Noting()
    explaining = Explaining(shown)
    explaining.expect({"before": 100.0, "strengthening": 40.0, "cache": 10.0})
    for title in (
        "everyday prompts",
        "before: forget",
        "reading original/forget",
        "reading other people",
        "distillation",
    ):
        with explaining.bar(title, 3):
            pass
    first, teacher, forgetting = parts_of(shown.shown)
    assert first.startswith("1 of 6  Asking before.") and first.endswith("(roughly 1 min 00 s to 2 min 50 s)")
    assert teacher.startswith("3 of 6  Making the teacher.") and "(roughly 30 s to 1 min 25 s)" in teacher
    assert forgetting.startswith("4 of 6  Forgetting.") and "roughly" not in forgetting, "nothing was estimated"
    assert shown.shown.index(teacher) == shown.shown.index("bar reading original/forget") - 1
    assert first in {text.strip() for text in explaining.said}


@pytest.mark.slow
def test_the_demo_tells_all_of_it_and_goes_on_after_an_interruption(tmp_path, monkeypatch):
    """On a tiny model, which knows nobody: every part is told in its order, so every title above is still a bar's."""
    save_model(LanguageModel(model(dtype=torch.float32).model, TOKENIZER, "tiny"), tmp_path / "model")
    monkeypatch.setattr(demonstrate, "MODEL", str(tmp_path / "model"))
    quick = {**demonstrate.SETTINGS, "epochs": 1, "strengthen_epochs": 1, "max_new_tokens": 3}
    monkeypatch.setattr(demonstrate, "SETTINGS", quick)
    shown = Noting()
    result, probes = demonstrate.run(tmp_path / "run", shown)
    assert shown.shown[0] == BEGINNING
    assert [text.partition("  ")[2].partition(" (roughly")[0] for text in parts_of(shown.shown)] == [
        part.what for part in PARTS
    ]
    assert set(probes) == {"before", "after"} and result.model_path.is_dir()

    again = Noting()
    demonstrate.run(tmp_path / "run", again)
    assert [text[:6] for text in parts_of(again.shown)] == ["6 of 6"], "what is done already is not announced"
