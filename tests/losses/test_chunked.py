"""The chunked head and loss against full logits and autograd: values and gradients, odd shapes, every head."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from rkld.losses import products
from rkld.losses.chunked import Segment, chunk_rows_for, linear_divergence
from rkld.losses.divergences import composite_logits, cross_entropy, forward_kl, jensen_shannon, reverse_kl
from rkld.losses.objective import StateTerm, Term, answer, evaluate
from rkld.losses.targets import Towards, to_labels
from rkld.models.logit_transform import NONE, LogitTransform
from rkld.teacher.logits import Teacher

TRANSFORMS = [NONE, LogitTransform(0.0625), LogitTransform(3.0), LogitTransform(1.0, 1.5), LogitTransform(0.5, 2.0)]


def problem(T, d, V, dtype=torch.float64, bias=True, seed=0):
    g = torch.Generator().manual_seed(seed)

    def r(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    return {
        "hidden": r(T, d).requires_grad_(), "weight": (r(V, d) / d**0.5).requires_grad_(),
        "bias": r(V).requires_grad_() if bias else None,
        "original": r(T, d), "strengthened": r(T, d), "head_o": r(V, d) / d**0.5, "head_s": r(V, d) / d**0.5,
        "labels": torch.randint(V, (T,), generator=g),
        "weights": torch.rand(T, generator=g, dtype=torch.float64).to(dtype),
    }  # fmt: skip


def teacher(p, inputs):
    logits = composite_logits(inputs["original"] @ p["head_o"].t(), inputs["strengthened"] @ p["head_s"].t(), 8.0)
    return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)


def losses(p):
    return {
        "reverse": lambda z, i, spare: reverse_kl(z, teacher(p, i), spare[0]),
        "forward": lambda z, i, spare: forward_kl(z, teacher(p, i), spare[1]),
        "jensen": lambda z, i, spare: jensen_shannon(z, teacher(p, i)),
        "ce": lambda z, i, spare: cross_entropy(z, i["labels"], spare[1]),
    }


def naive(p, cuts, transform=NONE):
    """Full logits of all rows at once, autograd through the written definitions."""
    logits = capped(F.linear(p["hidden"], p["weight"], p["bias"]) * transform.scale, transform.cap)
    log_probs = torch.log_softmax(logits, -1)
    target = teacher(p, p)
    mean = torch.log((log_probs.exp() + target.exp()) / 2)
    rows = {
        "reverse": (log_probs.exp() * (log_probs - target)).sum(-1),
        "forward": (target.exp() * (target - log_probs)).sum(-1),
        "jensen": (log_probs.exp() * (log_probs - mean) + target.exp() * (target - mean)).sum(-1) / 2,
        "ce": -log_probs.gather(-1, p["labels"][:, None]).squeeze(-1),
    }
    return sum((p["weights"][a:b] * rows[name][a:b]).sum() for name, a, b in cuts)


def capped(x, cap):
    return x if cap is None else cap * torch.tanh(x / cap)


def chunked(p, cuts, chunk_rows, transform=NONE):
    parts = [
        Segment(p["weights"][a:b], losses(p)[name], {k: p[k][a:b] for k in ("original", "strengthened", "labels")})
        for name, a, b in cuts
    ]
    return linear_divergence(p["hidden"], p["weight"], p["bias"], parts, chunk_rows, transform)


def quarters(T):
    """A segment for each loss, some of them empty where T is small."""
    return [(name, T * i // 4, T * (i + 1) // 4) for i, name in enumerate(("reverse", "forward", "jensen", "ce"))]


@pytest.mark.parametrize("T, d, V", [(1, 2, 3), (7, 5, 11), (41, 13, 401)])
@pytest.mark.parametrize("chunk_rows", [1, 3, 16, 1000, None])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_full_logits(T, d, V, chunk_rows, bias):
    """All losses in one call, chunk borders anywhere: value and gradients of hidden, weight, bias to 1e-10."""
    p = problem(T, d, V, bias=bias)
    wanted = [p[k] for k in ("hidden", "weight", "bias") if p[k] is not None]
    expected = torch.autograd.grad(naive(p, quarters(T)), wanted)
    total, values = chunked(p, quarters(T), chunk_rows)
    torch.testing.assert_close(total, naive(p, quarters(T)), rtol=0, atol=1e-10)
    assert len(values) == T
    for found, right in zip(torch.autograd.grad(2 * total, wanted), expected):
        torch.testing.assert_close(found, 2 * right, rtol=0, atol=1e-10)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("T, d, V", [(7, 5, 11), (41, 13, 401)])
def test_scaled_and_capped_logits_equal_full_ones(T, d, V, transform):
    """Logits are what the model makes of its head's output, and the gradient passes the derivative of that."""
    p = problem(T, d, V)
    wanted = [p[k] for k in ("hidden", "weight", "bias")]
    plain = naive(p, quarters(T), transform)
    expected = torch.autograd.grad(plain, wanted)
    total, _ = chunked(p, quarters(T), 3, transform)
    torch.testing.assert_close(total, plain, rtol=0, atol=1e-10)
    for found, right in zip(torch.autograd.grad(total, wanted), expected):
        torch.testing.assert_close(found, right, rtol=0, atol=1e-10)
    if transform != NONE:
        assert abs(naive(p, quarters(T)) - plain) > 1e-3


