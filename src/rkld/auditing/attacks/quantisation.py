"""Weight quantisation: rounding can undo an unlearning whose changes are smaller than the grid.

Zhang et al. 2024 (arXiv 2410.16454) got back 83% of the forgotten knowledge with 4 bits, worst after unlearning at
small learning rates. Here weights are rounded and computed with in their own dtype, so every metric runs, on a CPU too.
Ready-made AWQ, GPTQ, FP8 and bitsandbytes folders are loaded by :func:`rkld.models.loading.load_model`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rkld.auditing.inputs import Task
from rkld.auditing.reading import GENERATION, Attack, Reader, encode_asked
from rkld.auditing.registry import ATTACKS
from rkld.errors import UserError
from rkld.evaluation.backends import LocalBackend
from rkld.evaluation.metric import Metric
from rkld.evaluation.readings import Rows, likelihood_rows
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoder

LEAST_SHARE = 0.5
"""Of the weights beside embeddings and head that must lie in linear layers; with fewer the attack would be none."""


class Quantisation(Attack):
    """Likelihood and answers of the model with its weights rounded."""

    risk = "quantisation"
    settings = GENERATION
    bits: ClassVar[int]
    group_size: ClassVar[int] = 128
    """Columns; 0: whole rows."""
    needs = "linear layers"
    cost = "1 answer a question and a reading of the likelihoods, of an adapter's model twice"
    source = "Zhang et al. 2024, arXiv 2410.16454"

    def why_not_applicable(self, lm: LanguageModel) -> str | None:
        try:
            _linear_layers(lm)
        except UserError as error:
            return str(error)
        return None

    def encode(self, task: Task, encoder: Encoder) -> None:
        encode_asked(encoder, task.asked)

    def read(self, reader: Reader) -> dict[str, Rows]:
        """Rows of the "merged" model and, of an adapter's, of its rounded "base" under the adapter as it is."""
        model, encoder = reader.loaded()
        task = reader.task
        found: dict[str, Rows] = {}
        parts: tuple[Literal["merged", "base"], ...] = ("merged", "base") if model.is_adapter else ("merged",)
        for part in parts:
            with quantised(model, self.bits, group_size=self.group_size, adapter=part) as lm:
                rounded = Reader(
                    f"{reader.role}, {self.name}",
                    LocalBackend(lm, encoder),
                    encoder,
                    lm,
                    reader.task,
                    reader.progress,
                )
                rows, answers = likelihood_rows(lm, encoder, task.forget), rounded.answers("answers", task.asked)
            found[part] = {key: {**rows.get(key, {}), **row} for key, row in answers.items()}
        return found

    def metrics(self) -> list[Metric]:
        names = ("probability", "extraction_strength", "rouge_l", "facts_said")
        groups = {0: " by rows", 128: ""}.get(self.group_size, f" in groups of {self.group_size}")
        merged, base = (
            f"weights {how}rounded to {self.bits} bits{groups}" for how in ("merged, then ", "of the base ")
        )
        return [
            *(self.metric(name, words=merged, part="merged") for name in names),
            *(self.metric(name, f"{self.name}_base", base, part="base") for name in names),
        ]


@ATTACKS.register("4bit")
class FourBit(Quantisation):
    """At 4 bits."""

    title = "weights rounded to 4 bits, group by group"
    bits = 4


@ATTACKS.register("8bit")
class EightBit(Quantisation):
    """At 8 bits."""

    title = "weights rounded to 8 bits, group by group"
    bits = 8


class CoarserOrFiner(Quantisation):
    """Other bits and group sizes than the two that are usual: judged where they were asked for."""

    judged = True


@ATTACKS.register("3bit")
class ThreeBit(CoarserOrFiner):
    """At 3 bits."""

    title = "weights rounded to 3 bits, group by group"
    bits = 3


@ATTACKS.register("4bit_g32")
class FourBitSmallGroups(CoarserOrFiner):
    """At 4 bits in small groups, as GGUF has them: what is rounded least keeps most of an unlearning."""

    title = "weights rounded to 4 bits in groups of 32"
    bits, group_size = 4, 32


@ATTACKS.register("4bit_rows")
class FourBitRows(CoarserOrFiner):
    """At 4 bits by whole rows: the coarsest grid, which small changes of an unlearning least outlive."""

    title = "weights rounded to 4 bits, a whole row at a time"
    bits, group_size = 4, 0


