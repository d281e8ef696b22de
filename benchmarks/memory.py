"""Memory of one training step, worked out on paper: will a model fit a given GPU?

    python -m benchmarks.memory [--json FILE]

Also, in results/several_gpus.md, how many GPUs models from 1B to 405B take, and how long.

For machines that are not at hand; on one that is, ``rkld check`` measures instead. The terms, in bytes, with P weights
of b bytes each, P' of them trained, V tokens, hidden size d, MLP size i, L layers, N positions of a micro-batch:

- weights P·b, gradients P'·b, AdamW's two states 2·P'·b (8 bit: 2·P')
- frozen heads of the teacher: 2·V·d·b, where all weights are trained
- gradient of the head, gathered in float32: 4·V·d, where it is trained
- a chunk's logits: on a CPU four buffers of float32, on a GPU two of b bytes and a block of products
- activations: N·(10·d + 4·i)·b for every layer, or for one of them and N·d·b for the others with checkpointing

The last line is SmolLM2 on a CPU, which benchmarks.step measures: paper and practice can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import torch

from benchmarks.common import write
from rkld.losses.chunked import chunk_rows_for
from rkld.losses.fused import BLOCK_BYTES
from rkld.losses.micro_batches import steps_per_epoch
from rkld.pipeline.estimating import TRAINED
from rkld.settings.unlearning import Settings


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's kind."""

    weights: float
    vocabulary: int
    hidden: int
    mlp: int
    layers: int

    def adapter(self, rank: int = 16) -> float:
        """Weights of a LoRA adapter on all linear layers: 4 of attention (taken as square), 3 of the MLP."""
        return self.layers * rank * (4 * 2 * self.hidden + 3 * (self.hidden + self.mlp))


SHAPES = {
    "LLaMA-2-7B": Shape(6.74e9, 32000, 4096, 11008, 32),
    "Llama-3.1-8B": Shape(8.03e9, 128256, 4096, 14336, 32),
    "SmolLM2-135M": Shape(134.5e6, 49152, 576, 1536, 30),
    "Llama-3.2-1B": Shape(1.24e9, 128256, 2048, 8192, 16),
    "Llama-3.1-70B": Shape(70.6e9, 128256, 8192, 28672, 80),
    "Llama-3.1-405B": Shape(405.9e9, 128256, 16384, 53248, 126),
}


@dataclass(frozen=True)
class Recipe:
    """How it is trained: flags of ``rkld unlearn``, and what they mean in bytes."""

    flags: str
    lora: bool
    weight_bytes: int
    state_bytes: float
    """Of the optimizer, per trained weight."""
    checkpointing: bool
    positions: int
    device: str
    overhead: float
    """Of the framework and its kernels."""


LORA = Recipe("--lora --dtype bfloat16 --gradient-checkpointing --batch-size 8", True, 2, 8, True, 8 * 512, "cuda", 1e9)
FULL = Recipe("--dtype bfloat16 --optim adamw_bnb_8bit --gradient-checkpointing --batch-size 8", False, 2, 2, True,
              8 * 512, "cuda", 1e9)  # fmt: skip
CPU = Recipe("--batch-size 8 --replay none (float32, CPU)", False, 4, 8, False, 8 * 90, "cpu", 0.45e9)


def parts(shape: Shape, recipe: Recipe) -> dict[str, float]:
    """Bytes by term, as the head of this file lists them."""
    b, n = recipe.weight_bytes, recipe.positions
    head = shape.vocabulary * shape.hidden
    trained = shape.adapter() if recipe.lora else shape.weights
    trained_bytes = 4 if recipe.lora else b  # PEFT holds adapters in float32
    layer = n * (10 * shape.hidden + 4 * shape.mlp) * b
    kept = (shape.layers - 1) * n * shape.hidden * b if recipe.checkpointing else (shape.layers - 1) * layer
    dtype, on_gpu = {2: torch.bfloat16, 4: torch.float32}[b], recipe.device != "cpu"
    rows = chunk_rows_for(shape.vocabulary, dtype, torch.device(recipe.device), fused=on_gpu)
    buffers = 2 * b * rows * shape.vocabulary + BLOCK_BYTES if on_gpu else 4 * 4 * rows * shape.vocabulary
    return {
        "weights": shape.weights * b + (trained * 4 if recipe.lora else 0),
        "gradients": trained * trained_bytes,
        "optimizer": trained * recipe.state_bytes,
        "heads": 0 if recipe.lora else 2 * head * b + 4 * head,
        "logits": buffers,
        "activations": layer + kept,
        "framework": recipe.overhead,
    }


GPU, USABLE, RATE = 80e9, 0.9, 400e12
"""Of one GPU: bytes, the share of them that a run may take, and multiplications and additions a second that bfloat16
training is assumed to reach (an H100 does 989e12 at its peak)."""

RECORDS, TOKENS, SCORED = 100, 512, 64
"""Of a request: records, their length, and the tokens of an answer; as many replayed answers beside them."""


