"""An answer token by token is the one that is made at once."""

from contextlib import nullcontext

import pytest
import torch

from rkld.evaluation.generation import greedy
from rkld.evaluation.sampling import draw, sample
from rkld.evaluation.streaming import AnswerStream, next_token_probabilities
from tests.helpers import model

PROMPT = [5, 6, 7, 8]


def streamed(stream: AnswerStream) -> AnswerStream:
    while not stream.done:
        stream.step()
    return stream


@pytest.mark.parametrize("lora", [False, True])
def test_a_streamed_answer_is_the_one_that_is_made_at_once(lora):
    lm = model(lora=lora)
    (at_once,) = greedy(lm, [PROMPT], max_new_tokens=12)
    found = streamed(AnswerStream(lm, PROMPT, max_new_tokens=12))
    assert (tuple(found.new), found.text, found.finished) == (at_once.ids, at_once.text, at_once.finished)
    ((drawn,),) = sample(lm, [PROMPT], 1, seed=3, temperature=1.3, top_p=0.9, max_new_tokens=12)
    assert tuple(streamed(AnswerStream(lm, PROMPT, temperature=1.3, top_p=0.9, seed=3, max_new_tokens=12)).new) == (
        drawn.ids
    )


def test_two_streams_of_one_model_do_not_disturb_each_other():
    """The compare page asks one base in turn with its adapter on and off."""
    lm = model(lora=True)
    alone = []
    for off in (lm.model.disable_adapter, nullcontext):
        with off():
            alone.append(streamed(AnswerStream(lm, PROMPT, max_new_tokens=8)).new)
    assert alone[0] != alone[1]
    streams = [AnswerStream(lm, PROMPT, max_new_tokens=8) for _ in range(2)]
    while not all(stream.done for stream in streams):
        for stream, off in zip(streams, (lm.model.disable_adapter, nullcontext)):
            if not stream.done:
                with off():
                    stream.step()
    assert [stream.new for stream in streams] == alone


def test_the_probabilities_are_those_that_are_drawn_from():
    lm = model()
    found = next_token_probabilities(lm, PROMPT)
    assert found.sum() == pytest.approx(1)
    assert int(found.argmax()) == greedy(lm, [PROMPT], max_new_tokens=1)[0].ids[0]


def test_top_p_leaves_the_fewest_tokens_that_make_up_the_share():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    chance = torch.linspace(0, 0.999, 200, dtype=torch.float64)
    row = torch.zeros(200, dtype=torch.int64)
    for top_p, left in ((1.0, 4), (0.9, 3), (0.8, 2), (0.5, 1), (0.01, 1)):
        assert draw(logits, row, chance, 1.0, top_p).unique().tolist() == list(range(left))
