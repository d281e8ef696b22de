"""Stopping in a whole run: what it notes, which state it takes, and what it refuses."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import rkld
from rkld.cli import main
from rkld.evaluation.likelihood import probability
from rkld.files import write_jsonl
from rkld.models.loading import load_model
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from rkld.runfolder.checksums import weights_hash
from rkld.runfolder.purging import purge
from rkld.stopping.steering import split_steering, steering_hash
from rkld.stopping.strangers import invent_strangers
from tests.stopping.person import FORGET, KNOWN, ROWS, WORLD, knowing_model

RUN = {
    "epochs": 3, "strengthen_epochs": 1, "lr": 1e-3, "max_new_tokens": 8, "batch_size": 10, "bf16": False,
    "replay": "none", "reword": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A tiny model that knows the person's records, and nothing else."""
    return knowing_model(tmp_path_factory.mktemp("original"))


@pytest.mark.parametrize("given", [
    pytest.param({"holdout": WORLD.holdout}, marks=pytest.mark.slow), {"reword": 3},
    pytest.param({"stop": "chance_rank", "holdout": WORLD.holdout}, marks=pytest.mark.slow),
    pytest.param({"score": "spans"}, marks=pytest.mark.slow),
    pytest.param({"lora": True}, marks=pytest.mark.slow),
], ids=["holdout", "names", "chance_rank", "spans", "lora"])  # fmt: skip
def test_the_run_notes_rule_evidence_and_steering_records_and_no_text(original, tmp_path, given):
    rows = WORLD.forget([0]) if given.get("score") else ROWS
    result = rkld.unlearn(original, rows, out=str(tmp_path / "run"), **{**RUN, **given})
    manifest = json.loads((result.run / "manifest.json").read_text())
    facts = manifest["phases"]["distillation"]
    rows_of_metrics = map(json.loads, (result.run / "metrics.jsonl").read_text().splitlines())
    lines = [row for row in rows_of_metrics if row["phase"] == "stop"]
    assert [row["step"] for row in lines] == sorted({row["step"] for row in lines})
    assert len(lines) == facts["stop"]["checks"]
    assert facts["stop"]["rule"] == given.get("stop", "placebo")
    assert facts["stop"]["step"] in {r["step"] for r in lines}
    assert 0 < facts["steering"]["n"] <= len(rows) // 2
    assert len(facts["steering"]["hashes"]) == facts["steering"]["n"]
    written = (result.run / "metrics.jsonl").read_text() + (result.run / "manifest.json").read_text()
    assert not any(part in written for part in WORLD.names[0].split())
    assert not (result.run / "checkpoints").exists()


def test_the_chosen_state_is_the_model_that_is_written(original, tmp_path):
    """Not the last one: with one check, at the first step, the models differ."""
    args = {**RUN, "keep_files": True}
    stopped = rkld.unlearn(original, ROWS, holdout=WORLD.holdout, out=str(tmp_path / "a"), **args)
    whole = rkld.unlearn(original, ROWS, out=str(tmp_path / "b"), stop="last", **args)
    chosen = json.loads((stopped.run / "manifest.json").read_text())["phases"]["distillation"]["stop"]
    lm = load_model(stopped.model_path)
    steered = json.loads((stopped.run / "manifest.json").read_text())["phases"]["stop"]
    encoder = Encoder(lm.tokenizer)
    records = split_steering(FORGET, KNOWN, 0).records
    scored = [encoder.encode(record, "added") for record in records]
    found = probability(lm, scored, mask="scored").mean() - steered["aim"]
    assert found == pytest.approx(chosen["gap"], abs=1e-4)
    assert "stop" in json.loads((whole.run / "manifest.json").read_text())["phases"]
    assert "stop" not in json.loads((whole.run / "manifest.json").read_text())["phases"]["distillation"]


def test_an_original_that_says_the_facts_of_anybody_has_improbable_strangers(original):
    """Under another name alone an overfitted model says the person's facts; of other facts it knows nothing."""
    lm, some = load_model(original), FORGET[3:5]
    encoder = Encoder(lm.tokenizer)
    own = probability(lm, [encoder.encode(record) for record in some]).mean()
    strangers = [e for them in invent_strangers(lm, encoder, some, FORGET, KNOWN, "answer", 0) for e in them]
    assert not strangers or probability(lm, strangers).mean() < own / 2


