"""Memory of one training step, worked out on paper: will a model fit a given GPU?

    python -m benchmarks.memory [--json FILE]

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


if __name__ == "__main__":
    main()
