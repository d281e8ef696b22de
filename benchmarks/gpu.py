"""On a GPU, in bfloat16: a training step of models with LLaMA's shapes and random weights, and the loss alone.

    python -m benchmarks.gpu [--part steps] [--part losses] [--json FILE]

A step is 8 or 32 records of 512 tokens, of which about 480 are scored, by the same variants as benchmarks/step.py. The
7B shape is trained by LoRA of rank 16, with gradient checkpointing on all sides. One process; the mean of five calls
after one to warm up, with one wait for the GPU at the end; peaks are what torch has allocated.
"""

from __future__ import annotations

import gc
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common import write
from benchmarks.loss import DEVICE, LOSSES, Problem
from benchmarks.step import Case, naive, ours, plain_sft, sft_on_answers, toggled
from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.models.adapters import new_adapter
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.training.config import RKLDConfig

LENGTH = 512
CALLS = 5
"""In a row, as in training: the next step's records are read while the GPU is at work on this one's."""

SHAPES = {  # Llama-3.2-1B and LLaMA-2-7B
    "1B": {
        "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": True,
    },
    "7B": {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "intermediate_size": 11008, "vocab_size": 32000, "tie_word_embeddings": False,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Shape(Case):
    """A case of benchmarks/step.py, with random weights; ``model`` names the shape."""

    def load(self) -> LanguageModel:
        torch.manual_seed(0)
        config = LlamaConfig(**SHAPES[self.model], max_position_embeddings=4096)
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with DEVICE:
                model = LlamaForCausalLM(config)
        finally:
            torch.set_default_dtype(default)
        tokenizer = tiny_tokenizer()
        tokenizer.model_max_length = 4096
        if self.model == "7B":
            model.gradient_checkpointing_enable({"use_reentrant": False})
        lm = load_model(model, tokenizer=tokenizer)
        return new_adapter(lm) if self.lora else lm

    def args(self, parts: int = 1) -> RKLDConfig:
        return replace(super().args(parts), num_train_epochs=8)  # as many steps as are measured, of 32 records

    def records(self) -> dict:
        words = " ".join(["one", "two", "three", "four"] * LENGTH)
        tokenizer = tiny_tokenizer()

        def record(number: int) -> dict:
            ids = tokenizer(f"{number} {words}", add_special_tokens=False).input_ids[: LENGTH - 32]
            return {"question": f"What is number {number}?", "answer": tokenizer.decode(ids)}

        sets = {"forget": [record(i) for i in range(32)]}
        return sets | ({"replay": [record(100 + i) for i in range(32)]} if self.replay else {})


CASES = (  # shape, LoRA, replay, records, variants
    ("1B", False, False, 8, ("naive", "sft", "answer_only_sft")),
    ("1B", False, True, 8, ("naive", "sft", "answer_only_sft")),
    ("1B", False, False, 32, ("naive", "answer_only_sft")),
    ("1B", True, False, 8, ("naive", "toggled", "answer_only_sft")),
    ("1B", True, False, 32, ("naive", "answer_only_sft")),
    ("7B", True, False, 8, ("naive", "toggled", "answer_only_sft")),
    ("7B", True, False, 32, ("naive", "answer_only_sft")),
)
VARIANTS = {"naive": naive, "sft": plain_sft, "answer_only_sft": sft_on_answers, "toggled": toggled}

LOSS_SHAPES = ((4096, 128256, 2048), (4096, 32000, 4096))
"""T, V and hidden size."""

KINDS = (("rkl", "ours", ("naive",)), ("jsd", "ours_jsd", ("naive_jsd", "trl_jsd", "liger_jsd")))
"""Reverse KL to the composite teacher, and Jensen–Shannon to a plain one as the libraries have it."""


def measured(prepare: Callable[..., Callable[[], Any]], *args: Any) -> dict[str, float] | str:
    """Mean seconds and peak bytes of ``prepare(*args)()``; what stood in the way, where something did."""
    try:
        work = prepare(*args)
        work()
        torch.cuda.synchronize()
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        before, started = torch.cuda.memory_allocated(), time.perf_counter()
        for _ in range(CALLS):
            work()
        torch.cuda.synchronize()
        seconds, peak = (time.perf_counter() - started) / CALLS, torch.cuda.max_memory_allocated()
        return {"seconds": seconds, "peak_bytes": peak, "extra_bytes": peak - before}
    except torch.OutOfMemoryError:
        return "out of memory"
    except ImportError as error:
        return str(error)
    finally:
        work = None
        gc.collect()
        torch.cuda.empty_cache()


def loss_alone(name: str, T: int, V: int, d: int, trainable: bool) -> Callable[[], None]:
    problem, loss = Problem.random(T, V, trainable, d, torch.bfloat16), LOSSES[name]

    def work() -> None:
        loss(problem).backward()
        problem.hidden.grad = problem.head.grad = None

    return work


def compare(key: str, ours_by: dict, others: dict[str, dict | str], memory: str, found: dict) -> None:
    """Add the figures of ours and of the others, and ours over each other's."""
    found["measured"][key] = {"ours": ours_by, **others}
    for name, other in others.items():
        if isinstance(other, dict) and isinstance(ours_by, dict):
            found["ratios"][f"{key}.time.vs_{name}"] = round(ours_by["seconds"] / other["seconds"], 4)
            found["ratios"][f"{key}.memory.vs_{name}"] = round(ours_by[memory] / other[memory], 4)


def steps(found: dict) -> None:
    for shape, lora, replay, records, names in CASES:
        with tempfile.TemporaryDirectory() as folder:
            case = Shape(shape, Path(), lora, replay, Path(folder), True, records)
            mine = measured(ours, case)
            others = {name: measured(VARIANTS[name], case) for name in names}
        key = f"{shape}.{'lora' if lora else 'full'}{'.replay' if replay else ''}.batch{records}"
        compare(key, mine, others, "peak_bytes", found)
        print(key, found["measured"][key], flush=True)


def losses(found: dict) -> None:
    for T, V, d in LOSS_SHAPES:
        for trainable in (True, False):
            for what, mine, names in KINDS:
                key = f"loss.{what}.{T}x{V}.{'trainable' if trainable else 'frozen'}_head"
                others = {name: measured(loss_alone, name, T, V, d, trainable) for name in names}
                compare(key, measured(loss_alone, mine, T, V, d, trainable), others, "extra_bytes", found)
                print(key, found["measured"][key], flush=True)


def table(found: dict) -> str:
    lines = [
        "| case | variant | ms | peak GB | above the state before, GB | ours / it: time | memory |",
        "|---" * 7 + "|",
    ]
    for key, variants in found["measured"].items():
        for name, figures in variants.items():
            if isinstance(figures, str):
                lines.append(f"| {key} | {name} | {figures} |||||")
                continue
            cells = [
                f"{1e3 * figures['seconds']:.1f}",
                *(f"{figures[n] / 1e9:.2f}" for n in ("peak_bytes", "extra_bytes")),
            ]
            against = [str(found["ratios"].get(f"{key}.{what}.vs_{name}", "")) for what in ("time", "memory")]
            lines.append("| " + " | ".join([key, name, *cells, *against]) + " |")
    return "\n".join(lines)


@click.command(help=__doc__.split("\n")[0])
@click.option("--part", "parts", type=click.Choice(["steps", "losses"]), multiple=True, default=("losses", "steps"),
              show_default=True, help="What is measured.")  # fmt: skip
@click.option("--json", "results", type=click.Path(path_type=Path), default="benchmarks/results/gpu.json",
              show_default=True)  # fmt: skip
def main(parts: tuple[str, ...], results: Path) -> None:
    if not torch.cuda.is_available():
        raise click.ClickException("this needs a GPU; benchmarks.step and benchmarks.loss measure on a CPU.")
    found: dict = {"ratios": {}, "measured": {}}
    for part in parts:
        {"steps": steps, "losses": losses}[part](found)
        write(results.parent, results.stem, "A step and the loss on a GPU, bfloat16", "python -m benchmarks.gpu",
              found, table(found))  # fmt: skip
    print(json.dumps(found["ratios"], indent=1))


if __name__ == "__main__":
    main()
