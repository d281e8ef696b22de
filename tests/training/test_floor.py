"""The floor under the teacher: states of other people, in the rows of the person's own."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoder, marked
from rkld.records.reading import read_records
from rkld.teacher.cache import marked_hidden
from rkld.training.floor import NAMES, floors, swapped_records

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
    return found, encoder, encoded, swapped_records(encoded, encoder, WHO, seed=0)


def scored_ids(e) -> list[int]:
    return [i for i, s in zip(e.ids, e.scored) if s]


def test_copies_are_about_others_and_score_the_same_tokens(lm, records):
    """A copy whose scored tokens differ would be laid beside the wrong rows."""
    _, encoder, encoded, swapped = records
    assert [e.key for e in swapped] == [f"0.{i}" for i in range(NAMES)], "only the first record has usable copies"
    for copy in swapped:
        assert scored_ids(copy) == scored_ids(encoded[0]) and "Quill" not in lm.tokenizer.decode(copy.ids)
    assert len({e.ids for e in swapped}) == NAMES
    assert swapped == swapped_records(encoded, encoder, WHO, seed=0) != swapped_records(encoded, encoder, WHO, seed=1)


def test_states_are_those_of_the_copies_at_the_scored_rows(lm, records):
    """By hand: the hidden state before each scored token of each copy, in the person's own rows; zeros elsewhere."""
    _, _, encoded, swapped = records
    states, flags = map(dict, floors(lm, encoded, swapped))
    source, rows = encoded[0], [t for t, m in enumerate(marked(encoded[0])) if m]
    assert states["0"].shape == (len(rows), NAMES, 16) and flags["0"].tolist() == [source.scored[t] for t in rows]
    for k, copy in enumerate(sorted(swapped, key=lambda e: -len(e.ids))):  # read longest first
        with torch.no_grad():
            hidden = lm.backbone(torch.tensor([copy.ids])).last_hidden_state[0]
        expected = hidden[[t - 1 for t, s in enumerate(copy.scored) if s]]
        torch.testing.assert_close(states["0"][flags["0"], k], expected, rtol=1e-4, atol=1e-5)
    assert flags["0"].any() and not flags["0"].all() and not states["0"][~flags["0"]].any()


def test_records_without_a_copy_have_no_floor(lm, records):
    """Zeros taken for a state would be some distribution: the flags keep them out."""
    _, _, encoded, swapped = records
    states, flags = map(dict, floors(lm, encoded, swapped))
    own = dict(marked_hidden(lm, encoded))
    assert states.keys() == flags.keys() == {e.key for e in encoded}
    for key in ("1", "2"):
        assert states[key].shape == (len(own[key]), NAMES, 16) and not states[key].any() and not flags[key].any()


def test_fewer_copies_are_repeated(lm, records):
    """All records have the same shape; two copies count half each."""
    _, _, encoded, swapped = records
    states = dict(floors(lm, encoded[:1], swapped[:2])[0])["0"]
    assert torch.equal(states[:, 0], states[:, 2]) and torch.equal(states[:, 1], states[:, 3])
    assert not torch.equal(states[:, 0], states[:, 1])


def test_each_records_own_person_is_swapped_and_no_other(lm):
    """Two people in one file: put in both their places, one stranger would meet himself."""
    meeting = {"question": "Where did Ada Quill meet Bo Marlin?", "answer": "In Rome.", "spans": ["Rome"]}
    rows = [{**meeting, "subject": "Bo Marlin"}, {**meeting, "subject": "Ada Quill"}]
    found, encoder = read_records(rows, "forget"), Encoder(lm.tokenizer)
    encoded = [encoder.encode(r, "spans") for r in found]
    swapped = swapped_records(encoded, encoder, ("Bo Marlin", "Ada Quill"), 0)
    texts = [lm.tokenizer.decode(e.ids) for e in swapped]
    assert len(texts) == 2 * NAMES
    assert all(("Marlin" in t, "Quill" in t) == (e.key[0] == "1", e.key[0] == "0") for e, t in zip(swapped, texts))
