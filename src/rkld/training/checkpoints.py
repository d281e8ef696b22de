"""Checkpoints of the Trainer: whole ones are gone on from, others deleted."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rkld import processes
from rkld.runfolder.checksums import checksums, differing, read_sealed, write_sealed

logger = logging.getLogger(__name__)

CHECKSUMS = "checksums.json"
"""Inside a checkpoint: the checksums of its files, written when all of them are."""


SHARDS = "shards"
"""Inside a checkpoint of a sharded model: the parameters that are trained and the optimizer's state, each process its
own part (``torch.distributed.checkpoint``). Another number of processes reads it, too."""

_TRAINED = StateDictOptions(ignore_frozen_params=True)


def save_shards(model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Write :data:`SHARDS`, all processes together."""
    weights, states = get_state_dict(model, optimizer, options=_TRAINED)
    dcp.save({"model": weights, "optimizer": states}, checkpoint_id=folder / SHARDS)


def load_shards(model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Put back what :func:`save_shards` wrote, all processes together."""
    weights, states = get_state_dict(model, optimizer, options=_TRAINED)
    found: dict[str, Any] = {"model": weights, "optimizer": states}
    dcp.load(found, checkpoint_id=folder / SHARDS)
    options = StateDictOptions(ignore_frozen_params=True, strict=False)  # what is frozen is not in it
    set_state_dict(
        model, optimizer, model_state_dict=found["model"], optim_state_dict=found["optimizer"], options=options
    )


class NoteChecksums(TrainerCallback):
    """Puts :data:`CHECKSUMS` into every checkpoint, once all processes have written their parts of it."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"

        def note() -> None:
            if folder.is_dir():
                write_sealed(folder / CHECKSUMS, {"files": checksums(folder, _names(folder))})

        if args.world_size == processes.count():  # else they are not those that wait for each other here
            processes.wait()
            processes.by_main(note)


def last_checkpoint(folder: Path, *, sharded: bool = False) -> Path | None:
    """The last checkpoint in a training's output folder that it can go on from; later ones are deleted and named.

    Args:
        sharded: whether the model is, so that its checkpoints hold :data:`SHARDS`: neither kind reads the other's.
    """
    return processes.by_main(lambda: _last_checkpoint(folder, sharded))


def _last_checkpoint(folder: Path, sharded: bool) -> Path | None:
    # Only folders that the Trainer names: what else is called checkpoint-something is none of ours.
    ours = [path for path in folder.glob("checkpoint-*") if re.fullmatch("checkpoint-[0-9]{1,12}", path.name)]
    for path in sorted(ours, key=_step, reverse=True):
        whole = path.is_dir() and _is_whole(path)
        if whole and (path / SHARDS).is_dir() == sharded:
            return path
        why = "is of a model in shards" if whole and not sharded else "is of a whole model" if whole else "is not whole"
        logger.warning("%s %s: the training goes on from before it.", path, why)
        shutil.rmtree(path, ignore_errors=True)
    return None


def _step(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def _is_whole(folder: Path) -> bool:
    """By its checksums; without them (the process was killed) once its state, written last, is there to its end."""
    try:
        found = read_sealed(folder / CHECKSUMS)
    except FileNotFoundError:
        state = folder / "trainer_state.json"
        return state.is_file() and state.read_bytes().rstrip().endswith(b"}")
    return found is not None and not differing(folder, found["files"], _names(folder) | found["files"].keys())


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {CHECKSUMS}
