"""The losses on plain logits: value and closed-form gradient against autograd on the written definition."""

from __future__ import annotations

import math

import pytest
import torch

from rkld.losses.divergences import (
    composite_logits,
    cross_entropy,
    forward_kl,
    jensen_shannon,
    jensen_shannon_to,
    reverse_kl,
    to_uniform,
    weighted_ascent,
    with_floor,
)


def definition_reverse(logits, teacher):
    p = torch.softmax(logits, -1)
    return (p * (torch.log_softmax(logits, -1) - teacher)).sum(-1)


def definition_forward(logits, teacher):
    q = teacher.exp()
    return (q * (teacher - torch.log_softmax(logits, -1))).sum(-1)


def definition_jensen_shannon(logits, teacher):
    p, q = torch.softmax(logits, -1), teacher.exp()
    m = (p + q) / 2
    return ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2


DEFINITIONS = {
    reverse_kl: definition_reverse, forward_kl: definition_forward, jensen_shannon: definition_jensen_shannon,
}  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 2), (3, 7), (41, 401)])
@pytest.mark.parametrize("ours, definition", DEFINITIONS.items(), ids=lambda f: f.__name__)
def test_values_and_gradients_are_the_definition(ours, definition, shape):
    """A wrong sign, direction or missing normaliser in a divergence shows here."""
    torch.manual_seed(0)
    logits = (3 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    teacher = torch.log_softmax(3 * torch.randn(shape, dtype=torch.float64), -1)
    expected = definition(logits, teacher)
    (gradient,) = torch.autograd.grad(expected.sum(), logits)
    before = teacher.clone()
    values, found = ours(logits.detach(), teacher)
    torch.testing.assert_close(values, expected.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found, gradient, rtol=0, atol=1e-12)
    assert torch.equal(teacher, before), "only the student's logits may be overwritten"


def test_reverse_kl_expects_under_the_student():
    """On two tokens by hand: student (.5, .5), teacher (.9, .1). The other direction gives .368, not .511."""
    values, _ = reverse_kl(
        torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[0.9, 0.1]], dtype=torch.float64).log()
    )
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


@pytest.mark.parametrize("shape", [(1, 2), (5, 11), (41, 401)])
def test_ascent_weighs_each_token_by_its_own_probability(shape):
    """The weight is held fixed: a gradient through it would be another method's."""
    torch.manual_seed(0)
    logits = (3 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(0, shape[1], (shape[0],))
    log_p = torch.log_softmax(logits, -1).gather(-1, labels[:, None])[:, 0]
    expected = log_p.exp().detach() ** 3 * log_p
    (gradient,) = torch.autograd.grad(expected.sum(), logits)
    values, found = weighted_ascent(logits.detach(), labels, lambda p: p**3)
    torch.testing.assert_close(values, expected.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found, gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 2), (5, 11), (41, 401)])
