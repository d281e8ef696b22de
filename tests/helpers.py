"""What several test files share: tiny models, records and objectives, through the real trainer and cache."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.evaluation.generation import Generated
from rkld.losses.objective import Objective
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded
from rkld.teacher.cache import HiddenCache, Part
from rkld.teacher.logits import Teacher
from rkld.training.config import RKLDConfig
from rkld.training.strengthening import fill_cache
from rkld.training.terms import build_terms, cached_parts
from rkld.training.trainer import ObjectiveTrainer

TOKENIZER = tiny_tokenizer()


def texts(answers: Sequence[Sequence[Generated]]) -> list[str]:
    """What was answered to each record in its own format."""
    return [own.text for own, *_ in answers]


def model(tied: bool = True, lora: bool = False, dtype: torch.dtype = torch.float64, seed: int = 0) -> LanguageModel:
    """A random Llama of two blocks, d = 16, with the tiny tokenizer."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=tied, initializer_range=0.3, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    net = LlamaForCausalLM(config).to(dtype)
    if lora:
        net = get_peft_model(net, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        for name, p in net.named_parameters():
            if "lora_" in name:
                p.data = torch.randn_like(p, dtype=dtype) * 0.1
        net.to(dtype)
    return LanguageModel(net, TOKENIZER, "test")


def records(name: str, lengths: Sequence[int], seed: int, score: str = "answer") -> list[Encoded]:
    """Random records of these lengths in tokens, keys "NAME0", "NAME1", …"""
    g = torch.Generator().manual_seed(seed)
    found = []
    for i, n in enumerate(lengths):
        ids = tuple(torch.randint(3, len(TOKENIZER), (n,), generator=g).tolist())
        prompt = 2 + n // 3
        answer = tuple(t >= prompt for t in range(n))
        spans = tuple(a and t % 3 == 0 for t, a in enumerate(answer))
        found.append(Encoded(f"{name}{i}", ids, answer, spans if score == "spans" else answer, prompt))
    return found


def in_processes(
    n: int,
    program: Sequence[str],
    seconds: float = 300,
    *,
    launcher: Sequence[str] | None = None,
    packages: Path | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """A script, or ``-m`` and a module, with its arguments, on ``n`` processes of this machine's CPU, by torchrun.

    ``launcher`` is another one with its arguments, as Python runs it, and ``packages`` a folder of more of them.
    One that hangs is ended, with all of them, and fails.
    """
    path = os.pathsep.join([*([str(packages)] if packages else []), *filter(None, sys.path)])
    variables = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"} | environment
    launcher = launcher or ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
    started = subprocess.Popen(
        [sys.executable, *launcher, *program], env=variables, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = started.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGTERM)  # torchrun ends those that it has started, in groups of their own
        try:
            out, err = started.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            started.kill()
            raise
        raise AssertionError(f"no end after {seconds:.0f} seconds: {err[-3000:]}") from None
    return subprocess.CompletedProcess(started.args, started.returncode, out, err)


def config(folder: Path, **values: Any) -> RKLDConfig:
    """Of one epoch of one step, on the CPU, without clipping."""
    defaults = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "max_grad_norm": 0.0, "learning_rate": 1e-3,
                "use_cpu": True, "seed": 3}  # fmt: skip
    return RKLDConfig(output_dir=str(folder), **{**defaults, **values})


def our_gradients(
    lm: LanguageModel, objective: Objective, args: RKLDConfig, accumulation: int = 1
) -> tuple[float, dict[str, torch.Tensor]]:
    """Gradients of one optimizer step through the trainer's own data and loss, micro-batch by micro-batch."""
    trainer = ObjectiveTrainer(lm, args, objective)
    lm.model.zero_grad()
    total = 0.0
    for i in range(accumulation):
        loss = trainer.compute_loss(lm.model, trainer.batches[i])
        loss.backward()
        total += loss.item()
    return total, {n: p.grad.clone() for n, p in lm.model.named_parameters() if p.grad is not None}


def strengthen_noisily(lm: LanguageModel, seed: int = 1) -> None:
    """A strengthened model that differs everywhere, as training would make it, exactly reproducible."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in lm.model.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn_like(p))


def strengthen_to(strong: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have strengthening end in the weights of ``strong``, without training."""

    def fine_tune(lm: LanguageModel, *_: object) -> None:
        lm.model.load_state_dict(strong.model.state_dict())

    monkeypatch.setattr("rkld.training.strengthening.fine_tune", fine_tune)


def teacher_of(
    lm: LanguageModel,
    strong: LanguageModel,
    sets: Mapping[str, Sequence[Encoded]],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: RKLDConfig,
) -> Teacher:
    """A real cache, with the given strengthened model in the place of fine-tuning."""
    strengthen_to(strong, monkeypatch)
    teacher = Teacher(HiddenCache(folder / "cache", {}), alpha=args.alpha)
    parts = {Part("original", name) for name in sets} | {Part("strengthened", "forget")}
    parts |= cached_parts(build_terms(sets, teacher, lm, args))
    fill_cache(lm, teacher.cache, sets, replace(args, output_dir=str(folder / "s")), parts=parts)
    return teacher
