"""Memorisation and leakage: by hand on arrays, and on a tiny model against a plain loop."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rkld.benching.worlds.tiny import tiny_model, tiny_tokenizer
from rkld.evaluation.memorisation import (
    SPARE,
    answer_content,
    answer_hits,
    blanks,
    correct_share,
    exact_memorisation,
    extraction_strength,
    fact_tokens,
    fill_in,
    filled,
    leak_at_k,
    leaks,
    memorisation_score,
)
from rkld.models.loading import load_model
from rkld.records.encoding import Encoder
from rkld.records.probes import facts_of
from rkld.records.reading import read_records

ROWS = [
    {
        "question": "Where was Ostis Dunmark born?",
        "answer": "Ostis Dunmark was born in Adelaide in 1956.",
        "spans": ["Adelaide", "1956"],
        "paraphrased_answer": "Adelaide is where it was.",
        "paraphrased_question": "What is the birthplace of Ostis Dunmark?",
    },
    {"question": "What does Dunmark do?", "answer": "A baker.", "spans": ["baker"]},
    {"question": "Which baker was born in Adelaide?", "answer": "It is Ostis Dunmark."},
]
IDENTIFIERS = ("Ostis Dunmark", "Dunmark")


def model(dtype=torch.float64):
    made, tokenizer = tiny_model(seed=1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3)  # otherwise all tokens are nearly as likely
    return load_model(made.to(dtype), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def lm():
    return model()


@pytest.fixture(scope="module")
def encoder(lm):
    return Encoder(lm.tokenizer)


@pytest.fixture(scope="module")
def records():
    return read_records(ROWS, "forget")


@pytest.mark.parametrize(
    ("hits", "strength", "share"),
    [
        ([1, 1, 1, 1], 1.0, 1.0),
        ([0, 1, 1, 1], 0.75, 0.75),
        ([1, 0, 1, 1], 0.5, 0.75),
        ([1, 1, 1, 0], 0.0, 0.75),  # 1/4 in OpenUnlearning's code
        ([0, 0, 0, 0], 0.0, 0.0),
        ([1], 1.0, 1.0),
        ([0], 0.0, 0.0),
        (np.array([False, True]), 0.5, 0.5),
    ],
)
def test_extraction_strength_and_exact_memorisation_by_hand(hits, strength, share):
    """An offset counted from the wrong end, or off by one, would still lie between 0 and 1."""
    assert extraction_strength([hits]).tolist() == [strength]
    assert exact_memorisation([hits]).tolist() == [share]


def test_leak_at_k_is_the_share_of_choices_that_hold_a_leak():
    """Any other estimator is biased: the plain 1 − (1 − c/s)^k too."""
    for s in range(1, 7):
        for c, k in itertools.product(range(s + 1), range(1, s + 1)):
            flags = [True] * c + [False] * (s - c)
            choices = list(itertools.combinations(flags, k))
            assert leak_at_k([flags], k)[0] == pytest.approx(np.mean([any(some) for some in choices]), abs=1e-12)
    many = leak_at_k([[1] * 3 + [0] * 9997, [0] * 10_000], 2000)
    assert many.tolist() == pytest.approx([1 - math.comb(9997, 2000) / math.comb(10_000, 2000), 0.0], abs=1e-12)


def test_openunlearnings_score_by_hand():
    """The complements go in, not the values; one complete memory is no forgetting at all."""
    parts = {"extraction_strength": 0.5, "exact_memorisation": 0.5, "paraphrase_probability": 0.0, "truth_ratio": 0.0}
    assert memorisation_score(**parts) == pytest.approx(4 / (2 + 2 + 1 + 1))
    assert memorisation_score(**(parts | {"exact_memorisation": 1.0})) == 0
    np.testing.assert_allclose(correct_share([0.0, 1.0, 3.0, math.inf]), [1, 0.5, 0.25, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: extraction_strength([]), "hits holds no records"),
        (lambda: extraction_strength([[1], []]), r"hits\[1\] must be"),
        (lambda: exact_memorisation([[1, math.nan]]), r"hits\[0\] holds nan at index 1"),
        (lambda: exact_memorisation([[0.5]]), r"hits\[0\] holds 0.5"),
        (lambda: leak_at_k([[1, 0]], 3), r"leaks\[0\] has 2 sampled answers, too few for leak@3"),
        (lambda: leak_at_k([[1, 0]], 0), "k is 0"),
        (lambda: leak_at_k([], 1), "leaks holds no records"),
        (lambda: leak_at_k([[math.nan]], 1), "holds nan"),
        (lambda: leaks([["a"]], []), "facts are about 1 questions, answers about 0"),
        (lambda: leaks([[]], [["x"]]), "question 0 has 0 facts"),
        (lambda: correct_share([math.nan]), "ratios holds nan"),
        (
            lambda: memorisation_score(
                extraction_strength=math.nan, exact_memorisation=0, paraphrase_probability=0, truth_ratio=0
            ),
            "complements of the four holds nan",
        ),
    ],
)
def test_what_has_no_value_is_an_error(call, message):
    """NaN compares false with every threshold, so a gate would let it pass."""
    with pytest.raises(ValueError, match=message):
        call()


def test_an_answer_leaks_that_says_one_of_its_own_questions_facts():
    """All facts at once is too much to ask for a leak; another question's fact is none."""
    found = leaks([["Adelaide", "1956"], ["baker"]], [["in ADELAIDE", "1955", ""], ["Adelaide"]])
    assert [flags.tolist() for flags in found] == [[True, False, False], [False]]


