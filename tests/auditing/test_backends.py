"""What a model answers, begins to answer and holds likely, as the generation metrics ask for it."""

import numpy as np
import pytest

from rkld.benching.worlds.tiny import tiny_model
from rkld.evaluation.generation import greedy
from rkld.evaluation.prefilling import generation_prompts
from rkld.records.encoding import Encoder
from tests.helpers import texts


def test_answers_are_the_greedy_ones_to_the_last_question(backend, records):
    """Known beginnings, or a prompt with the answer in it, would be metrics of something else."""
    prompts = [backend.encoder.prompt(record) for record in records]
    expected = [answer.text for answer in greedy(backend.lm, prompts, max_new_tokens=9)]
    done = []
    assert texts(backend.answers(records, max_new_tokens=9, progress=done.append)) == expected
    assert sum(done) == len(records) and len(set(expected)) == len(records)
    asked = [record.as_prompt(record.key) for record in records[:3]]
    assert texts(backend.answers(asked, max_new_tokens=9)) == expected[:3]


def test_a_start_stands_where_the_answer_begins(backend, records):
    """Behind an end of turn, or as a turn of its own, it would not be in the model's mouth."""
    starts = ["Ada Quill was", "Of ", " in a", ""]
    given = generation_prompts(backend.encoder, records, starts)
    begun = [backend.lm.tokenizer.decode(ids) for ids in given]
    assert begun[0].endswith("<|im_start|>assistant\nAda Quill was")
    assert begun[1].endswith("Of what?<|im_end|>\n<|im_start|>assistant\nOf")
    assert begun[2] == "Ada Quill lives in a"
    for record, ids in zip(records, given, strict=True):
        assert ids == backend.encoder.encode(record).ids[: len(ids)], "these starts begin the records' own answers"
    assert given[3] == backend.encoder.prompt(records[3])
    said = texts(backend.answers(records, max_new_tokens=6, prefills=starts))
    assert said == [answer.text for answer in greedy(backend.lm, given, max_new_tokens=6)]
    assert said[:1] != texts(backend.answers(records[:1], max_new_tokens=6))


def test_a_start_follows_the_prompt_of_models_without_a_template(backend, records):
    """ "Answer:" is followed by a space that belongs to the answer: lost, its first word is another token."""
    tokenizer = tiny_model()[1]
    tokenizer.chat_template = None
    (ids,) = generation_prompts(Encoder(tokenizer), records[:1], ["Sure, here is the answer:"])
    assert tokenizer.decode(ids) == "Question: Where was Ada Quill born?\nAnswer: Sure, here is the answer:"


def test_a_start_for_some_records_alone_is_refused(backend, records):
    with pytest.raises(ValueError, match="shorter"):
        backend.answers(records, max_new_tokens=2, prefills=["x"])


def test_samples_and_losses_are_per_record(backend, records):
    done = []
    samples = backend.samples(records, 3, seed=1, max_new_tokens=4, progress=done.append)
    assert [len(some) for some in samples] == [3] * 4 and sum(done) == 12
    assert samples == backend.samples(records, 3, seed=1, max_new_tokens=4)
    assert samples != backend.samples(records, 3, seed=2, max_new_tokens=4)
    losses = backend.losses(records)
    assert [len(found) for found in losses] == [sum(backend.encoder.encode(r).answer) for r in records]
    assert all(found.dtype == np.float64 and (found >= 0).all() for found in losses)