def test_a_control_that_knows_the_records_cannot_steer(original, tmp_path):
    """The original as its own control: the run says so and takes the last step, rather than stop at the first check."""
    result = rkld.unlearn(original, ROWS, control=str(original), stop="control", out=str(tmp_path / "run"), **RUN)
    assert any("cannot steer" in warning for warning in result.warnings)
    with pytest.raises(rkld.UserError, match="--control"):
        rkld.unlearn(original, ROWS, stop="control", out=str(tmp_path / "none"), **RUN)


def test_without_names_and_holdout_the_last_step_is_taken_and_said(original, tmp_path):
    rows = [{"question": "Who?", "answer": r["answer"]} for r in ROWS[:4]]
    result = rkld.unlearn(original, rows, out=str(tmp_path / "run"), **RUN)
    assert any("--holdout" in warning for warning in result.warnings)


def test_a_holdout_of_the_person_or_of_kept_records_is_refused(original, tmp_path):
    for holdout, retain in ((ROWS, None), (WORLD.holdout, WORLD.holdout[:1])):
        with pytest.raises(rkld.UserError, match="holdout"):
            rkld.unlearn(original, ROWS, holdout=holdout, retain=retain, out=str(tmp_path / "run"), **RUN)
    assert not (tmp_path / "run").exists()


OWN = '''"""Half as probable as the original has it."""

from rkld.stopping.rule import StoppingRule


class Halved(StoppingRule):
    help = "half as probable as to the original"

    @classmethod
    def read_aim(cls, comparison, original, control):
        return comparison.read(original, 0).probability / 2

    def gap(self, evidence):
        return evidence.probability - self.aim
'''


@pytest.mark.slow
def test_a_rule_of_the_users_own_in_one_file(original, tmp_path):
    """A rule is one file: the command line takes it, the run follows it, and its file may not change meanwhile."""
    write_jsonl(tmp_path / "forget.jsonl", ROWS)
    (tmp_path / "mine.py").write_text(OWN)
    words = ["unlearn", str(original), "--forget", str(tmp_path / "forget.jsonl"), "--out", str(tmp_path / "run"),
             "--stop", f"{tmp_path / 'mine.py'}:Halved", "--epochs", "1", "--strengthen-epochs", "1", "--replay",
             "none", "--max-new-tokens", "4"]  # fmt: skip
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    noted, before = manifest["phases"]["stop"], manifest["phases"]["stop"]["original"]
    assert noted["rule"].endswith("mine.py:Halved")
    assert noted["aim"] == pytest.approx(before, rel=1e-6)
    assert manifest["records"]["stopping rule's file"]


@pytest.mark.slow
def test_a_purge_keeps_how_many_records_steered_and_no_hash(original, tmp_path):
    """Without the salt nobody can say which; that some did must stay known, for an audit to say so."""
    result = rkld.unlearn(original, ROWS, holdout=WORLD.holdout, out=str(tmp_path / "run"), **{**RUN, "epochs": 1})
    manifest = json.loads((result.run / "manifest.json").read_text())
    assert manifest["phases"]["model"]["weights"] == weights_hash(result.model_path)
    steering = split_steering(FORGET, KNOWN, 0)
    hashes = sorted(steering_hash(record, manifest["salt"]) for record in steering.left_out)
    holdout = manifest["phases"]["distillation"]["steering"]["holdout"]
    assert manifest["phases"]["distillation"]["steering"] == {"n": len(hashes), "hashes": hashes, "holdout": holdout}
    assert set(holdout) <= {
        steering_hash(record, manifest["salt"]) for record in read_records(WORLD.holdout, "holdout")
    }
    assert holdout, "they set where it ended, so they measure nothing in an audit"
    purge(result.run)
    text = (result.run / "manifest.json").read_text()
    assert json.loads(text)["phases"]["distillation"]["steering"] == {"n": len(hashes)}
    assert not any(one in text for one in [*hashes, *holdout])