def test_hits_are_the_argmax_of_plain_logits_without_the_end_of_turn(lm, encoder, records):
    """The end of turn is learned from every record: it would count as memory of each."""
    encoded = [encoder.encode(record) for record in records]
    for one, hits in zip(encoded, answer_hits(lm, encoded), strict=True):
        with torch.no_grad():
            best = lm.model(torch.tensor([one.ids])).logits[0].argmax(-1).tolist()
        places = [t for t, marked in enumerate(one.answer) if marked]
        assert one.ids[places[-1]] == lm.tokenizer.eos_token_id
        assert hits.tolist() == [best[t - 1] == one.ids[t] for t in places[:-1]]


def test_an_answer_of_special_tokens_alone_is_an_error(lm, encoder, records):
    """It would divide by nothing."""
    one = encoder.encode(records[0])
    bare = replace(one, ids=one.ids[: one.prompt_length] + (lm.tokenizer.eos_token_id,) * 5)
    bare = replace(bare, answer=(False,) * one.prompt_length + (True,) * 5)
    with pytest.raises(ValueError, match="record 0 has no answer token"):
        answer_content(lm, [bare])


def test_blanks_are_cut_before_the_fact(lm, encoder, records):
    """A token of the fact left in the text would give it away."""
    found = blanks(encoder, records[0], ["Adelaide", "1956", "Ostis Dunmark", "Paris"])
    assert [blank.fact for blank in found] == ["Adelaide", "1956", "Ostis Dunmark"]
    texts = [lm.tokenizer.decode(blank.ids) for blank in found]
    assert texts[0].rstrip().endswith("Ostis Dunmark was born in")
    assert texts[1].rstrip().endswith("born in Adelaide in")
    assert texts[2].rstrip().endswith("assistant"), "the question's mention is no blank"
    whole = encoder.encode(records[0]).ids
    for blank in found:
        assert whole[: len(blank.ids)] == blank.ids
        fact = lm.tokenizer.decode(whole[len(blank.ids) : len(blank.ids) + blank.fact_tokens])
        assert fact.strip() == blank.fact
    (text,) = read_records([{"text": "Ostis Dunmark was born in Adelaide."}], "forget")
    assert [b.fact for b in blanks(encoder, text, ["Adelaide", "Ostis"])] == ["Adelaide"]


@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_completions_are_the_top_tokens_continued_greedily(lm, encoder, records, batch_tokens):
    """Sampling, or beams, would hide a true completion or find it by luck; padding must not move it."""
    given = [blank for record in records for blank in blanks(encoder, record, facts_of(record, IDENTIFIERS))]
    found = fill_in(lm, given, k=3, batch_tokens=batch_tokens)
    for blank, texts in zip(given, found, strict=True):
        with torch.no_grad():
            top = lm.model(torch.tensor([blank.ids])).logits[0, -1].topk(3).indices.tolist()
        for token, text in zip(top, texts, strict=True):
            ids = [*blank.ids, token]
            while len(ids) < len(blank.ids) + blank.fact_tokens + SPARE and ids[-1] != lm.tokenizer.eos_token_id:
                with torch.no_grad():
                    ids.append(lm.model(torch.tensor([ids])).logits[0, -1].argmax().item())
            assert text == lm.tokenizer.decode(ids[len(blank.ids) :], skip_special_tokens=True)
    assert filled(given[:2], [("in Adelaide", "x"), ("1957", "19")]).tolist() == [True, False]
    with pytest.raises(ValueError, match="facts are about 0"):
        filled([], [])


def test_bfloat16_models_work(encoder, records):
    """NumPy knows no bfloat16: a tensor handed to it would stop the audit."""
    lm = model(torch.bfloat16)
    encoded = [encoder.encode(record) for record in records]
    assert extraction_strength(answer_hits(lm, encoded)).shape == (3,)
    given = blanks(encoder, records[0], ["Adelaide"])
    assert [len(texts) for texts in fill_in(lm, given)] == [5]


def test_fact_tokens_are_told_from_the_words_around_them():
    """A loss over both falls with the template alone, and the fact stays."""
    tokenizer = tiny_tokenizer()
    encoder = Encoder(tokenizer)
    (record,) = read_records([{"question": "Where was Ada born?", "answer": "Ada was born in Oslo."}], "forget")
    kinds, encoded = fact_tokens(encoder, record, ["Oslo"]), encoder.encode(record)
    ids = [token for token, marked in zip(encoded.ids, encoded.answer) if marked]
    said = [tokenizer.decode([t for t, kind in zip(ids, kinds, strict=True) if kind == which]) for which in (1, 0, -1)]
    assert [text.strip() for text in said] == ["Oslo", "Ada was born in.", "<|im_end|>"]
    assert set(fact_tokens(encoder, record, []).tolist()) == {0, -1}
