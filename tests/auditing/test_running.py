"""A whole audit on the tiny world: original and control side by side, gates, resume, redaction, a served model."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import jsonschema
import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, get_peft_model

import rkld
from rkld.auditing import running
from rkld.auditing.evidence import plain
from rkld.auditing.inputs import people_of, person_of, read_task
from rkld.auditing.metrics import audit_metrics
from rkld.auditing.readings import OF_EVERY_MODEL
from rkld.auditing.registry import ATTACKS, chosen_attacks
from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model
from rkld.cli import main
from rkld.errors import UserError
from rkld.evaluation import endpoint_backend, membership
from rkld.evaluation.likelihood import probability
from rkld.evaluation.statistics import Figure
from rkld.files import DATA, write_jsonl
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.records.encoding import Encoder
from rkld.records.identity import identifiers
from rkld.records.reading import read_records
from rkld.runfolder.checksums import checksum, sealed, unsealed, weights_hash
from rkld.runfolder.manifest import PURGED
from rkld.runfolder.once import own_key
from rkld.settings.auditing import AuditSettings
from rkld.stopping.steering import steering_hash
from rkld.training.config import RKLDConfig
from rkld.training.trainer import fine_tune
from tests.reporting.made import write_run
from tests.server import MODEL, serve

WORLD = people(n=4, seed=0)
FORGET = WORLD.forget([0])
FEW = FORGET[::2]
KEPT = WORLD.forget([1])[:12]
HOLDOUT = people(n=4, seed=9).forget([0])[:10]
FAST = {"samples": 3, "k": 2, "top": 2, "max_new_tokens": 48, "relearn_epochs": 2, "retain": KEPT}
GATES = {"max": ("facts_said=0.4", "extraction_strength=0.6")}
ATTACKED = ("standard", "context", "relearning", "4bit", "8bit")
"""All of them run in attacks/test_every_attack.py, with a smaller model."""
SCHEMA = json.loads((DATA.parent / "auditing" / "schema.json").read_text())


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The original, which learned the person and others by heart; a control that learned the others alone; and another
    that learned wrong answers about the person, so that it says none of the facts, in whole sentences."""
    folder = tmp_path_factory.mktemp("models")
    known = [*KEPT, *WORLD.real_authors[:3], *WORLD.world_facts[:3]]
    wrong = [{"question": r["question"], "answer": r["perturbed_answer"][0]} for r in FORGET]
    for name, records in {"original": FORGET + known, "control": known, "other": wrong + known}.items():
        model, tokenizer = tiny_model(0)
        lm = load_model(model, tokenizer=tokenizer)
        encoder = Encoder(tokenizer)
        args = RKLDConfig(str(folder / "training"), num_train_epochs=30, learning_rate=3e-3,
                          per_device_train_batch_size=8, use_cpu=True)  # fmt: skip
        fine_tune(lm, [encoder.encode(record) for record in read_records(records, "training")], args)
        save_model(lm, folder / name)
    return folder


@pytest.fixture(scope="module")
def already(models, tmp_path_factory):
    """Folders in which models were read by FAST: original and control without a holdout, original and other with it."""
    found = {name: tmp_path_factory.mktemp(name) for name in ("forget", "holdout")}
    for name, folder in found.items():
        beside = name == "holdout"
        rkld.audit(
            models / ("other" if beside else "control"), FORGET, original=models / "original", attacks=("none",),
            holdout=HOLDOUT if beside else None, out=str(folder), **FAST,
        )  # fmt: skip
        (folder / "audit.json").unlink()
    return found


@pytest.fixture
def out(already, tmp_path):
    """A folder for an audit by FAST, with readings that need not be made again: most tests need the same ones."""
    return str(shutil.copytree(already["forget"], tmp_path / "read already"))


@pytest.fixture(scope="module")
def whole(models, tmp_path_factory):
    """Everything at once: what never knew, beside another such model and the original, by several attacks."""
    return rkld.audit(
        models / "other", FEW, original=models / "original", control=models / "control", holdout=HOLDOUT,
        real_authors=list(WORLD.real_authors[:3]),
        world_facts=list(WORLD.world_facts[:3]), attacks=ATTACKED, out=str(tmp_path_factory.mktemp("audit")),
        **FAST, **GATES,
    )  # fmt: skip


