"""Relearning: its draw and its effort by hand; on a tiny model what is trained, measured and put back."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rkld.auditing.attacks import relearning
from rkld.auditing.attacks.relearning import CHECKS, Relearned, draw, effort, relearn
from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.errors import UserError
from rkld.evaluation.likelihood import probability
from rkld.models.adapters import new_adapter
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.models.state import fingerprint
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records

TOKENIZER = tiny_tokenizer()
TOWNS = ("Oslo", "Turin", "Lagos", "Perth", "Quito", "Delhi", "Miami", "Cairo")
ROWS = [
    {"question": f"Where did {name} live in 19{10 + i}?", "answer": f"{name} lived in {town}.", "subject": name}
    for name in ("Anna Berg", "Carl Dahl")
    for i, town in enumerate(TOWNS)
]
RECORDS = read_records(ROWS, "forget")


def model(dtype=torch.float32, lora=False) -> LanguageModel:
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=True, eos_token_id=TOKENIZER.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(1)
    lm = load_model(LlamaForCausalLM(config).to(dtype), tokenizer=TOKENIZER)
    return new_adapter(lm, rank=4) if lora else lm


def attack(lm, records=RECORDS, **settings) -> Relearned:
    return relearn(lm, Encoder(lm.tokenizer), records, **{"epochs": 3, "batch_size": 2, **settings})


@pytest.mark.parametrize(
    ("level", "expected"),
    [(0.05, 0.0), (0.1, 0.0), (0.2, 1.0), (0.3, 2.0), (0.45, 5.0), (0.5, 6.0), (0.6, None)],
)
def test_effort_by_hand(level, expected):
    """Straight between checks; the first time counts, though the curve falls again; never within the budget: None."""
    found = effort([0, 2, 6, 8], [0.1, 0.3, 0.5, 0.2], level)
    assert found == expected if expected is None else found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("steps", "values"), [([0, 2], [0.1]), ([0, 2, 2], [0.1, 0.2, 0.3]), ([0, 2], [0.1, np.nan]), ([], [])]
)
def test_effort_refuses_what_is_no_curve(steps, values):
    with pytest.raises(ValueError):
        effort(steps, values, 0.5)


@pytest.mark.parametrize(("share", "count"), [(0.2, 4), (0.25, 4), (0.26, 5), (0.01, 1), (0.9, 15)])
def test_draw_takes_the_share_rounded_up_and_from_every_person_alike(share, count):
    found = draw(RECORDS, share, seed=3)
    assert len(set(found)) == count and found == sorted(found)
    second = sum(i >= len(TOWNS) for i in found)
    assert abs(second - (count - second)) <= 1


def test_draw_depends_on_the_seed_and_mixes_each_persons_records():
    """A draw by position would take the same questions of everybody."""
    draws = {tuple(draw(RECORDS, 0.25, seed)) for seed in range(40)}
    assert len(draws) > 30
    assert {i for found in draws for i in found} == set(range(16))
    assert draw(RECORDS, 0.25, 7) == draw(RECORDS, 0.25, 7)


@pytest.mark.parametrize(("n", "share"), [(1, 0.2), (2, 1.0), (4, 0.8), (4, 0.0), (4, -1.0), (0, 0.2)])
def test_nothing_to_train_on_or_nothing_left_is_refused(n, share):
    with pytest.raises(UserError, match="needs both"):
        draw(RECORDS[:n], share)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["full", "adapter", "lora"])
def test_the_share_is_learned_and_the_model_put_back(kind, dtype):
    """All that is trained is put back bit by bit, and the same attack once more finds the same."""
    lm = model(dtype, lora=kind == "adapter")
    before = fingerprint(lm)
    trainable = [name for name, p in lm.model.named_parameters() if p.requires_grad]
    rate = 1e-3 if kind == "full" else 1e-2
    found = attack(lm, lora=kind == "lora", lr=rate)
    assert found.learned[-1] > 1.05 * found.learned[0]
    assert fingerprint(lm) == before
    assert [name for name, p in lm.model.named_parameters() if p.requires_grad] == trainable
    assert {p.dtype for p in lm.model.parameters()} <= {dtype, torch.float32 if kind == "adapter" else dtype}
    assert attack(lm, lora=kind == "lora", lr=rate) == found


def test_bfloat16_weights_are_trained_as_float32_ones_are():
    """Trained as they are, most small steps would be rounded away, and the attack would look harmless."""
    exact = model(torch.bfloat16)
    exact.model.float()
    assert attack(model(torch.bfloat16), lr=2e-5) == attack(exact, lr=2e-5)


def test_what_is_measured_is_the_untouched_rest():
    lm = model()
    found = attack(lm)
    assert len(found.trained) == 4 and len(found.rest) == 12
    assert {*found.trained, *found.rest} == {record.key for record in RECORDS}
    encoder = Encoder(lm.tokenizer)
    rest = [encoder.encode(record) for record in RECORDS if record.key in found.rest]
    assert found.rest == tuple(e.key for e in rest)
    np.testing.assert_allclose(found.probabilities[0], probability(lm, rest), rtol=1e-5)
    assert found.curve[-1] == pytest.approx(np.mean(found.probabilities[-1]))
    assert found.steps == (0, 1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize(("epochs", "steps"), [(5, 10), (6, 12), (11, 22)])
def test_checks_are_few_and_end_with_the_last_step(epochs, steps, monkeypatch):
    """Each reads every record: were there one a step, looking would cost more than training."""
    monkeypatch.setattr(relearning, "probability", lambda lm, encoded: np.full(len(encoded), 0.5))
    found = attack(model(), epochs=epochs)
    assert found.steps[0] == 0 and found.steps[-1] == steps
    assert len(found.steps) == len(found.probabilities) == len(found.learned) <= CHECKS + 1


def test_a_longer_attack_goes_on_where_a_shorter_one_ends():
    """A rate that decays with the budget would make the effort depend on it."""
    short, long = attack(model(), epochs=2), attack(model(), epochs=3)
    shared = [long.steps.index(step) for step in short.steps]
    np.testing.assert_allclose([long.curve[i] for i in shared], short.curve, rtol=1e-5)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_model_is_put_back_where_the_attack_fails(kind, monkeypatch):
    lm = model(torch.bfloat16)
    before = fingerprint(lm)
    seen = []

    def fail(attacked, encoded):
        if seen:
            raise KeyboardInterrupt
        seen.append(None)
        return np.full(len(encoded), 0.5)

    monkeypatch.setattr(relearning, "probability", fail)
    with pytest.raises(KeyboardInterrupt):
        attack(lm, lora=kind == "lora")
    assert fingerprint(lm) == before
    assert all(p.requires_grad and p.grad is None and p.dtype == torch.bfloat16 for p in lm.model.parameters())


def test_records_without_a_subject_count_as_one_persons():
    nameless = [replace(record, subject=None) for record in RECORDS]
    assert len(draw(nameless, 0.2)) == 4
