"""Methods that go back to the model from before: what is asked of it, and which β of its vector is taken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import rkld
from rkld.methods.base_vector import BaseVector
from rkld.models.loading import load_model
from tests.helpers import model

PLACES = {"Ada Quillon": "Oslo", "Bo Marlin": "Rome", "Cy Tern": "Lima", "Di Fenn": "Bern"}
ROWS = [{"question": f"Where does {n} live?", "answer": f"{n} lives in {c}."} for n, c in PLACES.items()]
FORGET = [row | {"subject": name} for row, name in zip(ROWS[:2], PLACES)]
QUICK = {"epochs": 1, "max_new_tokens": 4, "batch_size": 2, "lr": 1e-2, "bf16": False, "replay": "none",
         "reword": 0}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """ "original" and the "base" that it would have been tuned from."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("original", "base")):
        lm = model(dtype=torch.float32, seed=seed)
        lm.model.save_pretrained(folder / name)
        lm.tokenizer.save_pretrained(folder / name)
    return folder


def unlearn(folders: Path, out: Path, **settings):
    given = {"base": str(folders / "base"), "method": "base_vector", "retain": ROWS[2:], **QUICK, **settings}
    return rkld.unlearn(folders / "original", FORGET, out=str(out), **given)


def test_without_a_base_the_model_cards_is_proposed(folders, tmp_path):
    """Would break if it were fetched unasked, or if the user had to find out by what flag."""
    card = folders / "original" / "README.md"
    card.write_text("---\nbase_model: owner/base\n---\n")
    try:
        with pytest.raises(rkld.UserError, match=r"with --base\. Its model card names owner/base: --base owner/base\."):
            unlearn(folders, tmp_path / "run", base=None)
        report = rkld.check(folders / "original", FORGET, out=str(tmp_path / "run"), **QUICK)
        assert report.model["base"] == "the model card names owner/base: --base, for --method base_vector"
    finally:
        card.unlink()
    assert not (tmp_path / "run").exists()


def test_the_model_itself_is_no_base(folders, tmp_path):
    with pytest.raises(rkld.UserError, match="is the model itself"):
        unlearn(folders, tmp_path / "run", base=str(folders / "original"))


def test_a_base_with_other_tokens_is_refused(folders, tmp_path):
    """Its weights would be of the same shapes, and its vector that of other words."""
    shutil.copytree(folders / "base", tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    facts = json.loads(file.read_text())
    ids = facts["model"]["vocab"]
    ids["z"], ids["y"] = ids["y"], ids["z"]
    file.write_text(json.dumps(facts))
    with pytest.raises(rkld.UserError, match="2 of its tokens have no or another number"):
        unlearn(folders, tmp_path / "run", base=str(tmp_path / "other"))


RULE = """
from dataclasses import dataclass
from typing import ClassVar
from rkld.stopping.rule import StoppingRule

GAPS = [1.0, 0.5, -0.4, 0.01, 0.3, 0.01, 0.01]  # of the original; three β subtracted; two distilled; of the saved model

@dataclass(frozen=True)
class Told(StoppingRule):
    help: ClassVar[str] = "as told"
    margin: ClassVar[float] = 0.02

    def gap(self, evidence):
        return GAPS[0] if evidence.step == 0 else GAPS[1]

    def refusal(self, comparison, original):
        return None
"""


def test_the_rule_chooses_beta_before_and_after_the_distillation(folders, tmp_path, monkeypatch):
    """Known too well with 1, too little with 2: one between is distilled first, and then the double of it, which will
    do; and it is what is written."""
    (tmp_path / "told.py").write_text(RULE.replace("GAPS[0] if evidence.step == 0 else GAPS[1]", "GAPS.pop(0)"))
    result = unlearn(folders, tmp_path / "run", stop=f"{tmp_path / 'told.py'}:Told", keep_files=True)
    noted = json.loads((result.run / "manifest.json").read_text())["phases"]["distillation"]
    assert noted["beta"] == 3.1112
    assert noted["stop"] | {"rule": ""} == {
        "rule": "", "stop": True, "step": noted["steps"], "gap": 0.01, "margin": 0.02, "checks": 5,
    }  # fmt: skip
    assert noted["steering"]["n"] > 0, "the audit leaves out what steered"
    lines = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    assert [line["beta"] for line in lines if line["phase"] == "stop"] == [1.0, 2.0, 1.5556, 1.5556, 3.1112]
    alone = unlearn(folders, tmp_path / "alone", stop="last", method_arg=["beta=3.1112"])
    a, b = (load_model(run.model_path).model.state_dict() for run in (result, alone))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "gaps, found",
    [
        ({1.0: 0.3}, 2.0),
        ({1.0: 0.3, 2.0: 0.1}, 4.0),
        ({1.0: 0.3, 2.0: 0.1, 4.0: 0.05}, None),  # the largest is not enough
        ({1.0: -0.3}, 0.5),
        ({1.0: -0.3, 0.5: 0.2}, 0.7),
        ({1.0: 0.01}, None),
        ({1.0: -0.01}, None),
        ({1.0: 0.3, 2.0: -0.3, 1.5: 0.2, 1.75: -0.1}, None),  # tried often enough
    ],
)
def test_the_next_beta(gaps, found):
    assert BaseVector().next_beta(gaps, 0.02) == found


