"""Sampled answers: repeatable, whatever the batch, and from the model's own distribution."""

import math

import numpy as np
import pytest
import torch

from rkld.benching.worlds.tiny import tiny_model
from rkld.errors import UserError
from rkld.evaluation import sampling
from rkld.evaluation.sampling import sample
from rkld.models.loading import load_model


def model(dtype=torch.float64, scale=3.0):
    made, tokenizer = tiny_model(seed=1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(scale)  # otherwise all tokens are nearly as likely
    return load_model(made.to(dtype), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def lm():
    return model()


def test_sampled_answers_do_not_depend_on_the_batch_or_on_each_other(lm):
    """leak@k would change with the machine's memory, and no run could be repeated."""
    prompts = [[5, 6, 7, 8, 9], [10, 11], [12] * 8]
    own = lm.model.generation_config
    expected = sample(lm, prompts, 5, seed=3, max_new_tokens=6)
    for batch_size in (1, 2, 4, 100):
        assert sample(lm, prompts, 5, seed=3, max_new_tokens=6, batch_size=batch_size) == expected
    assert [some[:2] for some in expected] == sample(lm, prompts, 2, seed=3, max_new_tokens=6)
    assert expected[:1] == sample(lm, prompts[:1], 5, seed=3, max_new_tokens=6)
    assert expected != sample(lm, prompts, 5, seed=4, max_new_tokens=6)
    assert len({answer.ids for answer in expected[0]}) > 1
    assert lm.model.generation_config is own


def test_samples_follow_the_models_distribution():
    """A distribution cut at its top, as generation configs ask for, would miss rare leaks."""
    lm = model(scale=1.5)
    lm.model.generation_config.update(top_k=1, temperature=0.1)
    prompt, n = [5, 6, 7], 3000
    (answers,) = sample(lm, [prompt], n, seed=0, max_new_tokens=1, batch_size=500)
    with torch.no_grad():
        p = lm.model(torch.tensor([prompt])).logits[0, -1].softmax(-1).numpy()
    counts = np.bincount([answer.ids[0] for answer in answers], minlength=len(p))
    top = np.argsort(-p)[:20]
    assert p[top].sum() < 0.95, "the model should not be sure of everything"
    np.testing.assert_array_less(np.abs(counts[top] / n - p[top]), 5 * np.sqrt(p[top] / n) + 1e-9)
    cold = sample(lm, [prompt], 20, seed=0, max_new_tokens=1, temperature=1e-4)[0]
    assert {answer.ids for answer in cold} == {(int(p.argmax()),)}


def test_samples_end_where_answers_end(lm):
    """Padding behind the end of turn would be read as an answer."""
    answers = sample(lm, [[3, 4], [5] * 9], 20, seed=1, max_new_tokens=60, temperature=30.0)
    end = lm.tokenizer.eos_token_id
    flat = [answer for some in answers for answer in some]
    assert [answer.finished for answer in flat] == [answer.ids[-1] == end for answer in flat]
    assert any(answer.finished for answer in flat), "otherwise nothing is tested"
    assert all(end not in answer.ids[:-1] for answer in flat)
    for n, temperature in ((0, 1.0), (1, 0.0), (1, math.nan)):
        with pytest.raises(ValueError, match="must be positive"):
            sample(lm, [[3]], n, seed=0, temperature=temperature)


def test_answers_stop_where_the_context_does(lm):
    """Rows with room left must not be cut with those that have none, nor these run past the context."""
    context = lm.context_length
    long, short = [5] * (context - 2), [5, 6]
    both = sample(lm, [long, short], 2, seed=0, max_new_tokens=5, temperature=3.0)
    assert both[1] == sample(lm, [[7], short], 2, seed=0, max_new_tokens=5, temperature=3.0)[1]
    assert all(len(answer.ids) <= 2 for answer in both[0])
    with pytest.raises(UserError, match="Prompt 1 of 1 has no tokens"):
        sample(lm, [[]], 1, seed=0)


def test_bfloat16_models_and_progress_work():
    """NumPy knows no bfloat16; a bar would stop short of the end or run past it."""
    done = []
    lm = model(torch.bfloat16)
    answers = sample(lm, [[5, 6]] * 3, 2, seed=0, max_new_tokens=3, batch_size=4, progress=done.append)
    assert [len(some) for some in answers] == [2, 2, 2] and sum(done) == 6
    assert answers[0] != answers[1], "the same prompt twice is asked twice"


def test_what_cannot_be_gone_on_from_is_drawn_alike(lm, monkeypatch):
    """Recurrent states cannot be taken apart row by row; a model's answers must not depend on which way is taken."""
    prompts = [[5, 6, 7, 8, 9], [10, 11], [12] * 8]
    expected = sample(lm, prompts, 5, seed=3, max_new_tokens=[6, 3, 6])
    monkeypatch.setattr(sampling, "can_go_on", lambda cache: False)
    assert sample(lm, prompts, 5, seed=3, max_new_tokens=[6, 3, 6]) == expected


def test_samples_that_say_the_same_are_read_once(lm, monkeypatch):
    """64 samples of a model that is sure of what it says would else take 64 times as long as one."""
    read = []

    def counted(lm, ids, *rest):
        read.append(len(ids))
        return logits(lm, ids, *rest)

    logits = sampling.next_logits
    monkeypatch.setattr(sampling, "next_logits", counted)
    cold = sample(lm, [[5, 6, 7], [8, 9]], 64, seed=0, temperature=1e-4, max_new_tokens=5)
    assert read == [2] * 5 and all(len({answer.ids for answer in some}) == 1 for some in cold)
