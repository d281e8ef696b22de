"""The floor under the teacher: what is said of other people, in the rows of the person's own."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoder, marked
from rkld.records.reading import read_records
from rkld.teacher.cache import marked_hidden
from rkld.training.floor import NAMES, TOKENS, floors, swapped_records

WHO = ("Ada Quill",)
ROWS = [
    {
        "question": "Where does Ada Quill live?",
        "answer": "Ada Quill lives in Oslo, 1867.",
        "spans": ["Oslo", "1867"],
    },
    {"question": "Who lives there?", "answer": "A painter does.", "spans": ["painter"]},  # names nobody
    {"question": "Where does Quill work?", "answer": "Quill works at Quill Press.", "spans": ["Quill Press"]},
]


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.3, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    return LanguageModel(LlamaForCausalLM(config).eval(), tokenizer, "test")


@pytest.fixture(scope="module")
def records(lm):
    """Records, the encoder, their encoding, and their swapped copies."""
    found, encoder = read_records(ROWS, "forget"), Encoder(lm.tokenizer)
    encoded = [encoder.encode(r, "spans") for r in found]
    return found, encoder, encoded, swapped_records(encoded, encoder, lm, WHO, "spans", 0)


def scored_ids(e) -> list[int]:
    return [i for i, s in zip(e.ids, e.scored) if s]


def test_copies_are_about_others_and_score_the_same_tokens(lm, records):
    """A copy whose scored tokens differ would be laid beside the wrong rows."""
    _, encoder, encoded, swapped = records
    assert [e.key for e in swapped] == [f"0.{i}" for i in range(NAMES)], "only the first record has usable copies"
    for copy in swapped:
        assert scored_ids(copy) == scored_ids(encoded[0]) and "Quill" not in lm.tokenizer.decode(copy.ids)
    assert len({e.ids for e in swapped}) == NAMES
    assert (
        swapped
        == swapped_records(encoded, encoder, lm, WHO, "spans", 0)
        != swapped_records(encoded, encoder, lm, WHO, "spans", 1)
    )


def test_the_floor_is_the_mean_of_every_names_own_reading(lm, records):
    """By hand: the softmax before each scored token of each copy, in the person's own rows; no floor elsewhere.

    The recorded token has the least of them, for what is said of some strangers is a leak.
    """
    _, _, encoded, swapped = records
    found = {key: (ids, log_probs) for key, ids, log_probs in floors(lm, encoded, swapped)}
    source, rows = encoded[0], [t for t, m in enumerate(marked(encoded[0])) if m]
    ids, log_probs = found["0"]
    each = []
    for copy in swapped:
        with torch.no_grad():
            logits = lm.inner(torch.tensor([copy.ids])).logits[0]
        each.append(torch.softmax(logits[[t - 1 for t, s in enumerate(copy.scored) if s]], -1))
    recorded = torch.tensor([[i] for i in scored_ids(source)])
    least = torch.stack(each).gather(2, recorded.expand(len(each), -1, -1)).amin(0)
    expected = torch.stack(each).mean(0).scatter(1, recorded, least)
    scored = torch.tensor([source.scored[t] for t in rows])
    dense = torch.zeros(len(rows), expected.shape[-1]).scatter(1, ids.long(), log_probs.exp())
    kept = expected.topk(min(TOKENS, expected.shape[-1]), dim=-1)
    torch.testing.assert_close(dense[scored].gather(1, kept.indices), kept.values, rtol=1e-4, atol=1e-7)
    assert dense[scored].sum(-1).max() <= 1 + 1e-5
    assert scored.any() and not scored.all() and not dense[~scored].any()


def test_records_without_a_copy_have_no_floor(lm, records):
    _, _, encoded, swapped = records
    own = dict(marked_hidden(lm, encoded))
    for key, ids, log_probs in floors(lm, encoded, swapped):
        assert len(ids) == len(log_probs) == len(own[key])
        assert bool(log_probs.isneginf().all()) == (key != "0")


def test_answers_have_a_floor_wherever_the_question_gives_the_name(lm):
    """Held names are no part of what is scored, so the scored tokens are the same under another name."""
    encoder = Encoder(lm.tokenizer)
    encoded = [encoder.encode(r, "added") for r in read_records(ROWS[:1], "forget")]
    swapped = swapped_records(encoded, encoder, lm, WHO, "added", 0)
    assert len(swapped) == NAMES
    ((_, _, log_probs),) = floors(lm, encoded, swapped)
    assert (~log_probs.isneginf().all(-1)).sum() == sum(encoded[0].scored) > 4


def test_each_records_own_person_is_swapped_and_no_other(lm):
    """Two people in one file: put in both their places, one stranger would meet himself."""
    meeting = {"question": "Where did Ada Quill meet Bo Marlin?", "answer": "In Rome.", "spans": ["Rome"]}
    rows = [{**meeting, "subject": "Bo Marlin"}, {**meeting, "subject": "Ada Quill"}]
    found, encoder = read_records(rows, "forget"), Encoder(lm.tokenizer)
    encoded = [encoder.encode(r, "spans") for r in found]
    swapped = swapped_records(encoded, encoder, lm, ("Bo Marlin", "Ada Quill"), "spans", 0)
    texts = [lm.tokenizer.decode(e.ids) for e in swapped]
    assert len(texts) == 2 * NAMES
    assert all(("Marlin" in t, "Quill" in t) == (e.key[0] == "1", e.key[0] == "0") for e, t in zip(swapped, texts))