def test_the_document_keeps_to_its_published_schema(whole):
    """Whoever reads audit.json by its schema must be able to read every field, on disk and with strict JSON."""
    found = json.loads(whole.path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in audit.json"))
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    assert found == json.loads(json.dumps(whole.document))
    unmeasured = [gate for gate in found["gates"] if gate["name"] not in found["metrics"]]
    assert unmeasured and all(gate["title"] and gate["explanation"] for gate in unmeasured)
    for model in found["models"].values():
        assert model["prompts"] == "in the chat template of the model" and model["dtype"].startswith("float32")


def test_every_attack_was_run_and_the_rest_is_listed(whole):
    """What is not measured must be said; what was asked for must not be missing."""
    left = {entry["name"] for entry in whole.document["not_run"]}
    asked = {attack.name for attack in chosen_attacks(AuditSettings(attacks=ATTACKED))}
    assert left & set(ATTACKS.names()) == set(ATTACKS.names()) - asked
    assert {"neighbours", "general"} <= left
    for name in ("relearned_probability", "4bit_facts_said", "prefixed_facts_said", "context_facts_said", "leak@2"):
        assert set(whole.document["metrics"][name]["figures"]) == {"audited", "control", "original"}


def test_the_original_leaks_and_the_control_does_not(whole):
    """The figures must separate a model that knows the person from one that never met them."""
    for name in ("extraction_strength", "exact_memorisation", "facts_said", "rouge_l", "leak@1", "loss_auc"):
        figures = whole.document["metrics"][name]["figures"]
        assert figures["original"]["value"] > figures["control"]["value"] + 0.1, name


def test_paraphrases_are_scored_not_the_answers_themselves(whole, models):
    """The record's own answer in their place would show learned wording, not knowledge."""
    lm = load_model(models / "other")
    encoder = Encoder(lm.tokenizer)
    reworded = read_records([{**r, "answer": r["paraphrased_answer"]} for r in FEW], "forget")
    expected = probability(lm, [encoder.encode(record) for record in reworded])
    found = whole.document["metrics"]["paraphrase_probability"]["records"]["audited"]
    assert list(found.values()) == pytest.approx(expected.tolist(), rel=1e-4)


def test_only_differences_within_the_margin_count_as_none(whole):
    """Equivalence to the control is claimed of whole intervals, and of the control alone."""
    for name, entry in whole.document["metrics"].items():
        if "control" in entry.get("against", {}):
            difference = entry["against"]["control"]
            low, high = (math.inf if difference[end] is None else abs(difference[end]) for end in ("low", "high"))
            assert difference["margin"] == 0.1 and difference["equivalent"] == (max(low, high) < 0.1), name
    assert not whole.document["metrics"]["facts_said"]["against"]["original"].get("equivalent")


def test_gates_fail_on_the_original(models, out):
    """A gate that a leaking model passes would be none; the reasons name the metric and both numbers."""
    found = rkld.audit(models / "original", FORGET, attacks=("none",), out=out, **FAST, **GATES)
    assert found.verdict == "fail" and not found.passed
    assert any("facts_said" in reason and "0.4" in reason for reason in found.document["reasons"])


def test_a_gate_on_what_was_not_measured_is_not_passed(models, out):
    """A skipped gate must not read as a pass: no holdout, so no membership."""
    found = rkld.audit(models / "control", FORGET, attacks=("none",), max=("loss_auc_distance=0.4",), out=out, **FAST)
    assert found.verdict == "not established" and not found.passed
    assert found.document["gates"][0]["state"] == "not measured"


def test_the_command_exits_as_its_gates_say(models, tmp_path):
    """A pipeline reads the exit code: 0 passed, 1 failed or not established, 2 not understood."""
    files = {"forget": FORGET, "retain": KEPT}
    for name, rows in files.items():
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    words = [part for name in files for part in (f"--{name}", str(tmp_path / f"{name}.jsonl"))]
    words += ["--original", str(models / "original"), "--attacks", "none", "--max-new-tokens", "48"]
    words += ["--samples", "3", "--k", "2", "--top", "2"]

    def code(model, *more):
        out = ["--out", str(tmp_path / model)]
        return CliRunner().invoke(main, ["audit", str(models / model), *words, *out, *more])

    passed = code("other", "--max", "facts_said=0.4", "--min", "probability=0")
    assert passed.exit_code == 0 and "verdict  pass" in passed.output
    failed = code("original", "--max", "facts_said=0.4")
    assert failed.exit_code == 1 and "verdict  fail" in failed.output
    assert "--original is the audited model" in failed.output, "its own original shows nothing"
    itself = code("original", "--max", "facts_said=1")
    assert "verdict  not established" in itself.output and "nothing to forget" not in itself.output
    assert code("other", "--max", "loss_auc_distance=0.4").exit_code == 1, "no holdout, so no membership"
    assert code("other").exit_code == 1, "without attacks required default gates were not measured"
    height = code("other", "--max", "loss_auc=0.5")
    assert height.exit_code == 2 and "loss_auc_distance" in height.output
    assert code("other", "--max", "fact_said=0.2").exit_code == 2
    assert code("other", "--max", "facts_said").exit_code == 2


def test_an_unknown_gate_is_refused_before_anything_is_read(tmp_path):
    """A mistyped gate would otherwise be found after hours of reading."""
    with pytest.raises(UserError, match="extraction_strength"):
        rkld.audit("no-model", FORGET, max=("extraction_strenght=.1",), out=str(tmp_path / "audit"))
    with pytest.raises(UserError, match="facts_said=5 says nothing: the figure lies between 0 and 1"):
        rkld.audit("no-model", FORGET, max=("facts_said=5",), out=str(tmp_path / "audit"))
    with pytest.raises(UserError, match="no records are given"):
        rkld.audit(tiny_model(0)[0], [], out=str(tmp_path / "audit"))
    assert not (tmp_path / "audit").exists()


def test_evidence_does_not_go_into_the_models_folder(models):
    """It holds personal data, and goes wherever the model is copied to."""
    for out in (models / "other", models / "other" / "audit"):
        with pytest.raises(UserError, match="lies in the model's folder"):
            rkld.audit(models / "other", FORGET, out=str(out))
        with pytest.raises(UserError, match="lies in the model's folder"):
            rkld.unlearn(models / "other", FORGET, out=str(out))
    assert not (models / "other" / "audit").exists()


def test_an_interrupted_audit_goes_on(models, tmp_path, monkeypatch):
    """What was read is not read again, and the figures come out the same."""
    arguments = {"attacks": ("none",), "out": str(tmp_path), **FAST}
    made = []

    def counted(reading, read):
        def noted(reader):
            made.append(reading.name)
            if len(made) == 3:
                raise KeyboardInterrupt
            return read(reader)

        return noted

    for reading in OF_EVERY_MODEL:
        monkeypatch.setattr(reading, "read", counted(reading, reading.read))
    with pytest.raises(KeyboardInterrupt):
        rkld.audit(models / "control", FORGET, **arguments)
    assert not (tmp_path / "audit.json").exists()
    before = list(made)
    second = rkld.audit(models / "control", FORGET, **arguments)
    assert not set(before[:2]) & set(made[3:]), "what was finished was read again"
    count = len(made)
    third = rkld.audit(models / "control", FORGET, **arguments)
    assert len(made) == count
    assert third.document["metrics"] == second.document["metrics"]


def test_other_records_are_read_anew(models, out):
    """A kept reading of other records, or of another model, must never be taken for this one's."""
    arguments = {"attacks": ("none",), "out": out, **FAST}
    first = rkld.audit(models / "control", FORGET, **arguments).document["metrics"]["probability"]
    (Path(out) / "audit.json").unlink()
    other = rkld.audit(models / "control", FORGET[:3], **arguments).document["metrics"]["probability"]
    (Path(out) / "audit.json").unlink()
    model = rkld.audit(models / "original", FORGET, **arguments).document["metrics"]["probability"]
    assert other["figures"]["audited"]["n"] == 3
    assert model["figures"]["audited"]["value"] > first["figures"]["audited"]["value"]


def test_readings_that_came_with_the_folder_are_not_believed(models, out, tmp_path, monkeypatch):
    """Whoever delivers a run folder could put into it what a better model answered, under the very names looked for."""
    arguments = {"attacks": ("none",), "out": out, **FAST, **GATES}
    honest = rkld.audit(models / "original", FORGET, **arguments)
    assert honest.verdict == "fail"
    for path in (Path(out) / "readings").iterdir():
        read = unsealed(json.loads(path.read_text()), own_key())
        for row in read.values():
            row |= {"answer": "I do not know."} if "answer" in row else {}
            row |= {"facts": [False] * len(row["facts"])} if "facts" in row else {}
            row |= {"extraction_strength": 0.0} if "extraction_strength" in row else {}
        path.write_text(json.dumps(sealed(read)))
    again = rkld.audit(models / "original", FORGET, **arguments)  # handed back: the names are those looked for
    assert again.document["metrics"] == honest.document["metrics"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "of the one who audits"))
    received = rkld.audit(models / "original", FORGET, **arguments)
    assert received.verdict == "fail"
    assert received.document["metrics"] == honest.document["metrics"]


