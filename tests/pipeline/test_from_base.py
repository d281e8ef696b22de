"""Methods that go back to the model from before: what is asked of it, and which β of its vector is taken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

import rkld
from rkld.methods.base_vector import BaseVector, slope
from rkld.methods.registry import get_method
from rkld.models.loading import load_model
from rkld.pipeline import phases
from rkld.pipeline.estimating import _Rough
from rkld.pipeline.plan import steps_of
from rkld.pipeline.preparing import check_trainable, prepare, read_inputs
from rkld.pipeline.subtracting import SUBTRACTED, read_subtracted
from rkld.progress import NoProgress
from rkld.settings.unlearning import Settings
from rkld.training.config import RKLDConfig
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
        assert report.model["base"] == "the model card names owner/base: --base goes back to it"
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
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from rkld.stopping.rule import StoppingRule

GAPS = Path(__file__).with_name("gaps.json")

@dataclass(frozen=True)
class Told(StoppingRule):
    help: ClassVar[str] = "as told"
    margin: ClassVar[float] = 0.02

    def gap(self, evidence):
        first, *others = json.loads(GAPS.read_text())
        GAPS.write_text(json.dumps(others))
        return first

    def refusal(self, comparison, original):
        return None
"""


def told(folder: Path, *gaps: float) -> dict[str, object]:
    """Settings of a run whose rule says these gaps, of the original first, and then .01."""
    (folder / "told.py").write_text(RULE)
    (folder / "gaps.json").write_text(json.dumps([*gaps, *[0.01] * 20]))
    return {"stop": f"{folder / 'told.py'}:Told", "check_every": 1, "epochs": 5, "method_arg": ["most=4"]}


def stop_lines(run: Path) -> list[tuple[int, float, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["beta"], line["gap"]) for line in lines if line["phase"] == "stop"]


def test_the_rule_chooses_beta_before_the_distillation_and_more_of_it_while_that_goes_on(folders, tmp_path):
    """Known too well with 1, too little with 2: one between is distilled. What that brings back is subtracted in the
    first four of five steps, and at the last where it is not the aim."""
    before, during = [1.0, 0.5, -0.4, 0.01], [0.1, 0.2, -0.1, -0.05, 0.3, 0.015]
    result = unlearn(folders, tmp_path / "run", keep_files=True, **told(tmp_path, *before, *during))
    noted = json.loads((result.run / "manifest.json").read_text())["phases"]["distillation"]
    method, betas, expected, fall = BaseVector(most=4), [1.5556], before[-1], (0.5 - 0.01) / (1.5556 - 1.0)
    for gap, share in zip(during[:4], (1.0, 1.0, 0.5, 0.5)):  # half where it turns, and at the next
        more = method.further(betas[-1], gap, gap - expected, fall) * share
        betas, expected = [*betas, betas[-1] + more], gap - more * fall
    betas.append(betas[-1] + method.further(betas[-1], during[4], 0.0, fall))  # at the last step the aim is not met
    assert betas[1] > betas[0] and betas[3] < betas[2], "what is below the aim gets a part back"
    assert noted["beta"] == pytest.approx(betas[-1])
    assert noted["stop"] | {"rule": ""} == {
        "rule": "", "stop": True, "step": 5, "gap": 0.015, "margin": 0.02, "checks": 9,
    }  # fmt: skip
    assert noted["steering"]["n"] > 0, "the audit leaves out what steered"
    assert stop_lines(result.run) == [
        (0, 1.0, 0.5), (0, 2.0, -0.4), (0, 1.5556, 0.01),
        *((step, pytest.approx(beta), gap) for step, (beta, gap) in zip((1, 2, 3, 4, 5, 5), zip(betas, during))),
    ]  # fmt: skip
    checks = (result.run / "checkpoints" / "subtracted.jsonl").read_text().splitlines()
    assert len(checks) == 6


def test_what_is_subtracted_while_it_is_distilled_goes_from_the_weights(folders, tmp_path):
    """Hardly trained, the student is the original less so much of the vector."""
    result = unlearn(folders, tmp_path / "run", lr=1e-12, strengthen_lr=1e-2, keep_files=True, epochs=5,
                     **{k: v for k, v in told(tmp_path, 1.0, 0.01, 0.1, 0.2).items() if k != "epochs"})  # fmt: skip
    beta = json.loads((result.run / "manifest.json").read_text())["phases"]["distillation"]["beta"]
    assert beta > 1.1
    vector = load_file(result.run / "strengthened" / "vector.safetensors")
    before, after = (load_model(m).model.state_dict() for m in (folders / "original", result.model_path))
    assert max(v.abs().max() for v in vector.values()) > 1e-3
    for name, change in vector.items():
        torch.testing.assert_close(after[name], before[name] - beta * change, rtol=0, atol=1e-5)