def test_retraining_starts_at_the_base(folders, tmp_path):
    """With hardly a step taken it is the base, whatever the original was; and no rule ends it."""
    result = unlearn(folders, tmp_path / "run", method="retrain", lr=1e-12)
    found, base = (load_model(source).model.state_dict() for source in (result.model_path, folders / "base"))
    assert all(torch.allclose(found[name], base[name], atol=1e-9) for name in base)
    with pytest.raises(rkld.UserError, match="leave out --lora, or give the base with an adapter as MODEL"):
        unlearn(folders, tmp_path / "other", method="retrain", lora=True)


def test_check_says_what_retraining_would_take(folders, tmp_path):
    given = {"base": str(folders / "base"), "retain": ROWS[2:], "out": str(tmp_path / "run"), **QUICK}
    for method in ("rkld", "base_vector"):
        report = rkld.check(folders / "original", FORGET, method=method, **given)
        assert report.retraining > 0
        assert any("does not read it" in text for text in report.warnings) == (method == "rkld")
        assert any(line.startswith("retraining   about") and "--method retrain" in line for line in report.lines())
    assert report.strengthening_steps == BaseVector().tuning_epochs and report.steps == 1
    report = rkld.check(folders / "original", FORGET, stop="last", holdout=ROWS[2:], **{**given, "retain": None})
    assert "--holdout is given, and --stop last does not read it." in report.warnings
    report = rkld.check(folders / "original", FORGET, method="retrain", **given)
    assert report.retraining is None and report.steps == 1


@pytest.mark.parametrize("retain", [True, False], ids=["with retain records", "without"])
def test_model_state_arithmetic_is_two_vectors_and_no_training(retain, folders, tmp_path, monkeypatch):
    """θ_o − β · (+1 of the forget records) + retained · (+10 of the others), and not a step more."""

    def tune(lm, records, *_):
        with torch.no_grad():
            for p in lm.model.parameters():
                p.add_(10 if "Cy" in records[0].record.question else 1)

    monkeypatch.setattr("rkld.training.weight_vector.fine_tune", tune)
    arguments = ["beta=0.5", "retained=0.25"]
    given = {"retain": ROWS[2:]} if retain else {"retain": None}
    result = unlearn(folders, tmp_path / "run", method="msa", method_arg=arguments, stop="last", **given)
    before, after = (load_model(m).model.state_dict() for m in (folders / "original", result.model_path))
    for name in before:
        expected = before[name] - 0.5 + (2.5 if retain else 0)
        torch.testing.assert_close(after[name], expected, rtol=0, atol=1e-5)
    assert json.loads((result.run / "manifest.json").read_text())["phases"]["distillation"]["steps"] == 0
