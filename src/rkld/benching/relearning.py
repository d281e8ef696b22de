"""What comes back where a share of the forgotten is learned again, beside a benchmark's own figures.

The attack is the audit's (:mod:`rkld.auditing.attacks.relearning`), at the benchmark's learning rate, on every state
that is measured. Reference models are attacked alike: the retrained model shows how far what was never known rises.
"""

from __future__ import annotations

import math

from rkld import processes
from rkld.auditing.attacks.relearning import BATCH_SIZE, draw, relearn, uneven
from rkld.benching.benchmark import Task
from rkld.benching.tables import RELEARNED, RELEARNING_GAIN
from rkld.errors import Diverged, UserError
from rkld.methods.two_models import TwoModelCausalLM
from rkld.models.language_model import LanguageModel
from rkld.models.saving import merged
from rkld.progress import NoProgress
from rkld.records.encoding import Encoder
from rkld.settings.table import TABLE

SHARE, EPOCHS = TABLE["relearn_share"].default, TABLE["relearn_epochs"].default
"""Of the forget records, those that are learned again, and how often: as an audit does it unasked."""


def check_relearning(task: Task, title: str) -> None:
    """Refuse, before time is spent, what could not be relearned.

    Raises:
        UserError: a single forget record; several processes that cannot share a step's records evenly.
    """
    if BATCH_SIZE % processes.count():
        raise UserError(f"--relearning: {uneven(BATCH_SIZE)}.")
    try:
        draw(task.forgotten, SHARE)
    except UserError as error:
        raise UserError(f"--relearning, {title}: {error}") from None


def relearning_figures(
    lm: LanguageModel, encoder: Encoder, task: Task, lr: float, seed: int, progress: NoProgress
) -> dict[str, float | None]:
    """:data:`~rkld.benching.tables.RELEARNED`: mean probability of the rest, once a share was learned; and its gain.

    All weights are trained, of an adapter's model those that it is merged into, in a copy. The model is afterwards what
    it was. None where this is not measured: of two models that are one only in their logits nothing is what a
    fine-tuning would train, and a fine-tuning can diverge.
    """
    nothing: dict[str, float | None] = {RELEARNED: None, RELEARNING_GAIN: None}
    if isinstance(lm.model, TwoModelCausalLM):
        return nothing
    if lm.is_adapter:  # else it would be attacked by its own few weights, and another model by all of its
        lm = merged(lm)
        lm.model.requires_grad_(True)
    try:
        curve = relearn(
            lm, encoder, task.forgotten, share=SHARE, epochs=EPOCHS, lr=lr, seed=seed, progress=progress
        ).curve
    except Diverged:
        return nothing
    gain = curve[-1] - curve[0]
    return {RELEARNED: curve[-1], RELEARNING_GAIN: gain} if math.isfinite(gain) else nothing
