"""Every registered attack, in one audit on a tiny model beside a control and the original."""

from __future__ import annotations

import re

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
from rkld.auditing.metrics import audit_metrics
from rkld.auditing.registry import ATTACKS
from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.evaluation.frames import FRAMES
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.models.state import fingerprint
from rkld.settings.auditing import AuditSettings

WORLD = people(n=4, seed=0)
FORGET = [*WORLD.forget([0])[:3], *WORLD.forget([1])[:3]]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("audited", "control", "original")):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tiny_tokenizer()), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=256, tie_word_embeddings=True, initializer_range=0.3,
            pad_token_id=0, eos_token_id=2,
        )  # fmt: skip
        save_model(load_model(LlamaForCausalLM(config), tokenizer=tiny_tokenizer()), folder / name)
    return folder


def test_every_attack_runs_by_its_name_beside_a_control(models, tmp_path):
    """What is in the registry and in the documentation's table must work, and leave the model as it was."""
    before = {name: fingerprint(load_model(models / name)) for name in ("audited", "original")}
    found = rkld.audit(
        models / "audited", FORGET, original=models / "original", control=models / "control", attacks="all",
        retain=WORLD.forget([2])[:4], samples=2, k=2, top=2, max_new_tokens=3, relearn_epochs=1, out=str(tmp_path),
    ).document  # fmt: skip
    assert not {entry["name"] for entry in found["not_run"]} & set(ATTACKS.names())
    readings = {name: attack(name) for name, attack in ATTACKS.items()}
    for name, attack in readings.items():
        for metric in attack.metrics():
            if attack.name.endswith(("bit", "g32", "rows")) and "_base_" in metric.name:
                continue  # of an adapter alone
            roles = set(found["metrics"][metric.name]["figures"])
            assert roles >= {"audited", "control"}, (name, metric.name)
    judged = {gate["name"] for gate in found["gates"] if gate["state"] != "not measured"}
    assert {"capitals_facts_said", "primed_facts_said", "multi_turn_facts_said", "3bit_facts_said"} <= judged
    assert {name: fingerprint(load_model(models / name)) for name in before} == before


def test_what_was_not_asked_for_has_no_gate(models, tmp_path):
    """A page would list a score of attacks that nobody ran."""
    found = rkld.audit(models / "control", FORGET[:2], attacks="none", max_new_tokens=2, out=str(tmp_path)).document
    assert not {gate["name"] for gate in found["gates"]} & {"capitals_facts_said", "primed_facts_said"}


@pytest.mark.parametrize("name", ATTACKS.names())
def test_every_attack_says_what_it_is_needs_and_costs(name):
    attack = ATTACKS.get(name)
    for said in (attack.title, attack.needs, attack.cost, attack.source):
        assert said.strip(), name
    assert re.search(r"arXiv \d{4}\.\d{5}|of rkld", attack.source)
    assert attack(name).metrics() or name == "sampling", "its rows would say nothing"


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