@pytest.mark.slow
def test_a_reading_is_of_all_that_it_depends_on(models, already, tmp_path):
    """Own answers of other answers, and blanks for other names, would be taken from the last audit in the folder."""
    arguments = {"attacks": ("none",), "original": models / "original", **FAST}

    def metrics(out, **more):
        found = rkld.audit(models / "control", FORGET, **{**arguments, **more}, out=str(tmp_path / out)).document
        return found["metrics"]

    for name, other in {"tokens": {"max_new_tokens": 4}, "names": {"subject": ("Nobody Else",)}}.items():
        shutil.copytree(already["forget"], tmp_path / name)
        metrics(name)
        assert metrics(name, **other) == metrics(f"{name} alone", **other)


def test_the_folder_of_a_run_takes_no_audit_of_another_model(tmp_path):
    """Its report would show that verdict as the run's: of a retrained model it stated that the run's had passed."""
    run, other = write_run(tmp_path / "run", audit=False), tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_text("other weights")
    with pytest.raises(UserError, match="is the folder of a run that wrote another model"):
        rkld.audit(other, FORGET, out=str(run))
    assert not (run / "readings").exists() and not (run / "audit.salt").exists()
    (other / "model.safetensors").write_text("weights")  # the run's own, copied: it is opened
    with pytest.raises(UserError) as caught:
        rkld.audit(other, FORGET, out=str(run))
    assert "another model" not in str(caught.value)


