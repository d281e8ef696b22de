"""Merging with the original: the weights between by plain torch, and both models put back bit by bit."""

import pytest
import torch

from rkld.auditing.attacks.merging import SHARES, Merging, merged
from rkld.errors import UserError
from rkld.evaluation.metric import Measured
from rkld.models.state import fingerprint
from tests.helpers import model


def logits(lm):
    with torch.no_grad():
        return lm.model(input_ids=torch.tensor([[5, 9, 300, 41, 7]])).logits


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_weights_lie_between(dtype, share):
    ours, theirs = model(dtype=dtype, seed=0), model(dtype=dtype, seed=1)
    before = [fingerprint(lm) for lm in (ours, theirs)]
    pairs = zip(ours.model.parameters(), theirs.model.parameters(), strict=True)
    expected = [((1 - share) * a.double() + share * b.double()).to(dtype) for a, b in pairs]
    with pytest.raises(KeyError), merged(ours, theirs, share):
        for found, wanted in zip(ours.model.parameters(), expected, strict=True):
            torch.testing.assert_close(found, wanted)
        raise KeyError
    assert [fingerprint(lm) for lm in (ours, theirs)] == before


def test_adapters_of_either_are_merged_meanwhile():
    """Halfway to itself is itself; all the way to the other is the other."""
    ours, theirs = model(lora=True, seed=0), model(lora=True, seed=1)
    said, wanted, before = logits(ours), logits(theirs), [fingerprint(lm) for lm in (ours, theirs)]
    with merged(ours, theirs, 0.0):
        torch.testing.assert_close(logits(ours), said)
    with merged(ours, theirs, 1.0):
        torch.testing.assert_close(logits(ours), wanted)
    assert torch.equal(logits(ours), said)
    assert [fingerprint(lm) for lm in (ours, theirs)] == before


def test_another_architecture_is_refused_and_nothing_changed():
    ours = model(tied=True)
    before = fingerprint(ours)
    with pytest.raises(UserError, match="another model"), merged(ours, model(tied=False), 0.5):
        pass
    assert fingerprint(ours) == before


def test_how_much_brings_half_back_by_hand():
    """The original has 1, so half is .5: between λ = .1 (.4) and .2 (.6). One that never comes back has no value."""
    rises = [0.0, 0.2, 0.4, 0.6, *[1.0] * (len(SHARES) - 4)]
    readings = {
        "audited": {"merging": {"shares": list(SHARES), "probabilities": {"a": rises, "b": rises}}},
        "control": {"merging": {"shares": list(SHARES), "probabilities": {"a": [0.1] * 10, "b": [0.1] * 10}}},
        "original": {"likelihood": {"a": {"loss": 0.0}, "b": {"loss": 0.0}}},
    }
    little, share = Merging("merging").metrics()
    measured = Measured(readings)
    assert share.figures(measured)["audited"]["value"] == pytest.approx(0.15)
    assert share.figures(measured)["control"]["value"] is None
    assert little.figures(measured)["audited"].value == pytest.approx(0.6)
