"""The teacher's log-probabilities, made from cached hidden states."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.losses.divergences import forward_kl, jensen_shannon, reverse_kl
from rkld.models.language_model import LanguageModel
from rkld.models.logit_transform import NONE
from rkld.teacher.cache import HiddenCache
from rkld.teacher.logits import Teacher

IDENTITY = {"model": "a", "ids": ("x", 1)}


def model(seed=0, lora=False, tied=False, dtype=torch.float64, **shape) -> LanguageModel:
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        **{"vocab_size": len(tokenizer), "hidden_size": 16} | shape,
        intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.3, pad_token_id=0, eos_token_id=2, tie_word_embeddings=tied,
    )  # fmt: skip
    net = LlamaForCausalLM(config).to(dtype)
    if lora:
        net = get_peft_model(net, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    return LanguageModel(net.eval(), tokenizer, "test")


def inputs(n=5) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    shapes = {"original": (n, 16), "strengthened": (n, 16)}
    draw = {name: torch.randn(*shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}
    return draw


def spare(lm, n=5) -> torch.Tensor:
    return torch.empty(2, n, len(lm.head.weight), dtype=torch.float64)


def test_full_fine_tuning_uses_the_kept_heads_and_lora_the_shared_one(tmp_path):
    """The student's own head moves in full fine-tuning: a teacher made with it would follow the student."""
    before, strong, student, x = model(0), model(1), model(2), inputs()
    full = Teacher(HiddenCache(tmp_path / "full", IDENTITY), alpha=3.0)
    full.cache.write_head("original", before)
    full.cache.write_head("strengthened", strong)
    kept = before.head.weight.detach().clone()
    with torch.no_grad():
        before.head.weight.add_(1)  # what was kept must be a copy
    full.attach(student)
    l_o, l_aug = x["original"] @ kept.T, x["strengthened"] @ strong.head.weight.detach().T
    plain = {name: x[name] for name in ("original", "strengthened")}
    expected = torch.log_softmax(l_o - 3 * F.relu(l_aug - l_o), -1)
    torch.testing.assert_close(full.composite(plain, spare(student)), expected)
    torch.testing.assert_close(full.original(plain, spare(student)), torch.log_softmax(l_o, -1))

    adapted = model(0, lora=True)
    shared = Teacher(HiddenCache(tmp_path / "lora", IDENTITY), alpha=3.0)
    shared.attach(adapted)
    w = adapted.head.weight.detach()
    l_o, l_aug = x["original"] @ w.T, x["strengthened"] @ w.T
    expected = torch.log_softmax(l_o - 3 * F.relu(l_aug - l_o), -1)
    torch.testing.assert_close(shared.composite(plain, spare(adapted)), expected)


@pytest.mark.parametrize("lora", [False, True], ids=["two heads", "one head"])
@pytest.mark.parametrize("config", [{"logit_scale": 0.25}, {"final_logit_softcapping": 2.0}])
def test_the_teacher_is_made_of_logits_after_scale_and_cap(tmp_path, config, lora):
    """``l_o`` and ``l_aug`` are what the models answer with: what a cap holds together no difference pulls apart."""
    student, strong, x = model(0, lora=lora), model(1), inputs()
    for name, value in config.items():
        setattr(student.inner.config, name, value)
    teacher = Teacher(HiddenCache(tmp_path, IDENTITY), alpha=3.0)
    if not lora:
        teacher.cache.write_head("original", student)
        teacher.cache.write_head("strengthened", strong)
    teacher.attach(student)
    w_o = student.head.weight.detach()
    w_aug = w_o if lora else strong.head.weight.detach()

    def logits(output):
        if "logit_scale" in config:
            return output * config["logit_scale"]
        return config["final_logit_softcapping"] * torch.tanh(output / config["final_logit_softcapping"])

    l_o, l_aug = logits(x["original"] @ w_o.T), logits(x["strengthened"] @ w_aug.T)
    expected = torch.log_softmax(l_o - 3 * F.relu(l_aug - l_o), -1)
    torch.testing.assert_close(teacher.composite(x, spare(student)), expected)
    torch.testing.assert_close(teacher.original(x, spare(student)), torch.log_softmax(l_o, -1))


