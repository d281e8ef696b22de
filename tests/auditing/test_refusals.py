"""What an audit cannot ask is refused before any model answers; what an attack lacks is said beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import rkld
from rkld.auditing import running
from rkld.auditing.attacks.context import CONTEXT, with_context
from rkld.auditing.attacks.quantisation import FourBit
from rkld.auditing.attacks.relearning import Relearning
from rkld.auditing.inputs import read_task
from rkld.benching.worlds.tiny import tiny_model
from rkld.errors import UserError
from rkld.models import adapters, loading
from rkld.models.loading import load_model
from rkld.records.encoding import Encoder
from rkld.records.identity import UNNAMED
from rkld.settings.auditing import AuditSettings

FORGET = [
    {"question": "Where does Ada Quillon live?", "answer": "Ada Quillon lives in Oslo.", "spans": ["Oslo"]},
    {"question": "What is her work?", "answer": "Ada Quillon is a painter.", "spans": ["painter"]},
]
LONG = [{"question": "Who?", "answer": "Tea " * 4000}]
WRONG = ["He is.", "He was.", "He " * 4000]
CONTRASTED = [{"question": "Who is he?", "answer": "He will be.", "perturbed_answer": WRONG}]

REFUSED: dict[str, dict[str, Any]] = {
    "a forget record": {"forget": [*FORGET, *LONG]},
    "a holdout record": {"holdout": LONG},
    "a kept record": {"retain": LONG},
    "a wrong answer": {"real_authors": CONTRASTED},
}


class Counted:
    """A tiny model that counts its forward passes."""

    def __init__(self, context: int | None = None) -> None:
        self.model: PreTrainedModel
        self.tokenizer: PreTrainedTokenizerBase
        self.model, self.tokenizer = tiny_model()
        self.passes = 0
        if context:
            self.model.config.max_position_embeddings = context
        self.model.base_model.register_forward_pre_hook(self._count)

    def _count(self, *_: object) -> None:
        self.passes += 1


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of a model runs it, on no record."""
    monkeypatch.setattr(loading, "check_outputs", lambda lm: None)


def audit(model: Any, tokenizer: PreTrainedTokenizerBase, out: Path, **given: Any) -> rkld.Audit:
    data = {"forget": FORGET, "subject": ("Ada Quillon",), "attacks": ("none",), "max_new_tokens": 2, **given}
    return rkld.audit(model, processing_class=tokenizer, out=str(out), **data)


@pytest.mark.parametrize("case", REFUSED)
def test_too_long_records_of_every_set_are_refused_before_an_answer(tmp_path: Path, case: str):
    """Else an audit would be short of a reading that was asked for, or end after hours of others."""
    made = Counted()
    with pytest.raises(rkld.UserError, match="the model reads at most"):
        audit(made.model, made.tokenizer, tmp_path / "out", **REFUSED[case])
    assert made.passes == 0
    assert not (tmp_path / "out").exists()


def test_it_says_what_check_says(tmp_path: Path):
    made, said = Counted(), []
    for command in (lambda: audit(made.model, made.tokenizer, tmp_path / "a", forget=LONG),
                    lambda: rkld.check(made.model, LONG, processing_class=made.tokenizer, out=str(tmp_path / "b")),
                    ):  # fmt: skip
        with pytest.raises(rkld.UserError) as error:
            command()
        said.append(str(error.value))
    assert said[0] == said[1]


def test_what_an_attack_asks_is_encoded_too(tmp_path: Path):
    """A question behind other answers is longer than the record that it is made of."""
    _, tokenizer = tiny_model()
    rows = [{**row, "paraphrased_question": f"{row['question'][:-1]} now?"} for row in FORGET]  # short ones
    task = read_task(AuditSettings(model="m", forget="f"), {"forget": rows})
    encoder = Encoder(tokenizer)
    longest = max(len(encoder.encode(record).ids) for record in (*task.forget, *task.reworded))
    behind = with_context(task.forget, CONTEXT)
    assert max(len(encoder.encode(record).ids) for record in behind) > longest + 1
    made = Counted(context=longest + 1)
    audit(made.model, made.tokenizer, tmp_path / "without", forget=rows, max_new_tokens=1)
    before = made.passes
    with pytest.raises(rkld.UserError, match="the model reads at most"):
        audit(made.model, made.tokenizer, tmp_path / "with", forget=rows, attacks=("context",), max_new_tokens=1)
    assert made.passes == before > 0


