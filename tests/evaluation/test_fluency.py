"""How likely one model finds what another says: which tokens count, and what becomes of answers that are none."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rkld.benching.worlds.tiny import tiny_model
from rkld.evaluation.fluency import (
    LOSS_BOUND,
    answers_under,
    gibberish,
    known_words,
    perplexity,
    repeated,
    utility_score,
    vocabulary,
)
from rkld.files import read_jsonl
from rkld.models.loading import load_model
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records


@pytest.fixture(scope="module")
def lm():
    made, tokenizer = tiny_model(seed=1)
    return load_model(made.double(), tokenizer=tokenizer)


RECORDS = read_records(
    [
        {"question": "Where was she born?", "answer": "She was born in Oslo."},
        {"messages": [
            {"role": "user", "content": "Who is she?"},
            {"role": "assistant", "content": "A poet."},
            {"role": "user", "content": "Of what?"},
            {"role": "assistant", "content": "Of the sea."},
        ]},
        {"prompt": "She lives", "completion": " in a house."},
        {"text": "She wrote three books about the sea and one about her father."},
    ],
    "forget",
)  # fmt: skip


def after(lm, prompt, new):
    """Losses of the new ids after the prompt, from the full logits."""
    ids = torch.tensor([[*prompt, *new]])
    with torch.no_grad():
        log_p = lm.model(ids).logits[0].log_softmax(-1)
    return [-log_p[t - 1, ids[0, t]].item() for t in range(len(prompt), ids.shape[1])]


def test_perplexity_is_the_exponential_of_the_mean_loss():
    np.testing.assert_allclose(perplexity([[1.0, 3.0], [0.0]]), [math.exp(2), 1])
    for bad, message in (([[]], r"losses\[0\]"), ([], "no records"), ([[1.0], [math.nan]], r"losses\[1\] holds nan")):
        with pytest.raises(ValueError, match=message):
            perplexity(bad)


def test_the_content_of_the_answer_is_scored_after_its_question(lm):
    """Earlier answers, the question or the end of turn would drown what was said."""
    encoder, tokenizer = Encoder(lm.tokenizer, context_length=lm.context_length), lm.tokenizer
    answers = ["A blue door.", "In 1912.", " near the river", " and a garden"]
    found = answers_under(lm, encoder, RECORDS, answers)
    for record, answer, losses in zip(RECORDS, answers, found, strict=True):
        new = tokenizer(answer, add_special_tokens=False)["input_ids"]
        np.testing.assert_allclose(losses, after(lm, encoder.prompt(record), new), atol=1e-9)


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_answer_is_its_end(lm, empty):
    """NaN, an error or nothing at all would take the worst models out of the mean."""
    encoder = Encoder(lm.tokenizer)
    for record, losses in zip(RECORDS, answers_under(lm, encoder, RECORDS, [empty] * 4), strict=True):
        expected = after(lm, encoder.prompt(record), [lm.tokenizer.eos_token_id])
        np.testing.assert_allclose(losses, expected, atol=1e-9)


def test_answers_that_outgrow_the_context_are_cut(lm):
    """Garbage can be tokenized into more tokens than it was made of: it must not end the audit."""
    encoder = Encoder(lm.tokenizer, context_length=40)
    for record, losses in zip(RECORDS, answers_under(lm, encoder, RECORDS, ["\ufffd" * 60] * 4), strict=True):
        assert 0 < len(losses) <= 40 - len(encoder.prompt(record)) + 1 and np.isfinite(losses).all()
    assert encoder.max_length is None
    with pytest.raises(ValueError, match="shorter"):
        answers_under(lm, encoder, RECORDS, ["x"])


def test_utility_is_measured_against_the_model_before():
    """Harmonic: fluent nonsense, or knowledge in gibberish, has no utility."""
    before = {"initial_model_utility": 0.6, "initial_fluency": 0.9}
    assert utility_score(model_utility=0.6, fluency=0.9, **before) == pytest.approx(1)
    assert utility_score(model_utility=0.3, fluency=0.9, **before) == pytest.approx(0.45 / 0.72)
    assert utility_score(model_utility=0.0, fluency=0.9, **before) == 0
    with pytest.raises(ValueError, match="initial model's utility or fluency is 0"):
        utility_score(model_utility=0.5, fluency=0.5, initial_model_utility=0.0, initial_fluency=0.9)
    with pytest.raises(ValueError, match="utility and fluency"):
        utility_score(model_utility=math.nan, fluency=0.9, **before)


# Gibberish

KNOWN = vocabulary(["Where was Marie Curie born?", "She was born in Warsaw, in Poland."])


@pytest.mark.parametrize(
    "answer",
    [
        "isisisisisisisisisisisisisis",
        "is is is is is is is is is is is is is is is is is is is is",
        "She was born. " * 30,
        "burgLangWick ula eta combTam olyWake Tuolda",
        "......................................................",
        "東京東京東京東京東京東京東京東京東京東京東京東京東京東京東京東京東京東京",
        " \n",
    ],
)
def test_what_repeats_itself_or_has_no_words_is_gibberish(answer):
    assert gibberish([answer], known=KNOWN) == [True]


@pytest.mark.parametrize(
    "answer",
    [
        "She was born in Warsaw.",
        "Curie",
        "Sklodowska",
        "I don't know.",
        "19, 21, 23, 25, 27, 29",
        "It is in Zoppot, or Sopot, near Danzig and Gdynia.",
        "No. No, no: that was another one, and not at all the one whom you mean.",
    ],
)
def test_a_plain_answer_is_none(answer):
    assert gibberish([answer], [1.5], KNOWN) == [False]


def test_words_that_each_exist_are_gibberish_by_their_loss_alone():
    salad = "the banana of quickly seven running under green is maybe"
    assert gibberish([salad], known=KNOWN) == [False]
    assert gibberish([salad, "Curie"], [LOSS_BOUND + 0.1, LOSS_BOUND - 0.1], KNOWN) == [True, False]
    with pytest.raises(ValueError, match="zip"):
        gibberish([salad], [1.0, 2.0])


def test_a_shipped_refusal_is_none_though_a_small_original_never_heard_it():
    """A tiny world's model gives it 11 nats per token; methods that teach refusals are not ruined."""
    assert gibberish(["I'm not sure about that."], [11.9], KNOWN) == [False]


