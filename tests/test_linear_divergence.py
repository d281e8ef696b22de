"""The chunked head and loss against full logits and autograd: values and gradients, odd shapes, every head."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rkld.divergence import composite_logits, cross_entropy, forward_kl, reverse_kl
from rkld.linear_divergence import Segment, linear_divergence


def problem(T, d, V, dtype=torch.float64, bias=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    def r(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)
    return {
        "hidden": r(T, d).requires_grad_(), "weight": (r(V, d) / d**0.5).requires_grad_(),
        "bias": r(V).requires_grad_() if bias else None,
        "original": r(T, d), "strengthened": r(T, d), "head_o": r(V, d) / d**0.5, "head_s": r(V, d) / d**0.5,
        "labels": torch.randint(V, (T,), generator=g), "weights": torch.rand(T, generator=g, dtype=torch.float64).to(dtype),
    }  # fmt: skip


def teacher(p, inputs):
    logits = composite_logits(inputs["original"] @ p["head_o"].t(), inputs["strengthened"] @ p["head_s"].t(), 8.0)
    return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)


def losses(p):
    return {
        "reverse": lambda z, i: reverse_kl(z, teacher(p, i)),
        "forward": lambda z, i: forward_kl(z, teacher(p, i)),
        "ce": lambda z, i: cross_entropy(z, i["labels"]),
    }


def naive(p, cuts):
    """Full logits of all rows at once, autograd through the written definitions."""
    logits = F.linear(p["hidden"], p["weight"], p["bias"])
    log_probs = torch.log_softmax(logits, -1)
    target = teacher(p, p)
    rows = {
        "reverse": (log_probs.exp() * (log_probs - target)).sum(-1),
        "forward": (target.exp() * (target - log_probs)).sum(-1),
        "ce": -log_probs.gather(-1, p["labels"][:, None]).squeeze(-1),
    }
    return sum((p["weights"][a:b] * rows[name][a:b]).sum() for name, a, b in cuts)


def chunked(p, cuts, chunk_rows):
    parts = [
        Segment(p["weights"][a:b], losses(p)[name], {k: p[k][a:b] for k in ("original", "strengthened", "labels")})
        for name, a, b in cuts
    ]
    return linear_divergence(p["hidden"], p["weight"], p["bias"], parts, chunk_rows)


@pytest.mark.parametrize("T, d, V", [(1, 2, 3), (7, 5, 11), (41, 13, 401)])
@pytest.mark.parametrize("chunk_rows", [1, 3, 16, 1000])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_full_logits(T, d, V, chunk_rows, bias):
    """Three losses in one call, chunk borders anywhere: value and gradients of hidden, weight, bias to 1e-10."""
    p = problem(T, d, V, bias=bias)
    cuts = [("reverse", 0, T // 2), ("forward", T // 2, T - T // 4), ("ce", T - T // 4, T)]
    wanted = [p[k] for k in ("hidden", "weight", "bias") if p[k] is not None]
    expected = torch.autograd.grad(naive(p, cuts), wanted)
    total, values = chunked(p, cuts, chunk_rows)
    torch.testing.assert_close(total, naive(p, cuts), rtol=0, atol=1e-10)
    assert len(values) == T
    for found, right in zip(torch.autograd.grad(2 * total, wanted), expected):
        torch.testing.assert_close(found, 2 * right, rtol=0, atol=1e-10)


def test_gradcheck():
    """Numerical derivatives know nothing of the closed forms."""
    p = problem(5, 3, 7)
    cuts = [("reverse", 0, 3), ("forward", 3, 4), ("ce", 4, 5)]

    def total(hidden, weight, bias):
        return chunked(p | {"hidden": hidden, "weight": weight, "bias": bias}, cuts, 2)[0]

    assert torch.autograd.gradcheck(total, (p["hidden"], p["weight"], p["bias"]))


def test_frozen_head_gets_no_gradient():
    p = problem(6, 4, 9)
    p["weight"].requires_grad_(False)
    p["bias"].requires_grad_(False)
    total, _ = chunked(p, [("reverse", 0, 6)], 4)
    total.backward()
    (expected,) = torch.autograd.grad(naive(p, [("reverse", 0, 6)]), [p["hidden"]])
    torch.testing.assert_close(p["hidden"].grad, expected, rtol=0, atol=1e-10)
    assert p["weight"].grad is None


@pytest.mark.parametrize("dtype, atol", [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_low_precision_stays_near(dtype, atol):
    """bf16 hidden states and heads still accumulate in float32."""
    exact, rough = problem(33, 16, 127), problem(33, 16, 127, dtype)
    cuts = [("reverse", 0, 33)]
    expected = torch.autograd.grad(naive(exact, cuts), [exact["hidden"], exact["weight"]])
    total, _ = chunked(rough, cuts, 8)
    found = torch.autograd.grad(total, [rough["hidden"], rough["weight"]])
    assert [f.dtype for f in found] == [dtype, dtype]
    for f, e in zip(found, expected):
        scale = e.abs().max()
        torch.testing.assert_close(f.double() / scale, e / scale, rtol=0, atol=atol)


def test_no_rows_at_all():
    """A micro-batch may hold no row of any term: a zero that still has a gradient, not a crash."""
    p = problem(3, 4, 5)
    total, values = linear_divergence(p["hidden"][:0], p["weight"], p["bias"], [Segment(torch.zeros(0), losses(p)["ce"])])
    total.backward()
    assert total.item() == 0 and len(values) == 0
