"""The student's own answers, drawn anew at each epoch: what they replace, and what a resumed run reads."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from rkld.errors import UserError
from rkld.evaluation.generation import greedy
from rkld.evaluation.rouge import rouge_l_recall
from rkld.losses.objective import OWN, Objective
from rkld.methods.method import OwnAnswers
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from rkld.records.replay import ANSWER_TOKENS
from rkld.training.own_answers import FOLDER, DrawOwnAnswers
from tests.helpers import model, strengthen_noisily

ROWS = [{"question": f"Where does {n} live?", "answer": f"{n} lives in Oslo."} for n in ("Ada", "Bo", "Cy")]


def drawing(folder, how, lm=None):
    lm = lm or model()
    encoder = Encoder(lm.tokenizer)
    own = [encoder.encode(record, "answer") for record in read_records(ROWS, "forget")]
    return DrawOwnAnswers(lm, encoder, Objective({"forget" + OWN: own}, []), how, folder, seed=3)


def epoch(draws, number, world_size=1):
    draws.on_epoch_begin(SimpleNamespace(world_size=world_size), SimpleNamespace(epoch=float(number)), None)
    return [json.loads(line)["answer"] for line in (draws.folder / f"{number}.jsonl").read_text().splitlines()]


def test_answers_take_the_place_of_the_records_under_their_keys(tmp_path):
    """Each epoch's of the student as it is then: the same draw twice would unlearn what is no longer believed."""
    draws = drawing(tmp_path, OwnAnswers())
    keys = [e.key for e in draws.objective.sets["forget_own"]]
    first = epoch(draws, 0)
    found = draws.objective.sets["forget_own"]
    assert [e.key for e in found] == keys
    assert [e.record.answer for e in found] == [a or r["answer"] for a, r in zip(first, ROWS)]
    assert all(any(e.answer) for e in found)
    strengthen_noisily(draws.lm)
    assert epoch(draws, 1) != first


def test_a_resumed_training_reads_what_was_drawn(tmp_path):
    """In the middle of an epoch the weights are others: drawn again, the answers would be others, too."""
    first = epoch(drawing(tmp_path, OwnAnswers()), 0)
    other = model()
    strengthen_noisily(other)
    draws = drawing(tmp_path, OwnAnswers(), other)
    assert epoch(draws, 0) == first
    assert (tmp_path / FOLDER / "0.jsonl").exists()


def test_the_answer_least_like_the_originals_is_taken_and_kept(tmp_path):
    """PMC: of three, and of what was taken before, that which recalls least of the original's greedy one."""
    draws = drawing(tmp_path, OwnAnswers(samples=3, unlike=True))
    prompts = [draws.encoder.prompt(record) for record in draws.questions]
    original = [said.text.strip() for said in greedy(draws.lm, prompts, max_new_tokens=ANSWER_TOKENS)]
    taken = epoch(draws, 0)
    before = [rouge_l_recall(text, first) for text, first in zip(taken, original)]
    strengthen_noisily(draws.lm)
    after = [rouge_l_recall(text, first) for text, first in zip(epoch(draws, 1), original)]
    assert all(b <= a for a, b in zip(before, after))
    rows = [json.loads(line) for line in (draws.folder / "1.jsonl").read_text().splitlines()]
    assert [row["first"] for row in rows] == original
    assert DrawOwnAnswers._taken("a b", ["a b", "a c", "c d"], None)["answer"] == "c d"
    kept = {"answer": "kept", "score": 0.2, "first": "a b"}
    assert DrawOwnAnswers._taken("a b", ["a b", "a c"], kept) == kept


def test_several_processes_are_refused(tmp_path):
    with pytest.raises(UserError, match="train with one"):
        epoch(drawing(tmp_path, OwnAnswers()), 0, world_size=2)
