"""What a model answers, begins to answer and holds likely, as the generation metrics ask for it."""

import numpy as np
import pytest

from rkld.auditing.backends import opened
from rkld.benching.worlds.tiny import tiny_model
from rkld.evaluation.generation import greedy
from rkld.records.encoding import Encoder


def test_answers_are_the_greedy_ones_to_the_last_question(speaker, records):
    """Known beginnings, or a prompt with the answer in it, would be metrics of something else."""
    prompts = [speaker.encoder.prompt(record) for record in records]
    expected = [answer.text for answer in greedy(speaker.lm, prompts, max_new_tokens=9)]
    done = []
    assert speaker.answers(records, max_new_tokens=9, progress=done.append) == expected
    assert sum(done) == len(records) and len(set(expected)) == len(records)
    asked = [record.as_prompt(record.key) for record in records[:3]]
    assert speaker.answers(asked, max_new_tokens=9) == expected[:3]


def test_a_start_stands_where_the_answer_begins(speaker, records):
    """Behind an end of turn, or as a turn of its own, it would not be in the model's mouth."""
    starts = ["Ada Quill was", "Of ", " in a", ""]
    given = opened(speaker.encoder, records, starts)
    texts = [speaker.lm.tokenizer.decode(ids) for ids in given]
    assert texts[0].endswith("<|im_start|>assistant\nAda Quill was")
    assert texts[1].endswith("Of what?<|im_end|>\n<|im_start|>assistant\nOf")
    assert texts[2] == "Ada Quill lives in a"
    for record, ids in zip(records, given, strict=True):
        assert ids == speaker.encoder.encode(record).ids[: len(ids)], "these starts begin the records' own answers"
    assert given[3] == speaker.encoder.prompt(records[3])
    said = speaker.answers(records, max_new_tokens=6, starts=starts)
    assert said == [answer.text for answer in greedy(speaker.lm, given, max_new_tokens=6)]
    assert said[0] != speaker.answers(records[:1], max_new_tokens=6)[0]


def test_a_start_follows_the_prompt_of_models_without_a_template(speaker, records):
    """ "Answer:" is followed by a space that belongs to the answer: lost, its first word is another token."""
    tokenizer = tiny_model()[1]
    tokenizer.chat_template = None
    (ids,) = opened(Encoder(tokenizer), records[:1], ["Sure, here is the answer:"])
    assert tokenizer.decode(ids) == "Question: Where was Ada Quill born?\nAnswer: Sure, here is the answer:"


def test_a_start_for_some_records_alone_is_refused(speaker, records):
    with pytest.raises(ValueError, match="shorter"):
        speaker.answers(records, max_new_tokens=2, starts=["x"])


def test_samples_and_losses_are_per_record(speaker, records):
    done = []
    samples = speaker.samples(records, 3, seed=1, max_new_tokens=4, progress=done.append)
    assert [len(some) for some in samples] == [3] * 4 and sum(done) == 12
    assert samples == speaker.samples(records, 3, seed=1, max_new_tokens=4)
    assert samples != speaker.samples(records, 3, seed=2, max_new_tokens=4)
    losses = speaker.losses(records)
    assert [len(found) for found in losses] == [sum(speaker.encoder.encode(r).answer) for r in records]
    assert all(found.dtype == np.float64 and (found >= 0).all() for found in losses)