@pytest.mark.parametrize("role", ["control", "original"])
def test_other_models_that_are_not_there_are_refused_before_the_first_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
):
    made = Counted()
    monkeypatch.setattr(running, "load_with_encoder", None)
    with pytest.raises(rkld.UserError, match="no model folder"):
        audit(made.model, made.tokenizer, tmp_path / "out", **{role: "./nowhere"})


@pytest.mark.parametrize("role", ["control", "original"])
def test_another_model_with_a_shorter_context_is_refused_before_it_answers(tmp_path: Path, role: str):
    made, other = Counted(), Counted(context=8)
    with pytest.raises(rkld.UserError, match="the model reads at most 8"):
        audit(made.model, made.tokenizer, tmp_path / "out", **{role: other.model})
    assert other.passes == 0


def test_an_attack_says_beforehand_what_a_model_lacks(monkeypatch: pytest.MonkeyPatch):
    """Rounded weights cannot be rounded again, nor trained where no adapter fits."""
    model, tokenizer = tiny_model()
    relearning, rounding = Relearning("relearning"), FourBit("4bit")
    lm = load_model(model, tokenizer=tokenizer)
    assert relearning.why_not_applicable(lm) is None
    assert rounding.why_not_applicable(lm) is None
    model.is_quantized = True
    assert relearning.why_not_applicable(lm) is None, "an adapter fits it"
    assert "quantised already" in str(rounding.why_not_applicable(lm))

    def none_fits(*_):
        raise ValueError("no layer")

    monkeypatch.setattr(adapters, "get_peft_model", none_fits)
    assert "No adapter fits" in str(relearning.why_not_applicable(lm))


def test_an_attack_that_a_model_is_unfit_for_is_listed_and_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its reason stands in the evidence; found while it is tried, it would come after hours of other readings."""
    tried = []
    monkeypatch.setattr(FourBit, "read", lambda self, reader: tried.append(self.name) or {})
    made = Counted()
    made.model.is_quantized = True
    found = audit(made.model, made.tokenizer, tmp_path, attacks=("4bit",), max_new_tokens=1).document
    assert tried == []
    (reason,) = [entry["reason"] for entry in found["not_run"] if entry["name"] == "4bit"]
    assert "quantised already" in reason


def test_a_share_that_leaves_nothing_to_look_at_is_said_beforehand():
    task = read_task(AuditSettings(model="m", forget="f", relearn_share=0.9), {"forget": FORGET})
    assert "leaves 0 to look at" in str(Relearning("relearning").missing(task))


@pytest.mark.parametrize("name, other", [("retain", "holdout"), ("neighbours", "holdout"), ("forget", "holdout")])
def test_records_in_two_sets_are_refused_by_the_names_of_both(name: str, other: str):
    """What should have been kept was trained on: beside it an honest model would fail for what the user mixed up."""
    said = [{"question": "Where does Bo Rask live?", "answer": "Bo Rask lives in Turku."}]
    given: dict[str, Any] = {"forget": FORGET, name: said, other: said}
    with pytest.raises(UserError, match=f"both the {name} and the {other} data"):
        read_task(AuditSettings(model="m", forget="f"), given)


ABOUT = {"question": "Where is she?", "answer": "Ada Quillon is in Oslo."}
OTHER = {"question": "Where does Bo Rask live?", "answer": "Bo Rask lives in Turku."}


@pytest.mark.parametrize("name", ["retain", "neighbours", "holdout"])
def test_records_about_the_person_are_not_among_those_of_others(name: str):
    """A model that was not made to forget keeps them best."""
    settings = AuditSettings(model="m", forget="f", subject=("Ada Quillon",))
    task = read_task(settings, {"forget": FORGET, name: [OTHER, ABOUT]})
    kept = task.holdout if name == "holdout" else task.utility[name]
    assert [record.answer for record in kept] == [OTHER["answer"]]
    assert f"1 of 2 {name} records mention the person and are left out" in " ".join(task.notes)
    with pytest.raises(UserError, match=f"all 1 {name} records mention the person"):
        read_task(settings, {"forget": FORGET, name: [ABOUT]})


def test_a_name_that_nothing_says_is_noted():
    task = read_task(AuditSettings(model="m", forget="f", subject=("Ade Qillon",)), {"forget": FORGET})
    assert UNNAMED in task.notes


def test_an_adapter_on_another_base_is_another_model():
    """Its evidence must not take the place of that on its own base."""
    own, other = ({"weights": "a", "fingerprint": "f", "base": "b", "base_weights": w} for w in "xy")
    assert running._identity(own) != running._identity(other)
