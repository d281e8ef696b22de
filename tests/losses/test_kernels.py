"""The Triton kernels against the losses step by step: values and gradients, odd shapes, every dtype and transform.

Without a GPU through Triton's interpreter, for which Triton must be installed.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from rkld.losses import fused
from rkld.losses.chunked import Segment, linear_divergence
from rkld.losses.divergences import cross_entropy, forward_kl, jensen_shannon, reverse_kl
from rkld.losses.products import Product
from rkld.losses.targets import Composition, Recipe, Target, Towards, to_labels
from rkld.models.logit_transform import NONE, LogitTransform

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TRANSFORMS = [NONE, LogitTransform(0.25), LogitTransform(0.5, 2.0)]
DIVERGENCES = [reverse_kl, forward_kl, jensen_shannon]


@pytest.fixture(scope="module")
def kernels():
    pytest.importorskip("triton", reason="Triton, whose interpreter runs the kernels, is not installed")
    from rkld.losses import kernels

    return kernels


@pytest.fixture
def on_gpu(kernels, monkeypatch):
    """The path of a GPU, on any device, in small blocks."""
    monkeypatch.setattr(fused, "runs_kernels", lambda device: True)
    monkeypatch.setattr(fused, "_kernels", lambda: kernels)
    monkeypatch.setattr(kernels, "BLOCK", 64)
    monkeypatch.setattr(fused, "BLOCK_BYTES", 256 * 4 * 8)
    return kernels


def random(*shape, dtype=torch.float32, seed=0, scale=1.0):
    found = scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return found.to(DEVICE, dtype)


@torch.enable_grad()
def in_steps(divergence, student, teacher, weights, transform):
    """The reference, in float64: values, and the gradient of their weighted sum by autograd through the transform."""
    output = student.detach().double().requires_grad_()
    logits = transform(output)
    if divergence is None:
        values, slope = cross_entropy(logits.detach().clone(), teacher)
    else:
        values, slope = divergence(logits.detach().clone(), torch.log_softmax(teacher.double(), -1))
    (gradient,) = torch.autograd.grad(logits, output, slope * weights[:, None].double())
    return values, gradient


def near(found, expected, dtype):
    """bfloat16 rounds what is written, never what is added up."""
    rtol = {torch.float32: 1e-5, torch.bfloat16: 8e-3}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=5e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("n, V", [(1, 1), (3, 63), (5, 401)])
def test_divergences_and_gradients(on_gpu, n, V, transform, dtype):
    weights = random(n, seed=3)
    for divergence in DIVERGENCES:
        student, teacher = random(n, V, dtype=dtype, scale=4), random(n, V, dtype=dtype, seed=1, scale=4)
        expected, slope = in_steps(divergence, student, teacher, weights, transform)
        values = on_gpu.divergence_(fused.KINDS[divergence], student, teacher, weights, transform)
        assert values.dtype == torch.float32
        torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-5)
        near(student, slope, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_cross_entropy(on_gpu, transform, dtype):
    student, labels = random(5, 401, dtype=dtype, scale=4), torch.tensor([0, 400, 64, 63, 7], device=DEVICE)
    weights = random(5, seed=3)
    expected, slope = in_steps(None, student, labels, weights, transform)
    values = on_gpu.to_labels_(student, labels, weights, transform)
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-5)
    near(student, slope, dtype)


def test_what_has_no_probability_counts_nothing(on_gpu):
    """−∞ in both, in the teacher's first block and in the student's: no NaN, and the gradient is that of the rest."""
    none = torch.tensor([0, 1, 70, 100])
    for divergence in DIVERGENCES:
        student, teacher = random(2, 130, scale=3), random(2, 130, seed=1, scale=3)
        student[:, none] = -torch.inf
        teacher[:, none] = -torch.inf
        kept = torch.ones(130, dtype=torch.bool)
        kept[none] = False
        expected, slope = in_steps(divergence, student[:, kept], teacher[:, kept], torch.ones(2), NONE)
        values = on_gpu.divergence_(fused.KINDS[divergence], student, teacher, torch.ones(2, device=DEVICE), NONE)
        torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-5)
        near(student[:, kept], slope, torch.float32)
        assert not student[:, none].any()


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("second", ["rise", "strengthened", None])
def test_the_teacher_is_made_of_outputs(on_gpu, transform, second):
    """Into a part of a wider tensor, as blocks of the vocabulary are; the rest of it is left alone."""
    outputs = random(1 if second is None else 2, 3, 37, scale=3)
    whole = torch.full((3, 50), 9.0, dtype=torch.bfloat16, device=DEVICE)
    composition = Composition(transform, 8.0, second or "rise")
    on_gpu.compose(outputs, composition, whole[:, 5:42])
    torch.testing.assert_close(whole[:, 5:42], composition(outputs.clone().unbind()).bfloat16(), rtol=8e-3, atol=1e-5)
    assert (whole[:, :5] == 9).all() and (whole[:, 42:] == 9).all()


def test_normalisers(on_gpu):
    logits = random(4, 401, scale=20)
    torch.testing.assert_close(on_gpu.normalisers(logits), torch.logsumexp(logits, -1))


class InSteps:
    """The kernels' arithmetic in plain torch: what stands around them is tested where Triton is not."""

    def compose(self, outputs, composition, out):
        out.copy_(composition(outputs.clone().unbind()))

    def normalisers(self, logits):
        return torch.logsumexp(logits.float(), -1)

    def divergence_(self, kind, student, teacher, weights, transform):
        divergence = next(d for d, name in fused.KINDS.items() if name == kind)
        values, gradient = in_steps(divergence, student, teacher, weights, transform)
        student.copy_(gradient)
        return values.float()

    def to_labels_(self, student, labels, weights, transform):
        values, gradient = in_steps(None, student, labels, weights, transform)
        student.copy_(gradient)
        return values.float()