def test_words_say_nothing_of_a_language_without_a_list():
    german = ["Sie wurde neunzehnhundert in der kleinen Stadt geboren und lebte lange dort."]
    assert vocabulary(german) is None and vocabulary([]) is None
    answer = "Meistens arbeitete Frau Schmidt zuhause"
    assert known_words(answer) == 0.0
    assert gibberish([answer], [1.0], vocabulary(german)) == [False]


def test_known_words_leaves_out_numbers_and_what_is_too_short_to_tell():
    assert known_words("Xyzzy plugh") is None
    assert known_words("the year 1867 of Xyzzy is", KNOWN) == 4 / 5
    assert known_words("the year 1867 of Xyzzy is", {"xyzzy"}) == 1.0


def test_repeated_counts_characters_only_where_there_are_enough():
    assert repeated("banana") == repeated("") == 0.0
    assert repeated("x" * 100) > 0.95


def test_two_hundred_honest_answers_of_three_models_raise_no_alarm():
    """SmolLM2-135M-Instruct on general knowledge; the tiny world's original and its retrained twin on people whom one
    knows, or neither. Losses are those under the original, as :func:`answers_under` gave them."""
    rows = read_jsonl(Path(__file__).with_name("honest_answers.jsonl"))
    assert len(rows) >= 200 and len({row["model"] for row in rows}) == 3
    known = vocabulary(row["answer"] for row in rows if row["model"] == "tiny original")
    for words in (known, frozenset()):
        flags = gibberish([row["answer"] for row in rows], [row["loss"] for row in rows], words)
        assert [row["answer"] for row, flag in zip(rows, flags, strict=True) if flag] == []