def round_to_groups(weight: Tensor, bits: int, group_size: int) -> Tensor:
    """``weight`` (rows, columns) rounded to the nearest of ``2**bits`` levels per group of columns; same dtype.

    In each row every ``group_size`` columns, and the rest of them at the end, have levels of their own, evenly spaced
    from their smallest to their largest value. At 4 bits and groups of 32 these are GGUF's Q4_1, whose offset and
    spacing are kept here in float32. ValueError unless 1 ≤ bits ≤ 8 and group_size ≥ 1.
    """
    if not 1 <= bits <= 8 or group_size < 1:
        raise ValueError(f"{bits} bits in groups of {group_size}: give 1 to 8 bits and groups of 1 column or more")
    rows, columns = weight.shape
    # A last group filled up with its own last value keeps its smallest and largest.
    filled = F.pad(weight.float()[None], (0, -columns % group_size), mode="replicate")
    groups = filled.view(rows, -1, group_size)  # (rows, groups, group_size)
    low, high = groups.aminmax(dim=2, keepdim=True)  # (rows, groups, 1) each
    step = ((high - low) / (2**bits - 1)).clamp(min=torch.finfo(torch.float32).tiny)  # a group may be constant
    rounded = low + step * ((groups - low) / step).round()
    return rounded.reshape(rows, -1)[:, :columns].to(weight.dtype)


@contextmanager
@torch.no_grad()
def quantised(
    lm: LanguageModel, bits: int, *, group_size: int = 128, adapter: Literal["merged", "base"] = "merged"
) -> Iterator[LanguageModel]:
    """``lm`` with the weights of its linear layers rounded (:func:`round_to_groups`), for as long as the block lasts.

    Afterwards the weights are what they were, bit by bit; until then they wait in CPU memory. Left as they are:
    embeddings and head, often one and the same, which GPTQ, AWQ and bitsandbytes leave too, and norms and biases, which
    are small.

    Args:
        bits: 3, 4 or 8 in practice.
        group_size: columns, 0 for whole rows; 128 is usual for AWQ and GPTQ. Not that of a base model which came out of
            a rounded file itself (the alias smollm2-135m: 32): on the base's own grid rounding takes the weights back
            to the base, and all fine-tuning with it.
        adapter: of an adapter's model: it is merged into its base, which is then rounded; or the base is rounded and
            the adapter works on it as it is, as in QLoRA.

    Raises:
        UserError: the weights are quantised already, or most of them lie in other layers.
    """
    layers = _linear_layers(lm)
    kept = [(p, p.detach().to("cpu", copy=True)) for layer in layers for p in layer.parameters(recurse=False)]
    merged = lm.is_adapter and adapter == "merged"
    try:
        if merged:
            lm.model.merge_adapter()
        for layer in layers:
            # Conv1D (GPT-2) keeps its weight as (inputs, outputs).
            weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
            weight.copy_(round_to_groups(weight, bits, group_size or weight.shape[1]))
        yield lm
    finally:
        if merged:
            lm.model.unmerge_adapter()  # by subtraction, which only the copies make exact
        for parameter, original in kept:
            parameter.copy_(original)


def _linear_layers(lm: LanguageModel) -> list[nn.Linear]:
    """The model's own linear layers but the head, nothing that an adapter brings. UserError as of :func:`quantised`."""
    if lm.is_quantised:
        raise UserError(f"The weights of {lm.source} are quantised already: give the model they were made from.")
    aside = {lm.head, lm.inner.get_input_embeddings()}
    for layer in lm.model.modules():
        if isinstance(layer, BaseTunerLayer):
            aside |= set(layer.modules()) - set(layer.get_base_layer().modules()) - {layer}
    # Conv1D (GPT-2) is a linear layer in all but its class.
    layers = cast(
        list[nn.Linear],
        [m for m in lm.model.modules() if isinstance(m, (nn.Linear, Conv1D)) and m not in aside],
    )
    left = {p for module in aside for p in module.parameters()}
    total = sum(p.numel() for p in lm.model.parameters() if p not in left)
    share = sum(layer.weight.numel() for layer in layers) / max(total, 1)
    if share < LEAST_SHARE:
        raise UserError(
            f"Only {share:.0%} of the weights of {lm.source} lie in linear layers (a mixture of experts keeps its own "
            "in others): quantise it with its own tool, and audit that folder."
        )
    return layers
