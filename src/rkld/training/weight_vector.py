"""What the forget records change in the model from before, as a vector of weights on disk.

The original has learned the records, so learning them once more hardly moves its weights, and moves them elsewhere than
the first time. The model that it was tuned from, its *base*, has not: what tuning the base on the records changes is
the records' own (Rezaei et al. 2025, arXiv 2506.20941; negation: Ilharco et al. 2023, arXiv 2212.04089).

Original and base are together in memory while the base's weights are copied, which takes less than a step of training.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from rkld import processes
from rkld.errors import UserError
from rkld.models.language_model import LanguageModel
from rkld.models.state import change_state, own_weights, restore_state, save_state, take_weights, trainable_state
from rkld.progress import NoProgress
from rkld.records.encoding import Encoded
from rkld.training.callbacks import TrainingBar
from rkld.training.config import RKLDConfig
from rkld.training.strengthening import fine_tuning_steps, set_aside
from rkld.training.trainer import fine_tune

LoadBase = Callable[[], LanguageModel]


def check_outer_factors(lm: LanguageModel) -> None:
    """Refuse an adapter of which a difference is no sum of two: all but LoRA's two factors.

    Raises:
        UserError: so.
    """
    other = [name for name in trainable_state(lm) if lm.is_adapter and _factor(name) is None]
    if other:
        raise UserError(
            f"the adapter of {lm.source} has more than LoRA's two factors (the first: {other[0]}), and a difference of "
            "such adapters is none: merge it first."
        )


def _factor(name: str) -> str | None:
    """Whether a LoRA parameter is of the inner factor "A", which reads, or the outer "B", which writes."""
    return next((factor for factor in "AB" if f".lora_{factor}." in name), None)


@contextmanager
def as_base(lm: LanguageModel, load_base: LoadBase | None, folder: Path) -> Iterator[None]:
    """``lm`` as it was before it was tuned: the base's weights in its own, and its adapter without effect.

    Everything is put back afterwards from what is kept in ``folder``.

    Args:
        load_base: None where the base is what lies under ``lm``'s adapter.

    Raises:
        UserError: the base has other parameters.
    """
    own = own_weights(lm)
    beneath = folder / "beneath.safetensors"
    with set_aside(lm, folder):
        if load_base is not None:
            save_state(lm, beneath, own)
        try:
            if load_base is not None:
                base = load_base()
                take_weights(lm, base)
                del base
                gc.collect()
            with torch.no_grad():
                for name, parameter in trainable_state(lm).items():
                    if _factor(name) == "B":
                        parameter.zero_()
            yield
        finally:
            if load_base is not None:
                restore_state(lm, beneath, own)
        if load_base is not None:
            _delete(beneath)


@contextmanager
def _outer_factors(lm: LanguageModel) -> Iterator[None]:
    """Of a LoRA adapter train only what writes (Zhang et al. 2023, arXiv 2308.03303): so differences can be subtracted,
    as the products of both factors are linear in one of them."""
    inner = [p for name, p in trainable_state(lm).items() if _factor(name) == "A"]
    for parameter in inner:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in inner:
            parameter.requires_grad_(True)


def write_vector(
    lm: LanguageModel,
    load_base: LoadBase | None,
    records: Sequence[Encoded],
    args: RKLDConfig,
    path: Path,
    progress: NoProgress,
) -> None:
    """Tune the base on the answers of ``records``, and write what that changes. ``lm`` ends as it began.

    Args:
        args: of the tuning; its ``output_dir`` takes checkpoints and weights that are set aside.
        path: for the differences, in the dtype of training, by the names of the parameters: all, or an adapter's outer
            factors.
    """
    folder = Path(str(args.output_dir))
    with as_base(lm, load_base, folder), _outer_factors(lm):
        save_state(lm, folder / "base.safetensors")
        with progress.bar("tuning the base", fine_tuning_steps(records, args)) as advance:
            fine_tune(lm, records, args, [TrainingBar(advance)])
        change_state(lm, folder / "base.safetensors", lambda base, tuned: tuned - base)  # exact where they are near
        save_state(lm, path)
        _delete(folder / "base.safetensors")


def _delete(path: Path) -> None:
    """Once no process reads it any more."""
    processes.wait()
    processes.by_main(path.unlink)


def subtract(lm: LanguageModel, vector: Path, weight: float) -> None:
    """Subtract ``weight`` times a vector from the weights of ``lm``, rounded once, to their dtype.

    Raises:
        UserError: the vector is another model's; nothing has been changed then.
    """

    def less(change: Tensor, now: Tensor) -> Tensor:
        wide = torch.promote_types(now.dtype, torch.float32)
        return now.to(wide) - weight * change.to(wide)

    trained = trainable_state(lm)
    changed = {name: p for name, p in trained.items() if not lm.is_adapter or _factor(name) == "B"}
    change_state(lm, vector, less, changed)