@pytest.mark.parametrize("T, d, V", [(5, 3, 7), (9, 2, 5)])
@pytest.mark.parametrize("frozen", [False, True], ids=["trainable", "frozen"])
@pytest.mark.parametrize("bias", [True, False])
def test_gradcheck(T, d, V, frozen, bias):
    """Numerical derivatives know nothing of the closed forms."""
    p = problem(T, d, V, bias=bias)
    inputs = {k: p[k] for k in (("hidden",) if frozen else ("hidden", "weight", "bias")) if p[k] is not None}
    for name in ("weight", "bias"):
        if frozen and p[name] is not None:
            p[name].requires_grad_(False)

    def total(*tensors):
        return chunked(p | dict(zip(inputs, tensors)), quarters(T), 2)[0]

    assert torch.autograd.gradcheck(total, tuple(inputs.values()))


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_backward_twice(factor):
    """The gradients were formed in the forward pass: handed on or scaled, a kept graph gives the same ones again."""
    p = problem(7, 5, 11)
    wanted = [p[k] for k in ("hidden", "weight", "bias")]
    total = factor * chunked(p, quarters(7), 3)[0]
    total.backward(retain_graph=True)
    once = [t.grad.clone() for t in wanted]
    total.backward()
    for t, right in zip(wanted, once):
        torch.testing.assert_close(t.grad, 2 * right)


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
@pytest.mark.parametrize("loss", ["reverse", "forward", "jensen", "ce"])
@pytest.mark.parametrize("bias", [True, False])
def test_low_precision_stays_near(loss, dtype, atol, bias):
    """bf16 hidden states and heads still accumulate in float32."""
    exact, rough = problem(33, 16, 127, bias=bias), problem(33, 16, 127, dtype, bias=bias)
    cuts = [(loss, 0, 33)]
    names = [k for k in ("hidden", "weight", "bias") if exact[k] is not None]
    expected = torch.autograd.grad(naive(exact, cuts), [exact[k] for k in names])
    total, _ = chunked(rough, cuts, 8)
    found = torch.autograd.grad(total, [rough[k] for k in names])
    assert [f.dtype for f in found] == [dtype] * len(names)
    for f, e in zip(found, expected):
        scale = e.abs().max()
        torch.testing.assert_close(f.double() / scale, e / scale, rtol=0, atol=atol)


@pytest.mark.parametrize("frozen", [False, True])
def test_autocast_casts_the_head_once_and_gives_autograds_gradients(frozen):
    """float32 weights under bfloat16 autocast, as a GPU trains: a head cast anew for every chunk costs more than the
    loss, and float32 products, half the time of a step on an H100."""
    T, d, V = 24, 16, 4096
    p, q = problem(T, d, V, torch.float32, bias=False), problem(T, d, V, torch.float32, bias=False)
    p["weight"].requires_grad_(not frozen)
    names = ["hidden"] if frozen else ["hidden", "weight"]
    part = Segment(p["weights"], losses(p)["ce"], {"labels": p["labels"]})

    class Casts(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if func is torch.ops.aten._to_copy.default and made.shape == (V, d) and made.dtype == torch.bfloat16:
                self.found += 1
            return made

    with torch.autocast("cpu", dtype=torch.bfloat16):
        with Casts() as casts:
            total, _ = linear_divergence(p["hidden"], p["weight"], None, [part], 4)
        logits = F.linear(q["hidden"], q["weight"]).float()
        expected = (F.cross_entropy(logits, q["labels"], reduction="none") * q["weights"]).sum()
    assert casts.found == 1
    assert total.item() == pytest.approx(expected.item(), rel=1e-3)
    found = torch.autograd.grad(total, [p[k] for k in names])
    for ours, right in zip(found, torch.autograd.grad(expected, [q[k] for k in names])):
        assert ours.dtype == torch.float32
        assert (ours - right).norm() <= 0.02 * right.norm()


def test_full_logits_never_exist():
    """What the module is for: nothing larger than a chunk's buffers or the head, forwards or backwards."""

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor):
                self.elements = max(self.elements, found.numel())
            return found

    T, d, V, chunk_rows = 64, 8, 101, 2
    p = problem(T, d, V)
    with Largest() as seen:
        chunked(p, quarters(T), chunk_rows)[0].backward()
    assert seen.elements == V * d  # three buffers chunk_rows × V are fewer, T × V eight times as many