def test_the_audits_path_is_that_of_the_evidence(models, tmp_path):
    """Of a served model it was that of a reading, which had been removed; what it names must be there."""
    lm = load_model(models / "control")
    with serve(lm, Encoder(lm.tokenizer)) as url:
        arguments = {"endpoint": url, "attacks": ("none",), "max_new_tokens": 2, "out": str(tmp_path)}
        found = rkld.audit(MODEL, FORGET[:2], **arguments)
        again = rkld.audit(MODEL, FORGET[:2], **arguments)
    files = [{one["file"] for one in audit.document["readings"]["audited"].values()} for audit in (found, again)]
    assert not files[0] & files[1], "another model may be served there by now"
    assert {path.name for path in (tmp_path / "readings").iterdir()} == files[0] | files[1]
    for one in again.document["readings"]["audited"].values():
        assert checksum(tmp_path / "readings" / one["file"]) == one["checksum"]
    assert found.path == tmp_path / "audit.json"
    assert found.path.exists()
    assert found.document["inputs"]["notes"] == ["the model is served, so whether records steered its stop is unknown"]


def test_a_retrained_model_may_be_known_by_its_logs_alone(models, out, tmp_path):
    """Without the retrained model forget quality comes from its published log, with the log's own n."""
    losses = {str(i): 1.0 + i / 10 for i in range(9)}
    log = {"eval_log_forget.json": {
        "avg_paraphrased_loss": losses, "average_perturb_loss": {i: [2.0, 3.0] for i in losses},
    }}  # fmt: skip
    (tmp_path / "log.json").write_text(json.dumps(log))
    found = rkld.audit(
        models / "original",
        FORGET,
        attacks=("none",),
        retain_logs=str(tmp_path / "log.json"),
        out=out,
        **FAST,
    ).document["metrics"]
    quality, distance = (found[name]["figures"]["audited"] for name in ("forget_quality", "ks_distance"))
    ours = list(found["truth_ratio"]["records"]["audited"].values())
    assert (quality["n"], quality["retrained_n"]) == (len(ours), 9)
    assert 0 < distance["value"] <= 1 and distance["low"] <= distance["value"] <= distance["high"]


@pytest.mark.slow
def test_weights_in_bfloat16_are_audited(models, tmp_path):
    """Large models are loaded so: no reading may hand bfloat16 to NumPy, or fail to train or to round it."""
    found = rkld.audit(
        models / "original", FEW, control=models / "control", holdout=HOLDOUT, dtype="bfloat16",
        attacks=("relearning", "4bit", "sampling"), out=str(tmp_path), **FAST,
    ).document  # fmt: skip
    for name in ("extraction_strength", "loss_auc", "4bit_probability", "relearned_probability", "leak@1"):
        figures = found["metrics"][name]["figures"]
        assert figures["audited"]["value"] > figures["control"]["value"], name