def on_each(shape: Shape, recipe: Recipe, gpus: int) -> float:
    """Bytes on each of several GPUs by FSDP2: weights, gradients and optimizer in equal parts, gathered block by block.

    Each takes a part of the step's records. The teacher's frozen heads, and the gradient of the student's until it is
    reduced, are whole everywhere.
    """
    split = Recipe(**{**vars(recipe), "positions": max(recipe.positions // gpus, TOKENS)})
    terms = parts(shape, split)
    if gpus > 1:
        gathered = max(shape.weights / shape.layers, shape.vocabulary * shape.hidden) * recipe.weight_bytes
        for name in ("weights", "gradients", "optimizer"):
            terms[name] /= gpus
        terms["gathered"] = 2 * gathered  # the next one is fetched meanwhile
    return sum(terms.values())


def gpus_needed(shape: Shape, recipe: Recipe) -> int:
    """The fewest GPUs, as a power of two, that hold a step."""
    return next(n for n in (2**i for i in range(13)) if on_each(shape, recipe, n) <= USABLE * GPU)


def cache_bytes(shape: Shape, recipe: Recipe) -> float:
    """Of the cache: states of the original and the strengthened model, of replayed answers the original's, and
    where all weights are trained both heads."""
    heads = 0 if recipe.lora else 2 * shape.vocabulary * shape.hidden
    return (3 * RECORDS * SCORED * shape.hidden + heads) * recipe.weight_bytes


def training_seconds(shape: Shape, gpus: int) -> float:
    """Of strengthening and distillation with the default epochs and no stop, communication left out."""
    s = Settings()
    steps = steps_per_epoch(RECORDS, s.batch_size)
    records = s.strengthen_epochs * steps * s.batch_size + s.epochs * steps * 2 * s.batch_size
    return records * TOKENS * TRAINED * 2 * shape.weights / (gpus * RATE)


def several() -> tuple[dict[str, dict[str, float]], list[str]]:
    """The table of several GPUs: figures by case, and its lines."""
    found: dict[str, dict[str, float]] = {}
    lines = ["| model | trained | GPUs | GB on each | cache, GB | training, minutes |", "|---|---|---|---|---|---|"]
    for name in ("Llama-3.2-1B", "Llama-3.1-8B", "Llama-3.1-70B", "Llama-3.1-405B"):
        for recipe in (LORA, FULL):
            shape, what = SHAPES[name], "LoRA" if recipe.lora else "all weights, 8-bit AdamW"
            n = gpus_needed(shape, recipe)
            one = {"gpus": n, "bytes": on_each(shape, recipe, n), "cache": cache_bytes(shape, recipe),
                   "seconds": training_seconds(shape, n)}  # fmt: skip
            found[f"{name} {what}"] = one
            cells = f"{n} | {one['bytes'] / 1e9:.0f} | {one['cache'] / 1e9:.2f} | {one['seconds'] / 60:.1f}"
            lines.append(f"| {name} | {what} | {cells} |")
    return found, lines


@click.command(help=__doc__.split("\n")[0])
@click.option("--json", "results", type=click.Path(path_type=Path), default="benchmarks/results/memory.json",
              show_default=True)  # fmt: skip
def main(results: Path) -> None:
    cases = [(name, recipe) for recipe in (LORA, FULL) for name in ("LLaMA-2-7B", "Llama-3.1-8B")]
    found, lines = {}, []
    for name, recipe in [*cases, ("SmolLM2-135M", CPU)]:
        terms = parts(SHAPES[name], recipe)
        found[f"{name} {recipe.flags}"] = terms
        if not lines:
            lines = ["| model | recipe | " + " | ".join(terms) + " | GB in all |", "|---" * (len(terms) + 3) + "|"]
        cells = " | ".join(f"{value / 1e9:.2f}" for value in terms.values())
        lines.append(f"| {name} | `{recipe.flags}` | {cells} | **{sum(terms.values()) / 1e9:.1f}** |")
        print(lines[-1])
    body = "Sequences of 512 tokens, 8 of them in a step (SmolLM2: 8 of 90).\n\n" + "\n".join(lines)
    write(results.parent, results.stem, "Memory of a step, on paper", "python -m benchmarks.memory", found, body)
    figures, lines = several()
    print("\n".join(lines))
    body = (
        f"On paper, nothing of it measured: GPUs of {GPU / 1e9:.0f} GB, of which {USABLE:.0%} are used; {RECORDS} "
        f"records of {TOKENS} tokens with answers of {SCORED}, as many replayed; the default epochs without a stop; "
        f"{RATE / 1e12:.0f} TFLOP/s a GPU, communication left out. A model that fits one GPU is unlearned by `rkld "
        "unlearn`, by torchrun on several. One that takes several is split over them by `rkld unlearn --shard` "
        "(FSDP2).\n\n" + "\n".join(lines)
    )
    title = "Models on several GPUs, on paper"
    write(results.parent, "several_gpus", title, "python -m benchmarks.memory", figures, body)


if __name__ == "__main__":
    main()
