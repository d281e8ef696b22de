"""Both checkpoints: the formula in plain torch, and decoding by two models step by step."""

import math

import pytest
import torch

from rkld.auditing.attacks.both_checkpoints import LIKELY, guided, together
from rkld.evaluation.generation import greedy
from tests.helpers import model


def plain(before, after):
    """Row by row: 2·l_before − l_after over the tokens whose probability is a tenth of the largest at least."""
    found = []
    for b, a in zip(before.flatten(0, -2), after.flatten(0, -2), strict=True):
        p = b.softmax(-1)
        found.append(max((2 * float(b[t] - a[t] / 2), -t) for t in range(len(b)) if p[t] >= 0.1 * p.max())[1] * -1)
    return torch.tensor(found).view(before.shape[:-1])


@pytest.mark.parametrize("shape", [(1, 7), (3, 41), (2, 5, 13)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_token_is_that_of_the_formula(shape, dtype):
    g = torch.Generator().manual_seed(sum(shape))
    before, after = (3 * torch.randn(shape, generator=g, dtype=dtype) for _ in range(2))
    found = guided(before, after)
    assert found.dtype == dtype
    assert torch.isfinite(found).all()
    assert torch.equal(found.argmax(-1), plain(before, after))


def test_by_hand():
    """The last token has the largest difference, and is not likely enough to be considered."""
    before = torch.tensor([2.0, 1.0, 2.0 + math.log(LIKELY) - 0.01])
    after = torch.tensor([2.0, -1.0, -50.0])
    found = guided(before, after)
    assert found[:2].tolist() == [2.0, 3.0]
    assert found.argmax() == 1
    assert guided(before, before).argmax() == 0, "the original with itself answers as it does"


def test_two_models_decode_as_their_logits_say():
    before, after = model(seed=0), model(seed=1)
    both, prompt, said = together(before, after), [5, 300, 41], []
    with torch.no_grad():
        for _ in range(6):
            ids = torch.tensor([prompt + said])
            logits = [lm.model(input_ids=ids).logits[0, -1:] for lm in (before, after)]
            said.append(int(plain(*logits)))
            if said[-1] == 2:
                break
    assert list(greedy(both, [prompt], max_new_tokens=len(said))[0].ids) == said