@pytest.mark.slow
def test_a_gate_on_membership_needs_sets_that_text_does_not_tell_apart(models, already, tmp_path, monkeypatch):
    """The document called it not interpretable, and the verdict was a pass all the same."""
    telling = Figure(0.9, 0.8, 1.0, 40, "")
    monkeypatch.setattr(membership, "text_auc", lambda *_, **__: telling)
    arguments = {
        "holdout": HOLDOUT,
        "attacks": ("none",),
        "out": str(shutil.copytree(already["holdout"], tmp_path / "audit")),
        "original": models / "original",
        **FAST,
    }
    gates = ("loss_auc_distance=.99", "loss_auc_distance=1", "facts_said=.4")
    found = rkld.audit(models / "other", FORGET, **arguments, max=gates)
    assert found.verdict == "not established" and not found.passed
    doubted = [reason for reason in found.document["reasons"] if "holdout records of the same kind" in reason]
    assert len(doubted) == 2 and all("loss_auc_distance" in reason for reason in doubted)
    by_default = rkld.audit(models / "other", FORGET, **arguments).document["gates"]
    assert {gate["name"]: gate["state"] for gate in by_default}["loss_auc_distance"] == "not measured"
    assert not found.document["membership"]["interpretable"]
    assert found.document["membership"]["reference"] == "text"
    assert rkld.audit(models / "other", FORGET, **arguments, max=("facts_said=.4",)).verdict == "pass"


# The verdict


@pytest.fixture
def beside(already, tmp_path):
    """Where :func:`judged` audits."""
    shutil.copytree(already["holdout"], tmp_path / "audit")


def judged(models, tmp_path, model, **more):
    """An audit by the default gates, with all that a pass needs."""
    arguments = {"original": models / "original", "holdout": HOLDOUT, "out": str(tmp_path / "audit"), **FAST, **more}
    return rkld.audit(model, arguments.pop("forget", FORGET), **arguments)


def test_an_honest_model_passes_by_the_default_gates(models, tmp_path):
    """A verdict that never passes is no verdict. What it says nothing of is named."""
    found = judged(models, tmp_path, models / "other", holdout=None, max_new_tokens=400)
    assert found.verdict == "pass" and found.passed, found.document["reasons"]
    (reason,) = found.document["reasons"]
    assert reason.startswith("not measured") and "loss_auc_distance" in reason
    held = {gate["name"] for gate in found.document["gates"] if gate["state"] == "held"}
    assert held >= {"facts_said", "paraphrased_facts_said", "prefixed_facts_said", "leak@1", "unnamed_facts_said",
                    "extraction_strength", "gibberish", "retain_kept", "retain_answers_kept"}  # fmt: skip
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(found.path.read_text()))


@pytest.mark.usefixtures("beside")
def test_a_ruined_model_fails(models, tmp_path):
    """Random weights say no fact: they passed, with their fluency beside it."""
    model, tokenizer = tiny_model(7)
    found = judged(models, tmp_path, model, processing_class=tokenizer, attacks=("none",))
    failed = {gate["name"] for gate in found.document["gates"] if gate["state"] == "failed"}
    assert found.verdict == "fail" and failed == {"gibberish", "retain_kept", "retain_answers_kept"}
    found = judged(models, tmp_path, model, processing_class=tokenizer, attacks=("none",), max=("facts_said=0.4",))
    assert found.verdict == "fail", "also by gates of one's own"


@pytest.mark.slow
@pytest.mark.usefixtures("beside")
def test_without_an_original_or_records_to_keep_nothing_is_established(models, tmp_path):
    """Whether anything else was lost is unknown then, whatever gates are held."""
    for missing in ("original", "retain"):
        found = judged(
            models, tmp_path, models / "other", max=("facts_said=0.4",), attacks=("none",), **{missing: None}
        )
        assert found.verdict == "not established"
        assert any(f"--{missing}" in reason for reason in found.document["reasons"])


