"""Trackers of figures, by their callbacks of transformers: TensorBoard, Weights & Biases, Trackio.

A tracker is told figures and settings of the training, and nothing that may tell whose run it is: no paths, no name of
the run folder, no config of the model. Weights are never handed to it.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rkld import processes
from rkld.errors import UserError, nearest
from rkld.files import make_folder
from rkld.text.printable import printable
from rkld.training.config import RKLDConfig

logger = logging.getLogger(__name__)

TRACKERS = {"tensorboard": "TensorBoardCallback", "wandb": "WandbCallback", "trackio": "TrackioCallback"}
"""Package → its callback in transformers.integrations."""

PROJECT = "rkld"

TRACKING = "tracking"
"""Folder of TensorBoard's files inside a run folder."""


def check_trackers(names: Sequence[str], setting: str = "--report-to ") -> None:
    """Refuse what cannot report.

    Args:
        setting: what they were given by, as the user writes it before a name.

    Raises:
        UserError: an unknown name, a package that is not installed, or one that is set to upload models.
    """
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"{setting}{name}: choose among {', '.join(TRACKERS)}.{nearest(name, TRACKERS)}")
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # a folder that is called so, as wandb leaves one, is no package
            raise UserError(f"{setting}{name} needs the package {name}: pip install {name}.")
        if name == "wandb" and os.environ.get("WANDB_LOG_MODEL", "false").lower() not in ("", "false"):
            raise UserError(
                "WANDB_LOG_MODEL is set, by which wandb uploads the model while it still holds what is to be "
                "forgotten: unset it. rkld unlearn --push-to-hub uploads the result."
            )


def trackers(names: Sequence[str], folder: Path) -> list[TrainerCallback]:
    """Callbacks that report a training; of several processes one reports.

    Args:
        folder: for files of trackers that write some.
    """
    return [Reporting(_tracker(name, folder), name) for name in names if processes.is_main()]


def _tracker(name: str, folder: Path) -> TrainerCallback:
    os.environ.setdefault("WANDB_PROJECT", PROJECT)
    made = getattr(importlib.import_module("transformers.integrations"), TRACKERS[name])
    if name != "tensorboard":
        return made()
    from torch.utils.tensorboard import SummaryWriter

    make_folder(folder / TRACKING)
    return made(SummaryWriter(str(folder / TRACKING)))


class Reporting(TrainerCallback):
    """Passes the training's events on to a tracker, without what may tell whose run it is.

    A tracker that fails is told nothing more: a run does not end because a server is not there.
    """

    def __init__(self, tracker: TrainerCallback, name: str) -> None:
        self.tracker: TrainerCallback | None = tracker
        self.name = name

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._tell("on_train_begin", args, state, control)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self._tell("on_log", args, state, control, logs=logs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._tell("on_train_end", args, state, control)

    def _tell(self, event: str, args: RKLDConfig, *rest: Any, **more: Any) -> None:
        if self.tracker is None:
            return
        try:
            getattr(self.tracker, event)(nameless(args), *rest, **more)
        except Exception as error:  # of foreign packages, networks and logins
            logger.warning("%s is told nothing more: %s: %s", self.name, type(error).__name__, printable(str(error)))
            self.tracker = None


def nameless(args: RKLDConfig) -> RKLDConfig:
    """The arguments without paths and names."""
    found = copy.copy(args)
    found.output_dir, found.logging_dir, found.refusals = "run", None, None
    found.method = args.method.rpartition("/")[2]
    found.run_name, found.project, found.hub_private_repo = f"{found.method}, seed {args.seed}", PROJECT, True
    return found
