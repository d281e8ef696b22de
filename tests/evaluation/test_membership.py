"""Membership inference: scores and AUC by hand, on a tiny model against full logits, and what text alone tells."""

import itertools
import math
import zlib

import numpy as np
import pytest
import torch

from rkld.benching.worlds.tiny import tiny_model
from rkld.evaluation import membership as room
from rkld.evaluation.likelihood import answer_losses
from rkld.evaluation.membership import (
    attack_scores,
    auc,
    auc_figure,
    loss_scores,
    min_k_plus_plus_scores,
    min_k_scores,
    priv_leak,
    privacy_score,
    reference_scores,
    text_auc,
    text_tells,
    vocabulary_scores,
    zlib_scores,
)
from rkld.models.loading import load_model
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records


def model(dtype=torch.float64, seed=1):
    made, tokenizer = tiny_model(seed=seed)
    return load_model(made.to(dtype), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def lm():
    return model()


@pytest.fixture(scope="module")
def records():
    answers = ["A baker.", "In Adelaide, in the house of an aunt, who was a baker too.", "It was in 1956.", "Yes"]
    return read_records([{"question": f"What is it? ({n})", "answer": a} for n, a in enumerate(answers)], "forget")


def test_scores_by_hand():
    """Sorted the wrong way, or with a share rounded up, Min-K% would still be a number."""
    losses = [[1.0, 2.0, 3.0, 4.0, 5.0], [2.0]]
    assert loss_scores(losses).tolist() == [3, 2]
    texts = ["a" * 50, "b"]
    expected = [3 / len(zlib.compress(b"a" * 50)), 2 / len(zlib.compress(b"b"))]
    np.testing.assert_allclose(zlib_scores(losses, texts), expected)
    log_p = [[-1.0, -5.0, -3.0, -2.0, -4.0], [-2.0]]
    assert min_k_scores(log_p).tolist() == [4.5, 2]  # the two least likely of five; one at least
    assert min_k_scores(log_p, k=1).tolist() == [3, 2]
    assert min_k_scores([[-1.0, -2.0, -3.0, -9.0]]).tolist() == [9], "int(1.6) is 1, as published"
    assert reference_scores(losses, [[1.0], [4.0]]).tolist() == [2, -2]


def test_min_k_plus_plus_by_hand():
    """The z-score is taken before the least are chosen; a sure model must not divide by zero."""
    scores = min_k_plus_plus_scores([[-1.0, -4.0, -2.0]], [[-1.0, -3.0, -1.0]], [[1.0, 2.0, 0.25]], k=0.4)
    assert scores.tolist() == [4]  # z = 0, −.5, −4
    assert min_k_plus_plus_scores([[-0.5]], [[0.0]], [[0.0]]).tolist() == [500]


def test_auc_counts_pairs_and_ties_by_half():
    """Ties broken by order would give a model that knows nothing an AUC of 1."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        forget, holdout = rng.integers(0, 4, rng.integers(1, 9)), rng.integers(0, 4, rng.integers(1, 9))
        pairs = [(f < h) + (f == h) / 2 for f, h in itertools.product(forget, holdout)]
        assert auc(forget, holdout) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert auc([1, 1], [1, 1, 1]) == 0.5
    assert auc([1], [2]) == 1 and auc([2], [1]) == 0


def test_priv_leak_by_hand():
    """Its sign says whether too little was forgotten or too much."""
    assert priv_leak(0.5) == 0
    assert priv_leak(1.0) == -100 and priv_leak(0.0) == 100
    assert priv_leak(0.47062499999999996) == pytest.approx(5.8749999988, abs=1e-6)  # a published log's
    assert priv_leak(0.7, 0.6) == pytest.approx(-25)


def test_privacy_score_by_hand():
    """An over-forgotten model is as far from the retrained one as one that remembers; one attack pulls all down."""
    assert privacy_score([0.4, 0.5], [0.4, 0.5]) == 1
    assert privacy_score([0.6, 0.4], [0.5, 0.5]) == pytest.approx(0.8)
    assert privacy_score([0.6, 0.5], [0.5, 0.5]) == pytest.approx(2 / (1 / 0.8 + 1))
    assert privacy_score([0.98, 0.5], [0.4, 0.5]) == 0
    for bad in (([0.5], [0.5, 0.5]), ([0.5], [0.0]), ([math.nan], [0.5]), ([0.5], [1.5]), ([], [])):
        with pytest.raises(ValueError):
            privacy_score(*bad)


def test_auc_intervals_never_claim_certainty():
    """Sets that do not overlap give every bootstrap sample an AUC of 1."""
    figure = auc_figure(np.arange(20), np.arange(20) + 100)
    assert figure.value == figure.high == 1 and 0.8 < figure.low < 0.95 and figure.n == 40
    assert auc_figure(np.arange(20) + 100, np.arange(20)).high == pytest.approx(1 - figure.low)
    middle = auc_figure(np.arange(30), np.arange(30))
    assert middle.value == 0.5 and 0.3 < middle.low < 0.4 and 0.6 < middle.high < 0.7
    rng = np.random.default_rng(0)
    shift = np.repeat(rng.normal(size=5), 10)
    persons = np.repeat(np.arange(5), 10).tolist()
    scores = shift + rng.normal(size=50) / 10, rng.normal(size=50)
    clustered, alone = auc_figure(*scores, persons, None), auc_figure(*scores)
    assert clustered.high - clustered.low > 1.3 * (alone.high - alone.low)


def test_text_alone_that_tells_makes_a_score_uninterpretable():
    """Holdout texts from another year would make any model look guilty."""
    forget = [
        f"the {w} was built in nineteen fifty"
        for w in ["mill", "barn", "house", "pier", "gate", "lodge", "tower", "bridge"]
    ]
    holdout = [
        f"a {w} is planned for next spring"
        for w in ["mill", "barn", "house", "pier", "gate", "lodge", "tower", "bridge"]
    ]
    assert text_auc(forget, holdout).value == 1 and text_tells(text_auc(forget, holdout))
    rng = np.random.default_rng(0)
    vocabulary = [f"w{chr(97 + i)}" for i in range(26)]
    mixed = [" ".join(rng.choice(vocabulary, 12)) for _ in range(60)]
    same = text_auc(mixed[:30], mixed[30:])
    assert not text_tells(same) and same.method.startswith("bag of words")
    assert same == text_auc(mixed[:30], mixed[30:])


def test_a_persons_own_topics_do_not_pass_for_a_shift():
    """Every person's records tell them from all others': no erasure of one person could then be audited."""
    rng = np.random.default_rng(1)
    forget = [f"Ann Lee paints {i} boats" for i in range(12)]
    holdout = [f"person {rng.integers(99)} writes {i} songs" for i in range(12)]
    one = text_auc(forget, holdout, ["Ann Lee"], ["Ann Lee"] * 12, list(range(12)))
    assert one.method.startswith("compressibility")
    persons = [[f"p{i // 4}" for i in range(12)], [f"q{i // 4}" for i in range(12)]]
    topics = ["boats", "songs", "bread", "glass", "tiles", "lamps"]
    own = [[f"works on {topics[int(p[1]) + 3 * side]}" for p in some] for side, some in enumerate(persons)]
    assert text_auc(*own, (), *persons).value < 0.75, "whole persons must be left out"
    assert text_auc(*own).value == 1


def test_a_text_only_score_below_half_is_turned_round():
    """Compressibility tells as much when it is lower for members."""
    short, long = [str(i) * 3 for i in range(9)], ["aaaa bbbb" * 9 + str(i) for i in range(9)]
    people = ["a"] * 9
    assert text_auc(short, long, (), people, people).value == text_auc(long, short, (), people, people).value == 1


def full_logits(lm, encoded):
    """Log-probabilities over the vocabulary at each answer token, (T, V), and the tokens, one record at a time."""
    for record in encoded:
        with torch.no_grad():
            log_p = lm.model(torch.tensor([record.ids])).logits[0].double().log_softmax(-1)
        places = [t for t, marked in enumerate(record.answer) if marked]
        yield log_p[[t - 1 for t in places]].numpy(), [record.ids[t] for t in places]


@pytest.mark.parametrize("batch_tokens", [1, 60, 4096])
def test_vocabulary_scores_are_those_of_full_logits(lm, records, batch_tokens, monkeypatch):
    """Off by one position, or over padding, mean and deviation would look as good as right ones."""
    monkeypatch.setattr(room, "ROWS", 7)
    encoded = [Encoder(lm.tokenizer).encode(record) for record in records]
    found = vocabulary_scores(lm, encoded, batch_tokens=batch_tokens)
    for scores, (log_p, ids) in zip(found, full_logits(lm, encoded), strict=True):
        p = np.exp(log_p)
        mean = (p * log_p).sum(1)
        np.testing.assert_allclose(scores.log_probabilities, log_p[range(len(ids)), ids], rtol=1e-9)
        np.testing.assert_allclose(scores.means, mean, rtol=1e-9)
        np.testing.assert_allclose(scores.deviations, np.sqrt((p * log_p**2).sum(1) - mean**2), rtol=1e-6)


def test_tokens_of_no_probability_do_not_count():
    """Padded vocabularies hold logits of −∞, and 0 · −∞ is NaN."""
    logits = torch.tensor([[0.0, math.log(3), -torch.inf]])
    own, mean, deviation = room._over_vocabulary(logits, torch.tensor([1])).flatten().tolist()
    entropy = 0.25 * math.log(0.25) + 0.75 * math.log(0.75)
    assert (own, mean) == pytest.approx((math.log(0.75), entropy))
    assert deviation == pytest.approx(math.sqrt(0.25 * 0.75) * math.log(3), rel=1e-5)


def test_attacks_are_made_of_the_answers(lm, records):
    """Questions scored along, or the end of turn among the least likely tokens, are other attacks."""
    encoder, reference = Encoder(lm.tokenizer), model(seed=2)
    encoded = [encoder.encode(record) for record in records]
    losses = answer_losses(lm, encoded)
    found = attack_scores(lm, encoder, records, reference=reference)
    np.testing.assert_allclose(found["loss"], [one.mean() for one in losses], rtol=1e-9)
    np.testing.assert_allclose(found["zlib"], zlib_scores(losses, [record.answer for record in records]), rtol=1e-9)
    np.testing.assert_allclose(found["min_k"], min_k_scores([-one[:-1] for one in losses]), rtol=1e-9)
    theirs = answer_losses(reference, encoded)
    np.testing.assert_allclose(found["reference"], reference_scores(losses, theirs), rtol=1e-9)
    assert list(found) == ["loss", "zlib", "min_k", "min_k_plus_plus", "reference"]
    z = [
        (log_p[range(len(ids)), ids] - (np.exp(log_p) * log_p).sum(1))
        / np.sqrt((np.exp(log_p) * log_p**2).sum(1) - (np.exp(log_p) * log_p).sum(1) ** 2)
        for log_p, ids in full_logits(lm, encoded)
    ]
    np.testing.assert_allclose(found["min_k_plus_plus"], min_k_scores([one[:-1] for one in z]), rtol=1e-6)


def test_bfloat16_models_work(records):
    """NumPy knows no bfloat16: a tensor handed to it would stop the audit."""
    lm = model(torch.bfloat16)
    found = attack_scores(lm, Encoder(lm.tokenizer), records)
    assert all(np.isfinite(scores).all() and scores.dtype == np.float64 for scores in found.values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auc([], [1.0]), "forget_scores must be"),
        (lambda: auc([1.0], [math.nan]), "holdout_scores holds nan"),
        (lambda: loss_scores([]), "losses holds no records"),
        (lambda: loss_scores([[1.0], []]), r"losses\[1\] must be"),
        (lambda: min_k_scores([[math.nan]]), r"log_probabilities\[0\] holds nan"),
        (lambda: min_k_scores([[1.0]], k=0), "k is 0"),
        (lambda: min_k_plus_plus_scores([[1.0]], [[1.0]], [[1.0, 1.0]]), "not about the same tokens"),
        (lambda: min_k_plus_plus_scores([[1.0]], [[math.inf]], [[1.0]]), r"means\[0\] holds inf"),
        (lambda: zlib_scores([[1.0]], []), "1 records, texts about 0"),
        (lambda: reference_scores([[1.0]], [[1.0], [1.0]]), "reference_losses about 2"),
        (lambda: priv_leak(math.nan), "AUC holds nan"),
        (lambda: priv_leak(0.5, 1.0), "retrained AUC is 1"),
        (lambda: text_auc([], ["a"]), "the forget set has no texts"),
        (lambda: attack_scores(model(), None, []), "losses holds no records"),
    ],
)
def test_what_has_no_value_is_an_error(call, message):
    """NaN compares false with every threshold, so a gate would let it pass."""
    with pytest.raises(ValueError, match=message):
        call()