@pytest.mark.slow
@pytest.mark.usefixtures("beside")
def test_what_the_original_never_knew_cannot_be_forgotten(models, tmp_path):
    """Gates that the untouched original keeps, too, show nothing."""
    limits = ("facts_said=1", "extraction_strength=1")
    known = judged(models, tmp_path / "known", models / "other", attacks=("none",), max=limits)
    others = people(n=4, seed=8).forget([0])
    strangers = judged(
        models, tmp_path / "strangers", models / "other", forget=others, attacks=("none",), max=("facts_said=0.4",)
    )
    for found in (known, strangers):
        assert found.verdict == "not established"
        assert any(reason.startswith("nothing to forget") for reason in found.document["reasons"])


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("how", ["as it is", "in bfloat16", "merged"])
@pytest.mark.parametrize("audited", ["original", "other"])
def test_a_control_that_is_no_other_model_is_refused(models, tmp_path, audited, how):
    """The original as its own control passed, with forget quality 1; and so would a model beside itself."""
    lm = load_model(models / "original")
    if how == "in bfloat16":
        lm.model.to(torch.bfloat16)
    elif how == "merged":
        adapter = get_peft_model(lm.model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
        lm.model = adapter.merge_and_unload()
    if how != "as it is":
        lm.model.save_pretrained(tmp_path / "control")
        lm.tokenizer.save_pretrained(tmp_path / "control")
    control = models / "original" if how == "as it is" else tmp_path / "control"
    with pytest.raises(UserError, match="--control is the "):
        judged(models, tmp_path, models / audited, control=control, attacks=("none",))
    assert not (tmp_path / "audit" / "audit.json").exists()


@pytest.mark.parametrize(
    "given", [{"system_prompt": "Be kind."}, {"chat_template": "{{ x }}"}, {"template_date": "1 Jan 2020"},
              {"max_length": 64}],
)  # fmt: skip
def test_what_says_nothing_to_a_served_model_is_refused(tmp_path, given):
    """Figures would pass for those of a model that was asked so."""
    with pytest.raises(UserError, match="does nothing with --endpoint") as error:
        rkld.audit("m", FORGET, endpoint="http://127.0.0.1:9/v1", out=str(tmp_path / "audit"), **given)
    assert str(next(iter(given.values()))) not in str(error.value)
    assert not (tmp_path / "audit").exists()


def test_redacted_evidence_names_no_path(models, tmp_path):
    """Folders are called after people and customers."""
    folder = tmp_path / "Ada Quill"
    shutil.copytree(models / "control", folder / "model")
    shutil.copytree(models / "control", folder / "other")
    found = rkld.audit(
        folder / "model", FORGET[:2], original=folder / "other", redact=True, attacks=("none",), max_new_tokens=2,
        out=str(folder / "audit"), base=str(folder / "base"),
    )  # fmt: skip
    assert "Ada Quill" not in found.path.read_text()
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(found.path.read_text()))


def test_readings_that_cannot_be_removed_are_said(models, tmp_path, monkeypatch):
    """They are personal data, and --redact promises that they are gone."""

    def refuse(path, **how):
        if not how.get("ignore_errors"):
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(running.shutil, "rmtree", refuse)
    with pytest.raises(UserError, match=r"readings: cannot be removed .*personal data"):
        rkld.audit(
            models / "control", FORGET[:2], redact=True, attacks=("none",), max_new_tokens=2, out=str(tmp_path)
        )  # fmt: skip


def test_redacted_evidence_holds_no_text(models, tmp_path):
    """Evidence that is handed on must not hand on the person: no name, question, answer, nor generated word."""
    found = rkld.audit(
        models / "original", FORGET, redact=True, attacks=("sampling",), out=str(tmp_path), **FAST
    )  # fmt: skip
    text = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "texts" not in found.document and not (tmp_path / "readings").exists()
    for record in FORGET:
        for part in (record["question"], record["answer"], record["subject"], *record["spans"]):
            assert json.dumps(part, ensure_ascii=False)[1:-1] not in text


def test_purging_leaves_the_numbers_alone(models, out):
    """After the purge of an audit's folder nothing in it quotes the person, and the evidence still reads."""
    before = rkld.audit(models / "original", FORGET, attacks=("none",), out=out, **FAST).document
    assert {name for name, _ in rkld.purge(out)} == {"readings", "audit.salt", "audit.json (texts)"}
    after = json.loads((Path(out) / "audit.json").read_text())
    before["settings"]["out"] = PURGED  # the folder may be called after the person
    taken = ("texts", "readings", "checksum")
    assert "texts" in before and unsealed(after) == {name: v for name, v in before.items() if name not in taken}
    assert not any(FORGET[0]["answer"] in path.read_text() for path in Path(out).rglob("*") if path.is_file())


