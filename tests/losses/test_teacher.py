"""The teacher's log-probabilities, made from cached hidden states."""

from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.losses.cache import HiddenCache
from rkld.losses.teacher import Teacher
from rkld.models.language_model import LanguageModel

IDENTITY = {"model": "a", "ids": ("x", 1)}


def model(seed=0, lora=False) -> LanguageModel:
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.3, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    net = LlamaForCausalLM(config).double()
    if lora:
        net = get_peft_model(net, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    return LanguageModel(net.eval(), tokenizer, "test")


def inputs(n=5, k=4) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    draw = {name: torch.randn(*shape, generator=g, dtype=torch.float64)
            for name, shape in {"original": (n, 16), "strengthened": (n, 16), "uninformed": (n, k, 16)}.items()}  # fmt: skip
    return {**draw, "floored": torch.tensor([True, False, True, True, False])}


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


def test_the_floor_is_the_mean_of_the_others_where_it_is_flagged(tmp_path):
    """By hand: normalised maximum of teacher and mean distribution in flagged rows, the plain teacher elsewhere."""
    lm, x = model(0), inputs()
    teacher = Teacher(HiddenCache(tmp_path, IDENTITY), alpha=8.0)
    teacher.attach(lm)
    w = lm.head.weight.detach()
    l_o, l_aug = x["original"] @ w.T, x["strengthened"] @ w.T
    plain = torch.softmax(l_o - 8 * F.relu(l_aug - l_o), -1)
    others = torch.softmax(x["uninformed"] @ w.T, -1).mean(1)
    raised = torch.maximum(plain, others)
    raised = raised / raised.sum(-1, keepdim=True)
    expected = torch.where(x["floored"][:, None], raised, plain)
    torch.testing.assert_close(teacher.composite(x, spare(lm)).exp(), expected)
    assert (expected[0] - plain[0]).abs().max() > 1e-3