class Interrupt(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.max_steps == 5 and state.global_step == 3:  # of the distillation; the base was tuned for longer
            raise KeyboardInterrupt


def test_an_interrupted_distillation_goes_on_with_what_was_subtracted(folders, tmp_path):
    """Would break if β began anew, or if what was subtracted by a step that is done again counted twice."""
    gaps = [1.0, 0.01, 0.1, 0.2, 0.1]
    whole = unlearn(folders, tmp_path / "whole", checkpoint_minutes=0.0, **told(tmp_path, *gaps, 0.05))
    again = told(tmp_path, *gaps, 0.01, 0.1, 0.05)  # β once more, the third step once more
    with pytest.raises(KeyboardInterrupt):
        unlearn(folders, tmp_path / "run", checkpoint_minutes=0.0, callbacks=[Interrupt()], **again)
    result = unlearn(folders, tmp_path / "run", checkpoint_minutes=0.0, **again)
    assert stop_lines(result.run) == stop_lines(whole.run)
    a, b = (load_model(run.model_path).model.state_dict() for run in (result, whole))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-5)


def test_a_distillation_whose_checks_were_deleted_says_how_to_begin_again(folders, tmp_path):
    """Would break if it ended in a traceback, or went on with a β that nobody knows."""
    given = {"checkpoint_minutes": 0.0, **told(tmp_path, 1.0, 0.01, 0.1, 0.2)}
    with pytest.raises(KeyboardInterrupt):
        unlearn(folders, tmp_path / "run", callbacks=[Interrupt()], **given)
    folder = tmp_path / "run" / "checkpoints"
    (folder / SUBTRACTED).unlink()
    with pytest.raises(rkld.UserError, match=r"subtracted\.jsonl is missing.*delete"):
        unlearn(folders, tmp_path / "run", **given)
    shutil.rmtree(folder)
    assert unlearn(folders, tmp_path / "run", **{**given, **told(tmp_path, 1.0, 0.01, 0.1, 0.2)}).model_path.exists()


def test_damaged_checks_are_none(tmp_path):
    """The training begins again then."""
    assert read_subtracted(tmp_path) == []
    (tmp_path / SUBTRACTED).write_text('{"beta": 1.0, "checksum": "0"}\n')
    assert read_subtracted(tmp_path) is None
    (tmp_path / SUBTRACTED).write_text("no JSON\n")
    assert read_subtracted(tmp_path) is None


@pytest.mark.parametrize(
    ("beta", "gap", "rise", "fall", "found"),
    [
        (1.0, 0.1, 0.0, 1.0, 0.1),
        (1.0, 0.1, 0.1, 0.5, 0.3),  # as much as it shows, and half of what came back since
        (1.0, -0.1, 0.0, 1.0, -0.1),
        (1.0, 5.0, 0.0, 1.0, 0.5),  # no more at once
        (0.1, -5.0, 0.0, 1.0, -0.1),  # nothing is added to the original
        (1.9, 0.4, 0.0, 1.0, 0.1),  # the largest
        (2.0, 0.4, 0.0, 1.0, 0.0),
        (1.0, 0.004, 0.0, 1.0, 0.0),  # too little to read the vector for
        (1.0, 0.4, 0.0, 0.0, 0.0),  # a gap that does not fall says nothing
    ],
)
def test_how_much_further(beta, gap, rise, fall, found):
    assert BaseVector().further(beta, gap, rise, fall) == pytest.approx(found)


@pytest.mark.parametrize(
    ("gaps", "beta", "found"),
    [
        ({0.0: 0.8, 1.0: 0.2}, 1.0, 0.6),
        ({0.0: 0.8, 1.0: 0.2, 0.5: 0.3}, 1.0, 0.2),
        ({0.0: 0.8, 1.0: 0.2, 0.5: 0.3, 2.0: 0.19}, 1.0, 0.2),  # what lies beyond may be at its lowest
        ({0.0: 0.8, 1.0: 0.2, 0.9: 0.21}, 1.0, 0.6),  # too near
        ({0.0: 0.8, 1.0: 0.2, 0.5: 0.1}, 1.0, 0.6),  # it rises from there
        ({0.0: 0.8, 0.2: 0.7}, 0.2, 0.5),  # nothing else
        ({0.0: 0.1, 1.0: 0.2}, 1.0, 0.0),
    ],
)
def test_how_fast_the_gap_falls(gaps, beta, found):
    assert slope(gaps, beta) == pytest.approx(found)


