"""How much of the disk a run will take, and whether that is there: known before time is spent."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from rkld import methods
from rkld.errors import UserError
from rkld.files import readable_size
from rkld.losses.objective import Term
from rkld.models.language_model import LanguageModel
from rkld.models.state import trainable_state
from rkld.records.encoding import Encoded, marked
from rkld.settings.unlearning import Settings
from rkld.teacher.cache import Part
from rkld.training.terms import cached_parts

logger = logging.getLogger(__name__)

OPTIMIZER = 2
"""Values that AdamW keeps for each weight; others keep fewer."""


@dataclass(frozen=True)
class Space:
    """Bytes that a run takes in its folder at most.

    Attributes:
        certain: of the cache, the weights that are set aside, the student and the model.
        checkpoints: of checkpoints on top, which a short run does not come to: the last and the one that replaces it.
    """

    certain: int
    checkpoints: int


def run_space(
    settings: Settings,
    method: methods.Method,
    lm: LanguageModel,
    sets: Mapping[str, Sequence[Encoded]],
    terms: Sequence[Term],
    *,
    stops: bool,
) -> Space:
    """What a run will write. Replayed answers, which are not there yet, are not counted.

    Args:
        sets: the records of the terms.
        stops: whether a rule chooses a state, which is kept.
    """
    whole = _bytes(lm.model.parameters())
    trained = _adapter_bytes(lm, settings.lora_rank) if settings.lora else _bytes(trainable_state(lm).values())
    assisted = isinstance(method, methods.Assisted)
    kept = 1 + stops + (method.strengthens or assisted)  # the student, the chosen state, the original set aside
    if method.needs_base:  # the original set aside (for each β once more), and what was made of the base
        kept += 3 if method.start == "negated" else 2
    model = whole if settings.merge or trained >= whole else trained
    if isinstance(method, methods.LogitArithmetic):
        model *= 2
    cache = 0 if settings.teacher else _cache_bytes(lm, sets, cached_parts(terms), heads=trained >= whole)
    beneath = whole if method.needs_base and settings.lora else 0  # the original's, while the base's are in their place
    return Space(kept * trained + beneath + model + cache, 2 * (1 + OPTIMIZER) * trained)


def require_space(folder: Path, space: Space) -> None:
    """Refuse a run whose disk cannot hold what it will write; say so where its checkpoints may not fit.

    What lies in the folder by now is part of it.

    Raises:
        UserError: too little is free.
    """
    free = free_bytes(folder)
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if free + there < space.certain:
        raise UserError(
            f"{folder}: this run will write about {readable_size(space.certain)}, and {readable_size(free)} are free "
            "on that disk. Free some space, or give a folder on another disk with --out."
        )
    if free + there < space.certain + space.checkpoints:
        logger.warning(
            "%s: %s are free on that disk. The run itself fits, its checkpoints (%s) may not: free some space, or give "
            "a larger --checkpoint-minutes.",
            folder,
            readable_size(free),
            readable_size(space.checkpoints),
        )


def free_bytes(folder: Path) -> int:
    """What is free on the disk on which a folder is, or will be."""
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(above).free


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _adapter_bytes(lm: LanguageModel, rank: int) -> int:
    """Of LoRA's two factors (float32) on every linear module but the head."""
    linear = (module for module in lm.model.modules() if isinstance(module, nn.Linear) and module is not lm.head)
    return sum(4 * rank * (module.in_features + module.out_features) for module in linear)


def _cache_bytes(
    lm: LanguageModel, sets: Mapping[str, Sequence[Encoded]], parts: Iterable[Part], *, heads: bool
) -> int:
    weight = lm.head.weight
    row = weight.shape[1] * weight.element_size()
    states = sum(row * sum(map(sum, map(marked, sets[part.records]))) for part in parts if part.records in sets)
    return states + (2 * _bytes([weight]) if heads and states else 0)