def test_chunk_size_follows_vocabulary_dtype_and_device():
    """Gemma's 256k tokens must not take five times SmolLM2's buffers; bf16 logits are held in float32."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [chunk_rows_for(V, torch.float32, cpu) for V in (32000, 49152, 131072, 256000)] == [128, 128, 128, 64]
    assert chunk_rows_for(256000, torch.bfloat16, cpu) == 64 > chunk_rows_for(256000, torch.float64, cpu)
    assert chunk_rows_for(49152, torch.float32, gpu) > 128
    assert chunk_rows_for(10**9, torch.float32, cpu) == 16


def test_no_rows_at_all():
    """A micro-batch may hold no row of any term: a zero that still has a gradient, not a crash."""
    p = problem(3, 4, 5)
    total, values = linear_divergence(
        p["hidden"][:0], p["weight"], p["bias"], [Segment(torch.zeros(0), losses(p)["ce"])]
    )
    total.backward()
    assert total.item() == 0 and len(values) == 0


def test_states_head_and_batch_may_lie_on_different_devices():
    """As a model is that is spread over GPUs: all meets where the head is ("meta" stands in for a second device)."""
    head = torch.nn.Linear(4, 9, bias=False, device="meta", dtype=torch.float64)
    states = {None: torch.randn(6, 4, dtype=torch.float64, requires_grad=True), 0: torch.randn(6, 4)}
    terms = [
        Term("forget", "forget", answer, to_labels),
        StateTerm("layer", "forget", answer, lambda rows, inputs: rows.square().mean(-1)),
    ]
    weights = torch.ones(2, dtype=torch.float64)
    inputs = {"labels": torch.tensor([3, 8]), "weights": weights, "rows": torch.tensor([1, 4])}
    batch = {"rows": torch.tensor([1, 4]), "terms": {"forget": inputs, "layer": inputs}}
    total, parts = evaluate(terms, batch, states, head)
    assert {t.device.type for t in (total, *parts.values())} == {"meta"}


def test_models_that_share_a_head_are_one_product(monkeypatch):
    """Original, strengthened model and student of LoRA: the head is read once for a chunk's logits, not thrice."""
    p = problem(6, 4, 9, torch.float32)
    p["weight"].requires_grad_(False)
    lm = SimpleNamespace(head=SimpleNamespace(weight=p["weight"], bias=p["bias"]), logit_transform=NONE)
    teacher = Teacher(SimpleNamespace(has_head=lambda name: False, read_head=lambda name: None), alpha=8.0)
    teacher.attach(lm)
    inputs = {name: p[name] for name in ("original", "strengthened")}
    read = []
    real = products.accurate_logits

    def counted(x, *rest, **out):
        read.append(len(x))
        return real(x, *rest, **out)

    monkeypatch.setattr(products, "accurate_logits", counted)
    total, _ = linear_divergence(
        p["hidden"], p["weight"], p["bias"], [Segment(p["weights"], Towards(reverse_kl, teacher.composite), inputs)], 4
    )
    assert read == [12, 6]  # chunks of 4 and 2 rows
    logits = F.linear(p["hidden"], p["weight"], p["bias"])
    with torch.no_grad():
        l_o, l_aug = (F.linear(p[name], p["weight"], p["bias"]) for name in ("original", "strengthened"))
        target = torch.log_softmax(composite_logits(l_o, l_aug, 8.0), -1)
    log_probs = torch.log_softmax(logits, -1)
    expected = (p["weights"] * (log_probs.exp() * (log_probs - target)).sum(-1)).sum()
    torch.testing.assert_close(total, expected)
    wanted = [p["hidden"], p["bias"]]
    for found, right in zip(torch.autograd.grad(total, wanted), torch.autograd.grad(expected, wanted)):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)


def test_the_first_product_needs_no_zeros():
    """What a fresh total holds counts nothing, not even where it is no number."""
    gradient, hidden = torch.randn(3, 5), torch.randn(3, 4)
    total = torch.full((5, 4), torch.nan)
    products.add_product(total, gradient, hidden, first=True)
    products.add_product(total, gradient, hidden)
    torch.testing.assert_close(total, 2 * gradient.T @ hidden)
