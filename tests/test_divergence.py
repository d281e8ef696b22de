"""The losses on plain logits: value and closed-form gradient against autograd on the written definition."""

from __future__ import annotations

import pytest
import torch

from rkld.divergence import composite_logits, cross_entropy, forward_kl, reverse_kl, with_floor


def definition_reverse(logits, teacher):
    p = torch.softmax(logits, -1)
    return (p * (torch.log_softmax(logits, -1) - teacher)).sum(-1)


def definition_forward(logits, teacher):
    q = teacher.exp()
    return (q * (teacher - torch.log_softmax(logits, -1))).sum(-1)


@pytest.mark.parametrize("shape", [(1, 2), (3, 7), (41, 401)])
@pytest.mark.parametrize("ours, definition", [(reverse_kl, definition_reverse), (forward_kl, definition_forward)])
def test_values_and_gradients_are_the_definition(ours, definition, shape):
    """A wrong sign, direction or missing normaliser in a divergence shows here."""
    torch.manual_seed(0)
    logits = (3 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    teacher = torch.log_softmax(3 * torch.randn(shape, dtype=torch.float64), -1)
    expected = definition(logits, teacher)
    (gradient,) = torch.autograd.grad(expected.sum(), logits)
    values, found = ours(logits.detach(), teacher)
    torch.testing.assert_close(values, expected.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found, gradient, rtol=0, atol=1e-12)


def test_reverse_kl_expects_under_the_student():
    """On two tokens by hand: student (.5, .5), teacher (.9, .1). The other direction gives .368, not .511."""
    values, _ = reverse_kl(torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[0.9, 0.1]], dtype=torch.float64).log())
    expected = 0.5 * torch.log(torch.tensor(0.5 / 0.9)) + 0.5 * torch.log(torch.tensor(0.5 / 0.1))
    assert values.item() == pytest.approx(expected.item(), abs=1e-6)


def test_cross_entropy_is_torchs():
    torch.manual_seed(0)
    logits = torch.randn(5, 11, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 10, 3, 3, 7])
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    (gradient,) = torch.autograd.grad(expected.sum(), logits)
    values, found = cross_entropy(logits.detach(), labels)
    torch.testing.assert_close(values, expected.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found, gradient, rtol=0, atol=1e-12)


def test_only_tokens_that_rose_are_lowered():
    """By hand: of l_o (1, 2, 3) and l_aug (2, 2, 1), only the first rose, by 1; α = 8 takes 8 from it."""
    teacher = composite_logits(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 2.0, 1.0]]), alpha=8.0)
    assert teacher.tolist() == [[-7.0, 2.0, 3.0]]


def test_a_teacher_without_mass_stays_finite():
    """A token that the teacher rules out (−inf) must not turn the loss into NaN where the student gives it nothing."""
    logits = torch.tensor([[0.0, float("-inf"), 1.0]])
    teacher = torch.log_softmax(torch.tensor([[0.0, float("-inf"), 0.0]]), -1)
    for loss in (reverse_kl, forward_kl):
        values, gradient = loss(logits, teacher)
        assert torch.isfinite(values).all() and torch.isfinite(gradient).all()


def test_the_floor_lifts_only_what_lies_below_it():
    """Above the floor the teacher keeps its ratios; below it takes the uninformed probability; all sums to one."""
    teacher = torch.tensor([[0.7, 0.3 - 1e-9, 1e-9]], dtype=torch.float64).log()
    uninformed = torch.tensor([[0.1, 0.1, 0.8]], dtype=torch.float64).log()
    found = with_floor(teacher, uninformed).exp()
    torch.testing.assert_close(found.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert (found[0, 0] / found[0, 1]).item() == pytest.approx(0.7 / 0.3, rel=1e-6)
    assert (found[0, 2] / found[0, 0]).item() == pytest.approx(0.8 / 0.7, rel=1e-6)
