"""Activation steering: the name's own direction is added while the model answers.

Seyitoğlu et al. 2024 (arXiv 2411.02631): the difference of a hidden state between the question and the same without the
name points to what the model associates with it, and pushes it back to where the answer lies. Method: ``v = h_l(q) −
mean_k h_l(q_k)`` at the last position of the prompt, q_k with other names; ``h_l + c·v`` at every position while it
answers. They take the most frequent of many sampled answers; here it is the greedy one. Layer and c are fixed before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rkld.auditing.attacks.logit_lens import blocks
from rkld.auditing.inputs import Task
from rkld.auditing.reading import GENERATION, SAID, Attack, Reader, encode_asked
from rkld.auditing.registry import ATTACKS
from rkld.errors import UserError
from rkld.evaluation.likelihood import measuring
from rkld.evaluation.readings import Rows
from rkld.models.language_model import LanguageModel
from rkld.progress import NoProgress
from rkld.records.encoding import Encoder
from rkld.records.names import other_names, own_identifiers, swap_name
from rkld.records.record import Record

NAMES = 4
"""Other names whose mean is what the person's is set against."""

STRENGTH = 2.0
"""c, no unit."""


@ATTACKS.register("activation_steering")
class ActivationSteering(Attack):
    """Greedy answers with what the name does to the middle layer added twice more."""

    title = "activations pushed along what the name does to them"
    risk = "attribute inference"
    settings = GENERATION
    words = "activations steered towards the name"
    metric_names = SAID
    needs = "questions that name the person"
    cost = "1 answer a question, one at a time, and 5 readings of its prompt"
    source = "Seyitoğlu et al. 2024, arXiv 2411.02631"

    def missing(self, task: Task) -> str | None:
        return None if any(others(task, record) for record in task.asked) else "needs questions that name the person"

    def why_not_applicable(self, lm: LanguageModel) -> str | None:
        try:
            block(lm, middle(lm))
        except UserError as error:
            return str(error)
        return None

    def encode(self, task: Task, encoder: Encoder) -> None:
        encode_asked(encoder, [record for record in task.asked if others(task, record)])

    def read(self, reader: Reader) -> Rows:
        lm, encoder = reader.loaded()
        layer, rows, quiet = middle(lm), Rows(), replace(reader, progress=NoProgress())
        with reader.progress.bar(f"{reader.role}: {self.name}", len(reader.task.asked)) as advance:
            for record in reader.task.asked:
                if compared := others(reader.task, record):
                    vector = direction(lm, encoder, record, compared, layer)
                    with steered(lm, layer, STRENGTH * vector):
                        rows |= quiet.answers(self.name, [record])
                advance(1)
        return rows


def others(task: Task, record: Record) -> list[Record]:
    """The record about some who are nobody, where its question names the person."""
    if record.form == "text" or not record.question:
        return []
    own = own_identifiers(record, task.forget, task.identifiers)
    found = (swap_name(record, own, name) for name in other_names()[:NAMES]) if own else ()
    return [one for one in found if one is not None and one.question != record.question]


def middle(lm: LanguageModel) -> int:
    """The block whose output is steered."""
    return (blocks(lm) - 1) // 2


def direction(lm: LanguageModel, encoder: Encoder, record: Record, compared: Sequence[Record], layer: int) -> Tensor:
    """v, (d,): the state behind a block at the end of the prompt, less its mean over the others' prompts."""

    def last(one: Record) -> Tensor:
        ids = torch.tensor([encoder.prompt(one)], device=lm.device)
        with _outputs(block(lm, layer)) as found:
            lm.backbone(input_ids=ids, use_cache=False)
        return found[0][0, -1]

    with measuring(lm.model):
        return last(record) - torch.stack([last(one) for one in compared]).mean(0)


@contextmanager
def _outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    found: list[Tensor] = []
    hook = module.register_forward_hook(lambda _, __, output: found.append(_hidden(output)))
    try:
        yield found
    finally:
        hook.remove()


@contextmanager
def steered(lm: LanguageModel, layer: int, vector: Tensor) -> Iterator[None]:
    """``vector`` (d,) is added to what a block gives, at every position, for as long as the block of code lasts."""

    def add(_: nn.Module, __: Any, output: Any) -> Any:
        changed = _hidden(output) + vector.to(_hidden(output))
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    hook = block(lm, layer).register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def _hidden(output: Any) -> Tensor:
    """(B, L, d) of what a block returns, which is a tuple in some models."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def block(lm: LanguageModel, layer: int) -> nn.Module:
    """A block of the model, from 0.

    Raises:
        UserError: they are in no list of as many as the config says.
    """
    for module in lm.backbone.modules():
        if isinstance(module, nn.ModuleList) and len(module) == blocks(lm):
            return module[layer]
    raise UserError(f"the blocks of {type(lm.inner).__name__} are in no list: its activations cannot be steered")
