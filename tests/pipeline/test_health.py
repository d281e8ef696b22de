"""What a run says by itself: of records that were never known, and of the rest where it has suffered."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import rkld
from rkld.models.loading import load_model
from rkld.pipeline.health import (
    KNOWN,
    SUFFERED,
    advantage,
    broken,
    everyday_prompts,
    most_said,
    of_anybody,
    otherwise,
    suffered,
    unknown,
)
from rkld.pipeline.phases import _further as further
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from rkld.records.replay import generic_prompts
from rkld.stopping.evidence import Evidence
from tests.helpers import model
from tests.stopping.person import FORGET, WORLD, knowing_model
from tests.stopping.person import KNOWN as NAMES


def test_everyday_prompts_are_never_trained_on():
    """Would break if what is measured were what the run holds in place."""
    asked = {prompt.question for prompt in everyday_prompts()}
    assert len(asked) == 16 and not asked & {prompt.question for prompt in generic_prompts()}


def test_known_records_are_more_probable_than_those_of_invented_people(tmp_path):
    """And those of somebody the model never met are not: both under one model."""
    lm = load_model(knowing_model(tmp_path))
    encoder = Encoder(lm.tokenizer)
    known = advantage(lm, encoder, FORGET, NAMES, "answer", 0)
    rows = [{k: r[k] for k in ("question", "answer", "subject", "aliases")} for r in WORLD.forget([3])]
    never = read_records(rows, "forget")
    strange = advantage(lm, encoder, never, [never[0].subject], "answer", 0)
    assert strange < KNOWN < known
    nameless = [replace(record, subject=None, aliases=()) for record in FORGET]
    assert advantage(lm, encoder, nameless, (), "answer", 0) is None, "without a name nothing can be swapped"


@pytest.mark.parametrize(("found", "likely", "said", "warned"), [
    (0.1, 0.2, 0.0, True), (0.1, 0.2, None, True), (0.1, 0.2, 0.5, False), (KNOWN, 0.2, 0.0, False),
    (None, 0.2, 0.0, False), (0.1, 0.9, None, False),
    (0.62, 0.001, 0.0, True), (0.62, 0.001, None, True), (0.62, 0.001, 0.5, False), (0.62, 0.06, 0.0, False),
])  # fmt: skip
def test_who_says_facts_or_prefers_the_records_knows_them(found, likely, said, warned):
    told = unknown(found, likely, said)
    assert (told is not None) == warned
    if told:
        assert ("somebody else" in told) == (found >= KNOWN), "a name that it never met, and facts that it has"


@pytest.mark.parametrize(("found", "likely", "warned"), [
    (0.18, 0.97, True), (0.18, 0.3, False), (KNOWN, 0.97, False), (None, 0.97, False),
])  # fmt: skip
def test_a_model_that_says_the_facts_of_anybody_is_told_so(found, likely, warned):
    """A company's model said an employee's facts of whoever it was asked about, and was said not to know them."""
    said = of_anybody(found, likely)
    assert (said is not None) == warned
    assert not warned or "probable (0.97)" in said


@pytest.mark.parametrize(("figures", "most"), [
    ({"facts_said": 0.2, "worst_kind_facts_said": 0.7}, 0.7), ({"facts_said": None, "worst_kind_facts_said": 0.7}, 0.7),
    ({"facts_said": 0.2}, 0.2), ({"facts_said": None}, None),
])  # fmt: skip
def test_facts_count_in_whatever_kind_of_wording_they_are_said(figures, most):
    """A model that said .71 of them to other questions was told that it does not seem to know them."""
    assert most_said(figures) == most


GENTLER = ["--alpha", "--lr", "--epochs"]
"""What RKLD reads."""


def test_what_fell_far_has_suffered():
    before = {"forget": 0.9, "retain": 0.976, "everyday": 0.6}
    (warning,) = suffered(before, {"forget": 0.1, "retain": 0.498, "everyday": SUFFERED * 0.6 + 0.01}, ["--lr"])
    assert "the retain records 0.976 before, 0.498 after" in warning
    (warning,) = suffered(before, {"forget": 0.1, "everyday": float("nan")}, ["--lr"])
    assert "everyday" in warning
    (warning,) = suffered(before, {"everyday": 0.1}, ["--alpha", "--lr", "--epochs"])
    assert "Lower --alpha, --lr or --epochs, or give more" in warning
    assert not suffered(before, {"forget": 0.0, "retain": 0.9}, ["--lr"])


def test_answers_that_became_gibberish_are_said():
    """As after --lr 1: no figure of the records tells it from a model that forgot."""
    answered = [prompt.with_answer("That is a good question about the world.") for prompt in everyday_prompts()]
    assert "broken: 16 more of its 16" in broken(answered, ["isis" * 20] * 16)
    assert broken(answered, ["I do not know what to say about that."] * 16) is None
    assert "its own say 0.430" in otherwise(0.43, GENTLER)
    assert otherwise(0.71, GENTLER) is None and otherwise(None, GENTLER) is None
    assert broken(answered, ["isis" * 20] * 4 + ["It is a fine day for it."] * 12) is None
    assert broken([prompt.with_answer("isis" * 20) for prompt in everyday_prompts()], ["isis" * 20] * 16) is None


def test_a_stop_that_was_missed_says_whether_more_steps_would_help():
    """It said to raise --epochs where every later check was further away."""
    checks = [Evidence(step, (1.0,)) for step in (2, 4, 6)]
    assert further(6, checks, reads_alpha=True) == "Raise --epochs or --lr."
    told = further(2, checks, reads_alpha=True)
    assert "2 later checks were further from it" in told and "--alpha" in told
    assert "--alpha" not in further(2, checks, reads_alpha=False), "npo has none"


def test_a_run_says_how_much_of_its_everyday_answers_is_left(tmp_path, monkeypatch):
    """Would break if the figure never came to the warning: here any figure is one too low."""
    monkeypatch.setattr("rkld.pipeline.health.REPEATED", 1.1)
    lm, tiny = model(dtype=torch.float32), tmp_path / "tiny"
    lm.model.save_pretrained(tiny)
    lm.tokenizer.save_pretrained(tiny)
    rows = [{"question": "Where does Ada live?", "answer": "Ada lives in Oslo.", "subject": "Ada"}]
    quick = {"epochs": 1, "strengthen_epochs": 1, "replay": "none", "reword": 0, "max_new_tokens": 4, "stop": "last"}
    result = rkld.unlearn(tiny, rows, out=str(tmp_path / "run"), **quick)
    left = result.metrics["after"]["everyday"]["rouge_l"]
    expected = otherwise(left, GENTLER)
    assert [w for w in result.warnings if w == expected] and f"{left:.3f}" in expected