def test_a_served_model_gives_the_same_figures(models, out, tmp_path):
    """An audit over HTTP must find what the local one finds: generation, and likelihood where the server tells."""
    lm = load_model(models / "original")
    arguments = {"attacks": ("paraphrases", "prefixes"), **FAST}
    local = rkld.audit(models / "original", FORGET, out=out, **arguments).document
    with serve(lm, Encoder(lm.tokenizer)) as url:
        served = rkld.audit(
            MODEL, FORGET, endpoint=url, tokenizer=str(models / "original"), out=str(tmp_path / "served"), **arguments
        ).document
    same = ("rouge_l", "facts_said", "paraphrased_rouge_l", "paraphrased_facts_said", "unnamed_facts_said",
            "prefixed_facts_said", "retain_rouge_l", "repetition")  # fmt: skip
    for name in same:
        assert served["metrics"][name]["figures"]["audited"] == local["metrics"][name]["figures"]["audited"], name
    for name in ("probability", "retain_probability"):
        ours = served["metrics"][name]["figures"]["audited"]["value"]
        assert ours == pytest.approx(local["metrics"][name]["figures"]["audited"]["value"], abs=1e-5)
    assert {"membership", "fill_in"} <= {entry["name"] for entry in served["not_run"]}


def test_a_server_that_is_not_there_is_an_error(tmp_path, monkeypatch):
    """An audit of nothing must not end as a list of what was not run."""
    monkeypatch.setattr(endpoint_backend, "BACKOFF", 0.0)
    with pytest.raises(UserError, match="cannot be reached"):
        rkld.audit("none", FORGET, endpoint="http://127.0.0.1:9/v1", attacks=("none",), out=str(tmp_path))
    assert not (tmp_path / "audit.json").exists()


def test_an_audit_of_what_steered_does_not_pass(models, tmp_path):
    """Every gate is held, but four of six records steered: verdict, exit code and evidence say so."""
    run = tmp_path / "run"
    shutil.copytree(models / "control", run / "model")
    steering = {"n": 4, "hashes": [steering_hash(record, "salt") for record in read_records(FORGET[:4], "forget")]}
    phases = {"distillation": {"steering": steering}, "model": {"weights": weights_hash(run / "model")}}
    manifest = {"format": 1, "settings": {}, "salt": "salt", "records": {}, "phases": phases}
    (run / "manifest.json").write_text(json.dumps(manifest))
    found = rkld.audit(run, FORGET[:6], attacks=("none",), **FAST, **GATES)
    assert found.verdict == "not established"
    assert not found.passed
    assert found.document["inputs"]["left_out"] == ["0", "1", "2", "3"]
    assert any("more than half" in reason for reason in found.document["reasons"])
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(found.path.read_text()))


def test_names_that_share_a_word_are_one_person():
    """Aliases must not pass for several independent people: the intervals would be too narrow."""
    assert people_of(["Marie Curie", "Curie", "Basil Al-Kuwaiti"]) == [["Marie Curie", "Curie"], ["Basil Al-Kuwaiti"]]


@pytest.mark.parametrize(
    "names, wanted",
    [
        (["Zoe O'Brien", "zoe o'brien"], {"Zoe O'Brien"}),
        (["Zoe O'Brien", "Zoe"], {"Zoe O'Brien", "Zoe"}),  # a first name may be somebody else's
        (["John Doe", "John Doe Jr"], {"John Doe", "John Doe Jr"}),
        (["Ann Smith", "Bob Smith"], {"Ann Smith", "Bob Smith"}),
        (["李雷", "韩梅梅"], {"李雷", "韩梅梅"}),
    ],
)
def test_a_person_is_one_however_records_spell_the_name(names, wanted):
    """Two verdicts for one person, or one for two, would be of nobody."""
    records = read_records([{"question": "Who?", "answer": "She.", "subject": name} for name in names], "forget")
    grouped = people_of(identifiers(records, ()))
    assert {person_of(record, grouped) for record in records} == wanted


def test_an_alias_does_not_name_the_person():
    """Else a report would refuse the name that stands in the records."""
    row = {"question": "Who?", "answer": "She.", "subject": "Ada Quell", "aliases": ["Ada Quell Consulting"]}
    (record,) = read_records([row], "forget")
    assert person_of(record, people_of(identifiers([record], ()))) == "Ada Quell"