def test_the_steps_of_the_tuning_are_those_that_are_taken(folders, tmp_path):
    """Of the rewordings, too, of which check and plan knew nothing."""
    given = {"base": str(folders / "base"), "retain": ROWS[2:], "out": str(tmp_path / "run"), **QUICK, "reword": 3}
    said = rkld.check(folders / "original", FORGET, **given).strengthening_steps
    taken: set[int] = set()

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            taken.add(state.max_steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rkld.training.weight_vector.TrainingBar", lambda _: Count())
        rkld.unlearn(folders / "original", FORGET, **given)
    assert taken == {said} and said > BaseVector().tuning_epochs


def test_a_first_beta_above_the_largest_is_refused():
    with pytest.raises(rkld.UserError, match="beta is 5, above the largest that is tried: most=2"):
        BaseVector(beta=5)


def test_alpha_that_nothing_reads_is_said(folders, tmp_path):
    given = {"base": str(folders / "base"), "retain": ROWS[2:], "out": str(tmp_path / "run"), "alpha": 5.0, **QUICK}
    for method in ("auto", "rkld"):
        report = rkld.check(folders / "original", FORGET, method=method, **given)
        assert any(w.startswith("--alpha is given, and") for w in report.warnings) == (method == "auto")


def test_the_rules_whole_state_steers(folders, tmp_path, monkeypatch):
    """Not its aim alone: a rule may keep more than that."""
    rule = told(tmp_path, 1.0, 0.01)
    aimed = "    @classmethod\n    def aimed(cls, *_):\n        return cls(0.0, 7.0)\n\n"
    more = f"    extra: float = 0.0\n\n{aimed}    def gap("
    source = (tmp_path / "told.py").read_text().replace("    def gap(", more)
    source = source.replace("return first", "return first if self.extra == 7.0 else 1e9")
    (tmp_path / "told.py").write_text(source)
    result = unlearn(folders, tmp_path / "run", **rule)
    assert all(gap < 1e9 for _, _, gap in stop_lines(result.run))


def test_a_base_that_is_given_is_used():
    """Without being asked for, but not for an adapter, nor where nothing is held that would bring the rest back."""
    assert Settings().method == RKLDConfig("out").method == "rkld"
    assert Settings(base="B").method == "base_vector"
    assert Settings(base="B", method="rkld").method == "rkld"
    assert Settings(base="B", replay="none", retain="R").method == "base_vector"
    alone = {"replay": "none", "retain": "R"}
    for others in (
        {"lora": True}, {"gate": "sago"}, {"sam": 0.1}, {"model": "<PeftModelForCausalLM>"}, {"replay": "none"},
        {**alone, "retain_weight": 0.0}, {**alone, "retain_loss": "none"}, {"replay_weight": 0.0},
    ):  # fmt: skip
        assert Settings(base="B", **others).method == "rkld", others


def test_an_adapter_that_names_its_base_is_no_such_case(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert Settings(model=str(tmp_path), base="B").method == "rkld"


def test_deepspeed_is_refused_where_the_vector_follows_a_rule(folders, tmp_path, monkeypatch):
    """Its optimizer keeps weights of its own."""
    monkeypatch.setattr("rkld.processes.uses_deepspeed", lambda: True)
    with pytest.raises(rkld.UserError, match="start it by torchrun, or give --stop last"):
        unlearn(folders, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "gaps, found",
    [
        ({1.0: 0.3}, 2.0),
        ({1.0: 0.3, 2.0: 0.1}, None),  # the largest is not enough
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
    for method in ("rkld", "auto"):
        report = rkld.check(folders / "original", FORGET, method=method, **given)
        assert report.retraining > 0
        assert any("does not read it" in text for text in report.warnings) == (method == "rkld")
        assert any(line.startswith("retraining   about") and "--method retrain" in line for line in report.lines())
    assert report.strengthening_steps == BaseVector().tuning_epochs and report.steps == 1
    steps = next(line for line in report.lines() if line.startswith("steps"))
    assert "8 of tuning the base, 1 of distillation" in steps
    assert report.model["method"].startswith("base_vector: what records change in the base is subtracted")
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


def test_a_base_of_other_shapes_is_refused_and_nobody_told_to_delete_it(folders, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folders / "base", other)
    weights = load_file(other / "model.safetensors")
    config = json.loads((other / "config.json").read_text())
    layers = config["num_hidden_layers"] - 1
    (other / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers, "layer_types": None}))
    save_file({n: w for n, w in weights.items() if f"layers.{layers}." not in n}, other / "model.safetensors")
    with pytest.raises(rkld.UserError, match=r"Give the one that belongs to .*original, or leave it out"):
        unlearn(folders, tmp_path / "run", base=str(other))


@pytest.mark.parametrize("method", ["base_vector", "retrain"])
def test_a_model_that_is_lost_is_made_again(folders, tmp_path, method):
    """What the base left must be made again, too: it went with the run's other files."""
    result = unlearn(folders, tmp_path / "run", method=method)
    whole = load_model(result.model_path).model.state_dict()
    shutil.rmtree(result.model_path)
    again = load_model(unlearn(folders, tmp_path / "run", method=method).model_path).model.state_dict()
    for name, weights in whole.items():
        torch.testing.assert_close(again[name], weights, rtol=0, atol=1e-6)


def test_a_damaged_vector_is_made_again(folders, tmp_path):
    """Would break if another vector than the base's were subtracted without a word."""
    given = {"checkpoint_minutes": 0.0, **told(tmp_path, 1.0, 0.01, 0.1, 0.2)}
    with pytest.raises(KeyboardInterrupt):
        unlearn(folders, tmp_path / "run", callbacks=[Interrupt()], **given)
    vector = tmp_path / "run" / "strengthened" / "vector.safetensors"
    sound = vector.read_bytes()
    vector.write_bytes(sound[:-400] + bytes(400))
    unlearn(folders, tmp_path / "run", keep_files=True, **{**given, **told(tmp_path, 1.0, 0.01, 0.1, 0.2)})
    assert load_file(vector).keys() and vector.read_bytes() != sound[:-400] + bytes(400)


class Hearing(NoProgress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_a_method_that_only_subtracts_is_checked_and_planned(folders, tmp_path):
    """MSA trains on nothing but what its vectors are of: its plan asked for a set of terms, and none is there."""
    given = {"base": str(folders / "base"), "method": "msa", "retain": ROWS[2:], **QUICK}
    report = rkld.check(folders / "original", FORGET, out=str(tmp_path / "run"), **given)
    assert (report.steps, report.strengthening_steps) == (0, 2 * 10), "ten passes over one batch of each of both sets"
    assert report.estimate.seconds["distillation"] == 0 < report.estimate.seconds["strengthening"]
    progress = Hearing()
    rkld.unlearn(folders / "original", FORGET, out=str(tmp_path / "run"), progress=progress, **given)
    assert any("20 steps of tuning the base" in text for text in progress.said)


@pytest.mark.parametrize("off", [{"retain_weight": 0.0}, {"retain_loss": "none"}])
def test_records_to_keep_that_are_switched_off_hold_nothing(folders, tmp_path, off):
    for use in (rkld.check, rkld.unlearn):
        with pytest.raises(rkld.UserError, match="leaves the retain records out"):
            given = {"base": str(folders / "base"), "method": "base_vector", "retain": ROWS[2:], **QUICK, **off}
            use(folders / "original", FORGET, out=str(tmp_path / "run"), **given)
    assert not (tmp_path / "run").exists()


class EndsAtOnce(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = True


@pytest.mark.parametrize("method", ["base_vector", "rkld"])
def test_a_callback_may_end_the_training_before_the_first_check(folders, tmp_path, method):
    given = told(tmp_path, 1.0, 0.01, 0.01) | {"check_every": 4}
    if method == "rkld":
        del given["method_arg"]
    result = unlearn(folders, tmp_path / "run", method=method, callbacks=[EndsAtOnce()], **given)
    noted = json.loads((result.run / "manifest.json").read_text())["phases"]["distillation"]
    assert noted["steps"] == 1 and noted["stop"]["checks"] >= 1


def test_a_run_that_was_killed_after_its_last_check_notes_the_same(folders, tmp_path, monkeypatch):
    """Would break if one step more were taken of a training that had ended, and the log lost those before."""
    (tmp_path / "by_step.py").write_text(RULE.split("GAPS")[0] + BY_STEP)
    given = {**QUICK, "epochs": 6, "method": "graddiff", "base": None, "check_every": 2, "lr": 1e-4,
             "stop": f"{tmp_path / 'by_step.py'}:ByStep"}  # fmt: skip
    whole = unlearn(folders, tmp_path / "whole", **given)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(phases.Distillation, "_stopped", killed)
        unlearn(folders, tmp_path / "run", **given)
    again = unlearn(folders, tmp_path / "run", **given)
    found = [json.loads((one.run / "manifest.json").read_text())["phases"]["distillation"] for one in (whole, again)]
    assert found[0]["steps"] == found[1]["steps"] == 4 and found[0]["stop"] == found[1]["stop"]
    logged = [line for line in map(json.loads, (again.run / "metrics.jsonl").read_text().splitlines())
              if line["phase"] == "distillation"]  # fmt: skip
    assert [line["step"] for line in logged] == [1, 2, 3, 4]


BY_STEP = """
@dataclass(frozen=True)
class ByStep(StoppingRule):
    help: ClassVar[str] = "ends at the fourth step"
    margin: ClassVar[float] = 0.02

    def gap(self, evidence):
        return 1.0 if evidence.step < 4 else 0.0
"""


@pytest.mark.parametrize(
    ("method", "given", "unread"),
    [
        ("task_arithmetic", {"alpha": 5.0, "holdout": ROWS[2:3]}, {"--alpha", "--holdout"}),
        ("whp", {"alpha": 5.0, "holdout": ROWS[2:3]}, {"--holdout"}),
        ("npo", {"alpha": 5.0}, {"--alpha"}),
        ("base_vector", {"sam": 0.1}, {"--sam"}),
        (
            "npo",
            {"strengthen_epochs": 3, "strengthen_lr": 1e-3, "floor": True},
            {"--strengthen-epochs", "--strengthen-lr", "--floor"},
        ),
        ("base_vector", {"strengthen_lr": 1e-3, "strengthen_gain": 0.1}, {"--strengthen-gain"}),
        ("rkld", {"strengthen_epochs": 3, "strengthen_lr": 1e-3, "strengthen_gain": 0.1, "floor": True}, set()),
        ("rkld", {"score": "answer", "floor": True}, {"--floor"}),
        ("whp", {"strengthen_epochs": 3}, set()),
    ],
)
def test_what_a_method_does_not_read_is_said(folders, tmp_path, method, given, unread):
    base = {"base": str(folders / "base")} if method == "base_vector" else {}
    held = ROWS[3:] if "holdout" in given else ROWS[2:]
    report = rkld.check(folders / "original", FORGET, out=str(tmp_path / "run"), method=method, retain=held,
                        **QUICK, **given, **base)  # fmt: skip
    assert {text.split()[0] for text in report.warnings if "reads it" in text or "does not read it" in text} == unread
    if method in ("task_arithmetic", "whp"):
        assert report.kept == 0, "an assistant has no term that holds what is not scored"


@pytest.mark.parametrize("given", [{"sam": 0.1}, {"method": "pmc"}])
def test_what_one_process_alone_can_do_is_refused_before_anything_is_done(folders, monkeypatch, given):
    """Would break if two processes measured, reworded and read a teacher first, and were refused then."""
    settings = Settings(model=str(folders / "original"), **{**QUICK, **given})
    monkeypatch.setattr("rkld.processes.count", lambda: 2)
    with pytest.raises(rkld.UserError, match="train with one"):
        check_trainable(settings, load_model(folders / "original"), get_method(settings.method))


def test_the_card_says_what_the_method_reads_and_what_was_replayed(folders, tmp_path):
    """It is the part that is published: it said "alpha 16" of a method without one."""
    result = unlearn(folders, tmp_path / "run", method="npo", base=None, replay_weight=0.0)
    card = (result.model_path / "README.md").read_text()
    assert "Settings: 1 epochs, a peak learning rate" in card and "self-replay: none" in card and "alpha" not in card


def test_check_stops_at_what_a_run_would_stop_at_in_the_end(folders, tmp_path):
    with pytest.raises(rkld.UserError, match="is no name of a repository"):
        rkld.check(folders / "original", FORGET, out=str(tmp_path / "run"), push_to_hub="bad name!!", **QUICK)


def test_few_records_to_keep_do_not_shorten_the_estimate(folders, tmp_path):
    """The passes are counted over the records to forget, and the terms of a distillation read others alone."""
    steps: list[int] = []
    given = {**QUICK, "method": "base_vector", "score": "answer", "epochs": 3, "batch_size": 1}
    settings = Settings(model=str(folders / "original"), base=str(folders / "base"), out=str(tmp_path / "run"), **given)
    prepared = prepare(read_inputs(settings, forget=FORGET, retain=ROWS[2:3]))

    class Counting(_Rough):
        def _checks(self, n, reading):
            steps.append(n)
            return super()._checks(n, reading)

    Counting(prepared, prepared.lm, tmp_path).estimate(0.0)
    assert steps == [steps_of(prepared)[1]] and steps[0] > 3