def test_jensen_shannon_to_a_certain_token_is_the_divergences(shape):
    """In closed form, with value and gradient as of the whole distributions."""
    torch.manual_seed(0)
    logits = (3 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(0, shape[1], (shape[0],))
    p = torch.softmax(logits, -1)
    q = torch.nn.functional.one_hot(labels, shape[1]).to(p)
    m = (p + q) / 2
    expected = ((p * (p / m).log()).sum(-1) - m.gather(-1, labels[:, None]).log()[:, 0]) / 2
    (gradient,) = torch.autograd.grad(expected.sum(), logits)
    values, found = jensen_shannon_to(logits.detach(), labels)
    torch.testing.assert_close(values, expected.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found, gradient, rtol=0, atol=1e-12)


def test_jensen_shannon_to_a_token_without_probability_is_log_two():
    """A student that is sure of another token: 0 · log 0 must not be NaN."""
    values, gradient = jensen_shannon_to(torch.tensor([[0.0, 900.0]]), torch.tensor([0]))
    assert values.item() == pytest.approx(math.log(2))
    assert torch.equal(gradient, torch.zeros(1, 2))


def test_to_uniform_is_the_forward_kl_to_it():
    """KL(U ‖ π): the other direction, or a missing log V, would not be 0 for a flat student."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(5, 11, dtype=torch.float64)
    teacher = torch.full_like(logits, 1 / 11).log()
    for found, expected in zip(to_uniform(logits.clone()), forward_kl(logits.clone(), teacher)):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert to_uniform(torch.zeros(1, 7))[0].item() == pytest.approx(0, abs=1e-6)


def test_only_tokens_that_rose_are_lowered():
    """By hand: of l_o (1, 2, 3) and l_aug (2, 2, 1), only the first rose, by 1; α = 8 takes 8 from it."""
    teacher = composite_logits(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 2.0, 1.0]]), alpha=8.0)
    assert teacher.tolist() == [[-7.0, 2.0, 3.0]]


@pytest.mark.parametrize("loss", DEFINITIONS)
def test_tokens_without_mass_count_nothing(loss):
    """−inf from teacher and student alike, or an underflow of the student, must not turn the loss into NaN.

    The other tokens' values and gradients are what they are without the dead ones.
    """
    inf = float("inf")
    alive = torch.tensor([[0.0, 1.0, -0.5], [0.3, 0.0, 2.0]])
    teacher = torch.log_softmax(torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.5, 0.0]]), -1)
    dead = torch.tensor([[-inf, -1e6], [-1e6, -inf]])  # given nothing by the student,
    ruled_out = torch.tensor([[-inf, -inf], [-inf, -inf]])  # nor by the teacher
    values, gradient = loss(torch.cat([alive, dead], -1), torch.cat([teacher, ruled_out], -1))
    expected, wanted = loss(alive.clone(), teacher)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(gradient, torch.cat([wanted, torch.zeros(2, 2)], -1))


@pytest.mark.parametrize("loss", DEFINITIONS)
def test_a_broken_teacher_is_not_hidden(loss):
    """What keeps 0 · log 0 from being NaN must not swallow a real NaN: training would go on towards nothing."""
    values, _ = loss(torch.zeros(1, 3), torch.full((1, 3), float("nan")))
    assert values.isnan().all()


def test_jensen_shannon_is_symmetric_and_at_most_log_two():
    """KL has no bound; a factor or the mixture's normaliser gone wrong breaks either property."""
    logits = torch.tensor([[60.0, 0.0], [0.3, -0.2]], dtype=torch.float64)
    other = torch.tensor([[0.0, 60.0], [1.0, 0.5]], dtype=torch.float64)
    one, _ = jensen_shannon(logits.clone(), torch.log_softmax(other, -1))
    swapped, _ = jensen_shannon(other.clone(), torch.log_softmax(logits, -1))
    torch.testing.assert_close(one, swapped)
    assert one[0].item() == pytest.approx(torch.log(torch.tensor(2.0)).item())


def test_the_floor_lifts_only_what_lies_below_it():
    """Above the floor the teacher keeps its ratios; below it takes the uninformed probability; all sums to one."""
    teacher = torch.tensor([[0.7, 0.3 - 1e-9, 1e-9]], dtype=torch.float64).log()
    uninformed = torch.tensor([[0.1, 0.1, 0.8]], dtype=torch.float64).log()
    found = teacher.clone()
    with_floor(found, 0.0, torch.arange(3)[None], uninformed)
    found = torch.softmax(found, -1)
    torch.testing.assert_close(found.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert (found[0, 0] / found[0, 1]).item() == pytest.approx(0.7 / 0.3, rel=1e-6)
    assert (found[0, 2] / found[0, 0]).item() == pytest.approx(0.8 / 0.7, rel=1e-6)
    raw = teacher + 5  # logits that are not normalised, and only some of the tokens
    with_floor(raw, torch.full((1, 1), 5.0, dtype=torch.float64), torch.tensor([[2, 1]]), uninformed[:, [2, 1]])
    torch.testing.assert_close(torch.softmax(raw, -1), found)