class Made(Target):
    """A teacher of two states and two heads, which may be the student's; or one that is at hand."""

    def __init__(self, heads, composition, at_hand=None):
        self.heads, self.composition, self.at_hand = heads, composition, at_hand

    def recipe(self, inputs, student=None):
        if self.at_hand is not None:
            return Recipe((), self.composition)
        products = [
            Product(inputs[name], student.weight if head is None else head, student.bias if head is None else None)
            for name, head in zip(("original", "strengthened"), self.heads)
        ]
        return Recipe(products, self.composition)

    def read(self, inputs, out):
        torch.index_select(self.at_hand, 0, inputs["labels"], out=out)

    def finishes(self, inputs):
        return True

    def finish(self, logits, normaliser, inputs):
        logits[:, :3] = logits[:, :3].maximum((normaliser - 1.0) + torch.zeros_like(logits[:, :3]))


@pytest.mark.parametrize("teacher", ["one head", "three heads", "at hand"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("by", ["kernels", "steps"])
def test_a_whole_loss_equals_that_in_steps(monkeypatch, request, by, dtype, teacher):
    """Head, teacher with its floor, every divergence and cross-entropy in one call: total, values, gradients."""
    if by == "kernels":
        request.getfixturevalue("on_gpu")
    else:
        monkeypatch.setattr(fused, "runs_kernels", lambda device: True)
        monkeypatch.setattr(fused, "_kernels", InSteps)
        monkeypatch.setattr(fused, "BLOCK_BYTES", 256 * 4 * 8)
    T, d, V, transform = 14, 8, 301, LogitTransform(0.5, 2.0)
    heads = [None, None] if teacher == "one head" else [random(V, d, seed=s, dtype=dtype) for s in (7, 8)]
    composition = Composition(transform, 8.0, "rise" if teacher == "one head" else "strengthened")
    at_hand = torch.log_softmax(random(T, V, seed=9), -1).to(dtype) if teacher == "at hand" else None
    target = Made(heads, composition, at_hand)
    inputs = {"original": random(T, d, seed=4, dtype=dtype), "strengthened": random(T, d, seed=5, dtype=dtype)}
    inputs["labels"] = torch.arange(T, device=DEVICE)
    weights = random(T, seed=6)
    losses = [*(Towards(divergence, target) for divergence in DIVERGENCES), to_labels]

    def run():
        hidden, weight, bias = (random(*s, seed=i, dtype=dtype) for i, s in enumerate(((T, d), (V, d), (V,))))
        wanted = [t.requires_grad_() for t in (hidden, weight, bias)]
        parts = [
            Segment(weights[a:b], loss, {k: v[a:b] for k, v in inputs.items()})
            for loss, a, b in zip(losses, (0, 5, 8, 11), (5, 8, 11, 14))
        ]
        total, values = linear_divergence(hidden, weight, bias, parts, 4, transform)
        return total, values, torch.autograd.grad(total, wanted)

    found = run()
    monkeypatch.setattr(fused, "runs_kernels", lambda device: False)
    if at_hand is not None:
        target.at_hand = at_hand.float()
    expected = run()
    share = {torch.float32: 1e-5, torch.bfloat16: 4e-2}[dtype]
    torch.testing.assert_close(found[0], expected[0], rtol=share, atol=share)
    torch.testing.assert_close(found[1], expected[1], rtol=share, atol=share)
    for ours, right in zip(found[2], expected[2]):
        assert ours.dtype == dtype
        assert (ours - right).double().norm() <= share * right.double().norm()


def test_losses_without_a_kernel_go_step_by_step(on_gpu):
    assert fused.kernels_for(Towards(reverse_kl, Target()), random(3, 3)) is on_gpu
    assert (
        fused.kernels_for(lambda logits, inputs, spare: cross_entropy(logits, inputs["labels"]), random(3, 3)) is None
    )
    assert fused.kernels_for(to_labels, random(3, 3, dtype=torch.float64)) is None


def test_a_cpu_runs_no_kernels():
    assert fused.kernels_for(to_labels, torch.zeros(3, 3)) is None


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu(tmp_path):
    """In a process of its own, as the interpreter takes the compiler's place in this one; no GPU is needed."""
    pytest.importorskip("triton", reason="Triton is not installed")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["cubin"] * 8


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from rkld.losses import kernels

NUMBERS = {name: "fp32" for name in ("scale", "cap", "alpha")}
POINTERS = {name: "*fp32" for name in ("weights", "values", "first", "second")} | {"labels": "*i64"}
LOGITS = ("student", "teacher", "logits")

def build(kernel, **constants):
    known = NUMBERS | POINTERS | dict.fromkeys(LOGITS, "*bf16")
    known["out"] = "*bf16" if "SECOND" in constants else "*fp32"
    types = {name: "constexpr" if name in constants else known.get(name, "i32") for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=types, constexprs=constants)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
    print(*(name for name in made.asm if name == "cubin"))

for kind in range(3):
    build(kernels._divergence_kernel, KIND=kind, CAPPED=True, BLOCK=kernels.BLOCK)
    build(kernels._compose_kernel, SECOND=kind, CAPPED=False, BLOCK=1024)
build(kernels._normaliser_kernel, BLOCK=kernels.BLOCK)
build(kernels._labels_kernel, CAPPED=True, BLOCK=kernels.BLOCK)
"""
