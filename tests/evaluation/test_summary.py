"""The measurement that is shown before and after unlearning."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rkld.evaluation import answering, readings, summary
from rkld.evaluation.generation import greedy
from rkld.evaluation.likelihood import answer_scores, probability
from rkld.evaluation.summary import Measurement, measure
from rkld.models.language_model import LanguageModel

VOCABULARY = 37
PROMPT = [1, 2, 3]


@pytest.fixture(scope="module")
def lm():
    """A random model whose answers differ from prompt to prompt."""
    words = {"<end>": 0, **{f"w{i}": i for i in range(1, VOCABULARY)}}
    made = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=48,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config).double().eval()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")
    return LanguageModel(model, tokenizer, "test")


class Encoder:
    """Prompt and answer words, one after the other."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def prompts(self, record):
        return (tuple(record.prompt),)

    def encode(self, record):
        answer = self.tokenizer(record.answer).input_ids if record.form != "text" else record.tail
        mask = (False,) * len(record.prompt) + (True,) * len(answer)
        ids = (*record.prompt, *answer)
        return SimpleNamespace(key=record.key, ids=ids, answer=mask, scored=mask, prompt_length=len(record.prompt))


def record(key, prompt, answer, spans=()):
    made = SimpleNamespace(key=key, form="chat", prompt=prompt, before="", answer=answer, spans=tuple(spans))
    made.by_answer = lambda: (made,)
    return made


@pytest.fixture
def whole(monkeypatch):
    """Answers of four tokens are taken to be whole."""
    monkeypatch.setattr(readings, "was_cut", lambda record, answer: False)


def own_answer(lm, prompt):
    return greedy(lm, [prompt], max_new_tokens=4)[0].text


def test_figures_are_means_over_records_and_facts(lm, whole):
    """What a run reports at its end must be what its parts say."""
    own = own_answer(lm, PROMPT)
    first, *_, last = own.split()
    other = next(f"w{i}" for i in range(1, VOCABULARY) if f"w{i}" not in own.split())
    right = record("a", PROMPT, own, [first, last])
    half = record("b", PROMPT, f"{first} {other}", [other])
    encoder = Encoder(lm.tokenizer)
    result = measure(lm, encoder, [right, half], max_new_tokens=4)
    assert (result.n, result.keys, result.answers) == (2, ("a", "b"), (own, own))
    assert result.rouge_l_recalls == (1, 0.5) and result.rouge_l == 0.75
    assert result.facts == ((True, True), (False,)) and result.facts_said == pytest.approx(2 / 3)
    expected = probability(lm, [encoder.encode(right), encoder.encode(half)])
    assert result.probabilities == tuple(expected)
    assert result.values() == {
        "n": 2,
        "probability": pytest.approx(np.mean(expected)),
        "rouge_l": 0.75,
        "facts_said": pytest.approx(2 / 3),
        "facts": 3,
        "facts_unseen": 0,
    }


def test_what_a_cut_answer_might_have_said_is_counted_apart(lm):
    """Left out, the share would be that of the answers that end, which say more; unsaid, it would look forgotten."""
    own = own_answer(lm, PROMPT)
    other = next(f"w{i}" for i in range(1, VOCABULARY) if f"w{i}" not in own.split())
    said, first = record("a", PROMPT, own, [own.split()[0]]), own.split()[0]
    result = measure(
        lm, Encoder(lm.tokenizer), [said, record("b", PROMPT, f"{first} {other}", [other])], max_new_tokens=4
    )
    assert result.cut == (True, True)
    assert result.facts == ((True,), (None,)) and (result.facts_said, result.facts_unseen) == (0.5, 1)
    assert result.rouge_l_recalls == (1, 0.5) and result.tofu_rouge_l_recalls == (1, 0.5)


def test_spans_that_stand_in_the_question_are_not_expected_in_the_answer(lm):
    """Nobody repeats the ticket's phone number: the share before would be too low to fall."""
    own = own_answer(lm, PROMPT)
    result = measure(lm, Encoder(lm.tokenizer), [record("a", PROMPT, own, ["0123"])], max_new_tokens=4)
    assert result.facts == ((),)
    assert result.facts_said is None


def test_texts_are_compared_with_what_follows_their_prefix(lm):
    """Against the whole text, recall could never reach 1; facts of the prefix would count as forgotten."""
    own = own_answer(lm, PROMPT)
    tail = lm.tokenizer(own).input_ids
    text = record("a", PROMPT, "w1 w2 w3 " + own, ["w2", own.split()[0]])
    text.form, text.tail = "text", tail
    result = measure(lm, Encoder(lm.tokenizer), [text], max_new_tokens=4)
    assert result.rouge_l == 1
    assert result.facts == ((True,),)


def test_without_answers_nothing_is_generated(lm, monkeypatch):
    """Probabilities are checked during training, where minutes of generation would not be wanted."""
    monkeypatch.setattr(lm.model, "generate", None)
    result = measure(lm, Encoder(lm.tokenizer), [record("a", PROMPT, "w1 w2", ["w1"])], answers=False)
    assert result.values() == {
        "n": 1, "probability": result.probability, "rouge_l": None, "facts_said": None, "facts": 0,
        "facts_unseen": 0,
    }  # fmt: skip
    assert result.answers is None


def test_scores_that_are_there_are_used(lm, monkeypatch):
    """The right answers would be read again for every metric."""
    encoder = Encoder(lm.tokenizer)
    records = [record("a", PROMPT, own_answer(lm, PROMPT)), record("b", PROMPT, "w1 w2")]
    expected = measure(lm, encoder, records, max_new_tokens=4)
    scores = answer_scores(lm, [encoder.encode(r) for r in records])
    monkeypatch.setattr(summary, "answer_scores", None)
    monkeypatch.setattr(answering, "answer_scores", None)
    assert measure(lm, encoder, records, max_new_tokens=4, scores=scores) == expected


def test_a_measurement_can_be_written_as_json(lm):
    """NumPy's numbers cannot, and the run would fail after all its work."""
    result = measure(lm, Encoder(lm.tokenizer), [record("a", PROMPT, "w1 w2", ["w1"])], max_new_tokens=2)
    written, values = json.loads(json.dumps([dataclasses.asdict(result), result.values()]))
    assert written["probabilities"] == list(result.probabilities)
    assert written["facts"] == [list(result.facts[0])] and values["facts"] == 1


@pytest.mark.parametrize(
    ("otherwise", "said", "facts", "unseen"),
    [
        ({"few": (False,) * 4, "many": (None,) * 9 + (False,) * 31}, 0.0, 40, 9),
        ({"few": (True, False, False, False), "cut": (None, None, False, False)}, 0.0, 4, 2),
        ({"cut": (None, False), "said": (True, False)}, 0.5, 2, 0),
        ({}, None, 0, 0),
    ],
)
def test_the_counts_of_the_worst_kind_are_of_one_kind(otherwise, said, facts, unseen):
    """Those of two kinds said "9 of 4 are unknown"."""
    found = Measurement(("a",), (0.5,), otherwise=otherwise).values()
    assert (found["worst_kind_facts_said"], found["worst_kind_facts"], found["worst_kind_facts_unseen"]) == (
        said, facts, unseen,
    )  # fmt: skip


def test_no_records_is_an_error(lm):
    """The mean of nothing is NaN."""
    with pytest.raises(ValueError, match="no records"):
        measure(lm, Encoder(lm.tokenizer), [])
