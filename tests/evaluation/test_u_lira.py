"""U-LiRA: by hand, on Gaussians whose answer is known, and with shadow models that learn and unlearn for real."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from transformers import LlamaConfig, LlamaForCausalLM

from rkld.benching.worlds.people import FIRST_NAMES, LAST_NAMES
from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.evaluation.likelihood import answer_losses
from rkld.evaluation.membership import auc, likelihood_ratio_scores, scaled_confidences
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records


def test_confidences_are_the_logit_of_the_geometric_mean():
    losses = [[0.5, 1.5], [2.0], [0.0]]
    p = [math.exp(-1), math.exp(-2)]
    assert scaled_confidences(losses)[:2] == pytest.approx([math.log(x / (1 - x)) for x in p])
    assert scaled_confidences(losses)[2] == pytest.approx(-math.log(1e-9)), "a loss of 0 is no infinity"
    assert np.isfinite(scaled_confidences([[5000.0]])).all()


def test_scores_are_the_log_likelihoods_of_two_gaussians():
    """Few shadow models: means by record, a variance for each kind. Written once more with scipy."""
    shadows = np.array([[1.0, 5.0], [2.0, 6.0], [4.0, 1.0], [6.0, 2.0]])
    learned = np.array([[False, True], [False, True], [True, False], [True, False]])
    found = likelihood_ratio_scores([1.5, 5.5], shadows, learned)
    never, once = math.sqrt((0.5 + 0.5) / 2), math.sqrt((2.0 + 0.5) / 2)
    expected = [
        norm.logpdf(1.5, 1.5, never) - norm.logpdf(1.5, 5.0, once),
        norm.logpdf(5.5, 1.5, never) - norm.logpdf(5.5, 5.5, once),
    ]
    assert found == pytest.approx(expected)
    assert found[0] > 0 > found[1], "lower for the member"


def test_with_many_shadow_models_each_record_has_its_own_variance():
    rng = np.random.default_rng(0)
    spread = np.array([0.1, 10.0])
    learned = np.repeat([[True], [False]], 200, axis=0) & np.ones((400, 2), dtype=bool)
    shadows = rng.normal(0, 1, (400, 2)) * spread + np.where(learned, 1.0, 0.0)
    found = likelihood_ratio_scores([1.0, 1.0], shadows, learned)
    assert found[0] == pytest.approx(-50, rel=0.3), "half of (1 / 0.1)²"
    assert abs(found[1]) < 0.5


def test_it_tells_what_one_threshold_for_all_records_cannot():
    """Records differ more from each other than by being learned: a population attack sees nothing."""
    rng = np.random.default_rng(1)
    n, s = 200, 32
    level = rng.normal(0, 10, n)
    learned = rng.permuted(np.repeat([[True], [False]], s // 2, axis=0) & np.ones((s, n), dtype=bool), axis=0)
    shadows = level + rng.normal(0, 0.2, (s, n)) + learned
    member = np.arange(n) % 2 == 0
    ours = level + rng.normal(0, 0.2, n) + member
    scores = likelihood_ratio_scores(ours, shadows, learned)
    assert auc(scores[member], scores[~member]) > 0.97
    assert abs(auc(-ours[member], -ours[~member]) - 0.5) < 0.15


@pytest.mark.parametrize(
    ("shadows", "learned"),
    [
        ([[1.0], [2.0], [3.0]], [[True], [True], [False]]),
        ([[1.0, 2.0]] * 4, [[True]] * 4),
        ([[math.nan]] * 4, [[True], [True], [False], [False]]),
    ],
)
def test_too_few_shadow_models_are_refused(shadows, learned):
    with pytest.raises(ValueError):
        likelihood_ratio_scores([0.0], shadows, learned)


# With shadow models


TOKENIZER = tiny_tokenizer()
RECORDS = [
    {"question": f"Where was {FIRST_NAMES[i]} {LAST_NAMES[i]} born?", "answer": f"In 19{40 + i}, by the river {7 * i}."}
    for i in range(8)
]


def trained(encoded, seed: int, steps: int) -> LanguageModel:
    """A model that has learned these records by heart."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=0,
        eos_token_id=2,
    )
    lm = LanguageModel(LlamaForCausalLM(config), TOKENIZER, "shadow")
    descend(lm, encoded, steps, sign=1, lr=5e-3)
    return lm


def descend(lm: LanguageModel, encoded, steps: int, sign: int, lr: float) -> None:
    """Adam on the mean answer loss of all records at once, up or down."""
    optimizer = torch.optim.Adam(lm.model.parameters(), lr=lr)
    width = max(len(e.ids) for e in encoded)
    ids = torch.tensor([[*e.ids, *[0] * (width - len(e.ids))] for e in encoded])
    labels = torch.tensor(
        [[t if a else -100 for t, a in zip(e.ids, e.answer)] + [-100] * (width - len(e.ids)) for e in encoded]
    )
    for _ in range(steps):
        loss = sign * lm.model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.slow
def test_shadow_models_find_what_an_unlearning_left_and_nothing_after_retraining():
    """Half of the records are learned and pushed away a little; of a model that never had them nothing is found."""
    encoder = Encoder(TOKENIZER)
    encoded = [encoder.encode(record) for record in read_records(RECORDS, "people")]
    kept = [
        encoder.encode(record) for record in read_records([{"question": "What is it?", "answer": "A sea."}], "kept")
    ]
    rng = np.random.default_rng(0)

    def confidences(lm: LanguageModel) -> np.ndarray:
        return scaled_confidences(answer_losses(lm, encoded))

    def unlearned(chosen, seed: int) -> LanguageModel:
        some = [e for e, had in zip(encoded, chosen, strict=True) if had]
        lm = trained([*some, *kept], seed, 60)
        descend(lm, some, 4, sign=-1, lr=2e-3)
        return lm

    halves = [rng.permutation(8) < 4 for _ in range(8)]
    learned = np.array([chosen for half in halves for chosen in (half, ~half)])
    shadows = np.array([confidences(unlearned(chosen, seed)) for seed, chosen in enumerate(learned)])
    member = rng.permutation(8) < 4
    left = likelihood_ratio_scores(confidences(unlearned(member, 100)), shadows, learned)
    assert auc(left[member], left[~member]) > 0.9
    never = likelihood_ratio_scores(confidences(trained(kept, 101, 60)), shadows, learned)
    assert (never > 0).mean() > 0.7, "it looks like the models that never had them"