@pytest.mark.parametrize("divergence", [reverse_kl, forward_kl, jensen_shannon])
def test_the_floor_is_the_normalised_maximum_in_values_and_gradients(tmp_path, divergence):
    """By hand and by autograd, in float64: teacher and floor in rows that have one, the plain teacher elsewhere."""
    lm, x = model(0), inputs()
    teacher = Teacher(HiddenCache(tmp_path, IDENTITY), alpha=8.0)
    teacher.attach(lm)
    w = lm.head.weight.detach()
    l_o, l_aug = x["original"] @ w.T, x["strengthened"] @ w.T
    plain = torch.softmax(l_o - 8 * F.relu(l_aug - l_o), -1)
    others = torch.softmax(torch.randn(5, len(w), dtype=torch.float64, generator=torch.Generator().manual_seed(3)), -1)
    others[[1, 4]] = 0  # no floor
    kept = others.topk(7, dim=-1)
    x |= {"uninformed": kept.values.log(), "uninformed_ids": kept.indices.to(torch.int32)}
    dense = torch.zeros_like(others).scatter(1, kept.indices, kept.values)
    raised = torch.maximum(plain, dense)
    expected = raised / raised.sum(-1, keepdim=True)
    torch.testing.assert_close(teacher.composite(x, spare(lm)).exp(), expected)
    assert (expected[0] - plain[0]).abs().max() > 1e-4 and torch.equal(raised[1], plain[1])
    logits = (x["original"] @ w.T).requires_grad_()
    values, gradient = divergence(logits.detach().clone(), teacher.composite(x, spare(lm)), torch.empty_like(others))
    p, t = torch.softmax(logits, -1), expected.log()
    mean = ((p + expected) / 2).log()
    naive = {
        reverse_kl: (p * (p.log() - t)).sum(-1),
        forward_kl: (expected * (t - p.log())).sum(-1),
        jensen_shannon: (p * (p.log() - mean) + expected * (t - mean)).sum(-1) / 2,
    }[divergence]
    torch.testing.assert_close(values, naive.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(naive.sum(), logits)[0])


def test_alpha_can_be_changed(tmp_path):
    """One cache, and one teacher, serve every α."""
    lm, x = model(0, lora=True), inputs()
    teacher = Teacher(HiddenCache(tmp_path, IDENTITY), alpha=8.0)
    teacher.attach(lm)
    plain = {name: x[name] for name in ("original", "strengthened")}
    w = lm.head.weight.detach()
    l_o, l_aug = x["original"] @ w.T, x["strengthened"] @ w.T
    for alpha in (2.0, 0.0, 16.0):
        teacher.alpha = alpha
        expected = torch.log_softmax(l_o - alpha * F.relu(l_aug - l_o), -1)
        torch.testing.assert_close(teacher.composite(plain, spare(lm)), expected)


ROWS, WIDTH, WORDS = 64, 96, 700


def rounding(folder, heads: str, bias: bool, dtype: torch.dtype, autocast: bool, alpha: float) -> float:
    """Mean KL(float64 teacher ‖ teacher) on states and heads as large as those of a trained model, in nats."""
    g = torch.Generator().manual_seed(0)

    def draw(*shape, scale=1.0) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=g)

    lms = []
    weight, offset = draw(WORDS, WIDTH), draw(WORDS)
    for moved in (0.0, 0.02):
        head = torch.nn.Linear(WIDTH, WORDS, bias=bias)
        head.weight.data = (weight + moved * draw(WORDS, WIDTH)).to(dtype)
        if bias:
            head.bias.data = (offset + moved * draw(WORDS)).to(dtype)
        lms.append(SimpleNamespace(logit_transform=NONE, head=head))
    if heads == "tied":
        lms = [model(0, tied=True, hidden_size=WIDTH, vocab_size=WORDS, dtype=dtype) for _ in range(2)]
        with torch.no_grad():
            lms[1].head.weight.add_(0.02 * draw(WORDS, WIDTH).to(dtype))
    teacher = Teacher(HiddenCache(folder, IDENTITY), alpha=alpha)
    student = lms[0]
    if heads != "shared":
        teacher.cache.write_head("original", lms[0])
        teacher.cache.write_head("strengthened", lms[1])
    else:
        lms[1] = lms[0]
    teacher.attach(student)
    original = draw(ROWS, WIDTH, scale=0.4)  # logits of about ±4, the largest 12 to 16
    states = {"original": original.to(dtype), "strengthened": (original + 0.05 * draw(ROWS, WIDTH)).to(dtype)}
    buffers = torch.empty(2, ROWS, WORDS)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = teacher.composite(states, buffers).double()
    l_o, l_aug = (
        F.linear(
            states[name].double(), lm.head.weight.double(), None if lm.head.bias is None else lm.head.bias.double()
        )
        for name, lm in zip(("original", "strengthened"), lms)
    )
    exact = torch.log_softmax(l_o - alpha * F.relu(l_aug - l_o), -1)
    return (exact.exp() * (exact - found)).sum(-1).mean().item()


@pytest.mark.parametrize("alpha", [4.0, 8.0, 16.0, 32.0])
@pytest.mark.parametrize(("heads", "bias"), [
    ("shared", False), ("shared", True), ("separate", False), ("separate", True), ("tied", False)
])  # fmt: skip
@pytest.mark.parametrize(("dtype", "autocast", "bound"), [
    (torch.float32, False, 1e-6), (torch.bfloat16, False, 1e-5), (torch.float32, True, 1e-4),
], ids=["float32", "bfloat16", "autocast"])  # fmt: skip
def test_alpha_does_not_multiply_rounding(tmp_path, dtype, autocast, bound, heads, bias, alpha):
    """Logits that are rounded to bfloat16 before they are subtracted give another teacher: .03 nats away at α = 8."""
    assert abs(rounding(tmp_path, heads, bias, dtype, autocast, alpha)) < bound