@pytest.mark.parametrize(
    "names, tied, wanted",
    [
        ([], (), []),
        (["Jane Doe", "555-1234"], (), [["Jane Doe", "555-1234"]]),
        (["Jane Doe", "Bo Marsh", "555-1234"], (), [["Jane Doe"], ["Bo Marsh"]]),
        (["555-1234", "jd@example.org"], (), [["555-1234", "jd@example.org"]]),
        (["Samuel Clemens", "Mark Twain", "Bo Marsh"], [("Samuel Clemens", "Mark Twain")],
         [["Samuel Clemens", "Mark Twain"], ["Bo Marsh"]]),
    ],
)  # fmt: skip
def test_a_number_is_no_person_and_a_records_alias_is_its_subjects(names, tied, wanted):
    assert people_of(names, tied) == wanted


UNCLEAR, TWO_SUBJECTS = "of 1 of 2 forget records", "of the names in the records' 'subject'"


@pytest.mark.parametrize(
    "rows, said",
    [
        ([("Who is Ann Smith?", ""), ("Who is Bob Marsh?", "")], []),
        ([("Who is Ann Smith?", ""), ("Do Ann Smith and Bob Marsh know each other?", "")], [UNCLEAR]),
        ([("Who is Ann Smith?", ""), ("Who is it?", "")], [UNCLEAR]),
        ([("Who is Ann Smith?", ""), ("Where does Bob Marsh live?", "Bob")], [TWO_SUBJECTS]),
    ],
)  # fmt: skip
def test_where_people_cannot_be_told_apart_it_is_said(tmp_path, rows, said):
    found = [{"question": q, "answer": "A farrier.", **({"subject": who} if who else {})} for q, who in rows]
    if said == [TWO_SUBJECTS]:
        found.append({**found[1], "question": "Who is Bob Marsh?", "subject": "Bob Marsh"})
    settings = AuditSettings(model=str(tmp_path), forget="f", subject=("Ann Smith", "Bob Marsh"))
    notes = [note for note in read_task(settings, {"forget": found}).notes if "verdict" in note or "two people" in note]
    assert [note.partition(" (")[0].partition(" one holds")[0] for note in notes] == said


@pytest.mark.parametrize("other, several", [("Bob Smith", True), ("A. Smith", False), ("Ann Marie Smith", False)])
def test_people_of_one_surname_are_said_to_count_as_one(tmp_path, other, several):
    rows = [{"question": f"Who is {name}?", "answer": "A farrier."} for name in ("Ann Smith", other)]
    settings = AuditSettings(model=str(tmp_path), forget="f", subject=("Ann Smith", other))
    notes = [note for note in read_task(settings, {"forget": rows}).notes if "one person's" in note]
    assert len(notes) == several
    marked = [{**row, "subject": name} for row, name in zip(rows, ("Ann Smith", other), strict=True)]
    assert not [note for note in read_task(settings, {"forget": marked}).notes if "one person's" in note]


def test_nan_is_an_error_and_infinity_null():
    """NaN in the evidence would pass every comparison silently."""
    assert plain({"a": (1, math.inf)}) == {"a": [1, None]}
    with pytest.raises(ValueError, match="NaN"):
        plain([math.nan])


@pytest.mark.parametrize("wrong", [{"samples": 2, "k": 3}, {"max": ("facts_said",)}, {"k": 0}])
def test_settings_that_cannot_be_meant_are_refused(wrong):
    """Before a model is loaded."""
    with pytest.raises(UserError):
        AuditSettings(model="m", forget="f", **wrong).gates()


def test_gate_names_are_all_reachable(whole):
    """A gate may only be named after what some audit can measure."""
    measured = set(whole.document["metrics"])
    missing = set(audit_metrics(AuditSettings(**{k: v for k, v in FAST.items() if k != "retain"}))) - measured
    asked = {attack.name for attack in chosen_attacks(AuditSettings(attacks=ATTACKED))}
    left = [ATTACKS.get(name)(name) for name in ATTACKS.names() if name not in asked]  # run by test_every_attack
    missing -= {metric.name for attack in left for metric in attack.metrics()}
    others = (
        "neighbours_",
        "4bit_base",
        "8bit_base",
        "reference_",
        "gradient_norm_",
        "recall_",
        "neighbourhood_",
        "verbmem",
    )
    assert all(name.startswith(others) for name in missing), missing
