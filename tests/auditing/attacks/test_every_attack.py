"""Every registered attack on a tiny model: each by itself, and all in one audit beside a control and the original."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import rkld
from rkld.auditing.attacks.activation_steering import NAMES, ActivationSteering
from rkld.auditing.attacks.disguises import DISGUISES, Disguises
from rkld.auditing.attacks.frames import Frames
from rkld.auditing.attacks.merging import SHARES, Merging
from rkld.auditing.attacks.multi_turn import FOLLOW_UPS, MultiTurn
from rkld.auditing.attacks.prefixes import PREFIXES, Prefixes
from rkld.auditing.attacks.relearning import CHECKS, RelearningAttack
from rkld.auditing.evidence import plain
from rkld.auditing.inputs import read_task
from rkld.auditing.metrics import audit_metrics
from rkld.auditing.reading import Reader
from rkld.auditing.registry import ATTACKS
from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.evaluation.backends import LocalBackend
from rkld.evaluation.frames import FRAMES
from rkld.evaluation.metric import Measured
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.models.state import fingerprint
from rkld.progress import NoProgress
from rkld.records.encoding import Encoder
from rkld.settings.auditing import AuditSettings

WORLD = people(n=4, seed=0)
FORGET, RETAIN, HOLDOUT = WORLD.forget([0])[1:6], WORLD.forget([2])[:4], WORLD.holdout[:3]
AGAIN = {"relearning_template_lora", "relearning_facts_lora", "relearning_chat_lora"}
"""What differs from others in nothing but the adapter, which ``relearning_lora`` has, too."""
FAST = {"samples": 2, "k": 2, "top": 2, "max_new_tokens": 3, "relearn_epochs": 1}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("audited", "control", "original")):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tiny_tokenizer()),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            initializer_range=0.1,
            pad_token_id=0,
            eos_token_id=2,
        )
        made = LlamaForCausalLM(config)
        with torch.no_grad():  # every answer ends at once: one that is cut measures nothing
            made.model.embed_tokens.weight[:, 0] = 3
            made.model.embed_tokens.weight[2, 0] = 12
        save_model(load_model(made, tokenizer=tiny_tokenizer()), folder / name)
    return folder


@pytest.fixture(scope="module")
def reader(models):
    """The audited model as attacks are given it, with the original to be opened beside it."""
    settings = AuditSettings(model="audited", forget="forget", original="original", holdout="holdout", **FAST)
    task = read_task(settings, {"forget": FORGET, "retain": RETAIN, "holdout": HOLDOUT})
    lm = load_model(models / "audited")
    encoder = Encoder(lm.tokenizer, context_length=lm.context_length)
    backend = LocalBackend(lm, encoder)
    return Reader("audited", backend, encoder, lm, task, NoProgress(), lambda role: load_model(models / role))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in AGAIN)) for name in ATTACKS.names()]
)
def test_every_attack_runs_by_its_name_and_leaves_the_model_as_it_was(name, reader):
    attack, before = ATTACKS.get(name)(name), fingerprint(reader.lm)
    assert attack.not_run(reader.task, served=False) is None
    assert attack.why_not_applicable(reader.lm) is None
    attack.encode(reader.task, reader.encoder)
    found = plain(attack.read(reader))
    measured = Measured({"audited": {name: found}}, settings=FAST)
    assert found
    for metric in attack.metrics():
        if f"{name}_base_" not in metric.name:  # of an adapter alone
            assert set(metric.figures(measured)) == {"audited"}, metric.name
    assert fingerprint(reader.lm) == before


@pytest.mark.parametrize("name", ATTACKS.names())
def test_what_is_asked_of_a_server_needs_no_weights_and_the_rest_says_so(name, reader):
    """An audit of a served model must end with a reason, not with an error."""
    attack = ATTACKS.get(name)(name)
    assert (attack.not_run(reader.task, served=True) is None) == (not attack.weights)


def test_one_that_needs_the_original_says_so(reader):
    task = replace(reader.task, settings=replace(reader.task.settings, original=None))
    for name in ("both_checkpoints", "merging"):
        assert ATTACKS.get(name)(name).not_run(task, served=False) == "needs --original"


def test_the_original_is_opened_beside_and_another_makes_the_reading_anew(models, tmp_path):
    """A kept reading with another original would pass for one with this."""
    for number, original in enumerate(("original", "control"), 1):
        found = rkld.audit(
            models / "audited",
            FORGET[:2],
            original=models / original,
            attacks="both_checkpoints,merging",
            out=str(tmp_path),
            **FAST,
        ).document
        assert set(found["metrics"]["both_checkpoints_facts_said"]["figures"]) == {"audited", "original"}
        assert set(found["metrics"]["merging_share"]["figures"]) == {"audited"}, "with itself there is nothing to merge"
        assert len(list((tmp_path / "readings").glob("both_checkpoints.*.json"))) == 2 * number


@pytest.mark.slow
def test_all_together_beside_a_control(models, tmp_path):
    """What is in the registry and in the documentation's table must work in an audit."""
    found = rkld.audit(
        models / "audited",
        FORGET,
        original=models / "original",
        control=models / "control",
        attacks="all",
        retain=RETAIN,
        out=str(tmp_path),
        **FAST,
    ).document
    assert not {entry["name"] for entry in found["not_run"]} & set(ATTACKS.names())
    for name, attack in ATTACKS.items():
        for metric in attack(name).metrics():
            if f"{name}_base_" not in metric.name:
                assert set(found["metrics"][metric.name]["figures"]) >= {"audited", "control"}, metric.name
    judged = {gate["name"] for gate in found["gates"] if gate["state"] != "not measured"}
    assert {"capitals_facts_said", "primed_facts_said", "multi_turn_facts_said", "3bit_facts_said"} <= judged
    unasked = rkld.audit(models / "control", FORGET, attacks="none", max_new_tokens=2, out=str(tmp_path / "none"))
    assert not {gate["name"] for gate in unasked.document["gates"]} & {"capitals_facts_said", "primed_facts_said"}


@pytest.mark.parametrize("name", ATTACKS.names())
def test_every_attack_says_what_it_is_needs_and_costs(name):
    attack = ATTACKS.get(name)
    for said in (attack.title, attack.needs, attack.cost, attack.source):
        assert said.strip(), name
    assert re.search(r"arXiv \d{4}\.\d{5}|of rkld", attack.source)
    assert attack(name).metrics() or name in ("sampling", "further_membership"), "its rows would say nothing"


def test_costs_are_those_of_what_is_asked():
    assert Disguises.cost == f"{len(DISGUISES)} answers a question"
    assert MultiTurn.cost == f"{1 + len(FOLLOW_UPS)} answers a question"
    assert Merging.cost == f"{len(SHARES)} readings of the likelihoods"
    assert ActivationSteering.cost.endswith(f"{1 + NAMES} readings of its prompt")
    assert Prefixes.cost == f"{len(PREFIXES)} answers a question"
    assert Frames.cost == f"{len(FRAMES)} answers a question"
    assert RelearningAttack.cost.endswith(f"{CHECKS + 1} readings of the likelihoods")


def test_no_two_metrics_have_one_name():
    assert len(audit_metrics(AuditSettings(attacks=("all",)))) > 80
