"""Both checkpoints: whoever kept the original reads off the difference what was taken out.

Wu et al. 2025 (arXiv 2505.24379): tokens are chosen by ``l_before + w · (l_before − l_after)``; with w = 1 that is
``2·l_before − l_after``. So that the difference of two noises is not what speaks, only tokens that the original finds
likely are considered: ``p_before ≥ γ · max p_before``, as in contrastive decoding (Li et al. 2023, arXiv 2210.15097,
whose γ of .1 is taken). It holds for exact retraining, too: set it beside the control's and the original's own answers,
which the attacker has anyway.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace

import torch
from torch import Tensor

from rkld.auditing.inputs import Task
from rkld.auditing.reading import GENERATION, SAID, Attack, Reader, encode_asked
from rkld.auditing.registry import ATTACKS
from rkld.evaluation.backends import LocalBackend
from rkld.evaluation.readings import Rows
from rkld.methods.two_models import TwoModelCausalLM
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoder

GUIDANCE = 1.0
"""w, no unit."""

LIKELY = 0.1
"""γ: of the largest probability by the original, that a token must have to be considered."""


@ATTACKS.register("both_checkpoints")
class BothCheckpoints(Attack):
    """Greedy answers by the logits of the original and of this model together; of the original its own."""

    title = "extraction by the original and the unlearned model together"
    risk = "exfiltration"
    settings = GENERATION
    words = "by both checkpoints"
    metric_names = (*SAID, "rouge_l")
    beside = ("original",)
    needs = "--original, and memory for both"
    cost = "1 answer a question by two models"
    source = "Wu et al. 2025, arXiv 2505.24379"

    def encode(self, task: Task, encoder: Encoder) -> None:
        encode_asked(encoder, task.asked)

    def read(self, reader: Reader) -> Rows:
        lm, encoder = reader.loaded()
        if reader.role == "original":  # 2·l − l
            return reader.answers(self.name, reader.task.asked)
        both = together(reader.other("original"), lm)
        return replace(reader, backend=LocalBackend(both, encoder), lm=both).answers(self.name, reader.task.asked)


def together(before: LanguageModel, after: LanguageModel) -> LanguageModel:
    """The two as one model whose logits are :func:`guided`. They are used, not copied."""
    return dataclasses.replace(after, model=TwoModelCausalLM(before.inner, after.inner, guided))


def guided(before: Tensor, after: Tensor) -> Tensor:
    """Logits (…, V) of both → those that are decoded; tokens that are not considered lie below all others."""
    considered = before >= before.amax(-1, keepdim=True) + math.log(LIKELY)
    found = before + GUIDANCE * (before - after)
    return torch.where(considered, found, found.amin(-1, keepdim=True) - 1)  # finite: differences are taken of logits
