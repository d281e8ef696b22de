"""General ability: what a model can do that has nothing to do with anybody, by EleutherAI's ``lm-eval``."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from rkld.errors import UserError, nearest
from rkld.evaluation.likelihood import measuring

if TYPE_CHECKING:
    from rkld.models.language_model import LanguageModel


PAPER_TASKS = ("piqa", "hellaswag", "arc_easy", "arc_challenge", "copa", "wsc", "mathqa")
"""RKLD's seven (arXiv 2406.01983), as lm-eval calls them. Which set its "Winograd" is, the paper does not say: here it
is SuperGLUE's."""


def general_ability(
    lm: LanguageModel,
    tasks: Sequence[str] = PAPER_TASKS,
    *,
    limit: int | None = None,
    batch_size: int = 8,
    task_folder: str | os.PathLike[str] | None = None,
) -> dict[str, dict[str, float | int]]:
    """Zero-shot accuracy of multiple-choice tasks: for each its ``accuracy``, standard error ``stderr``, and ``n``.

    ``acc`` of lm-eval, on its tasks' bare texts, without a chat template; of a group of tasks ("mmlu") what lm-eval
    puts together. ``limit``: only the first so many questions of each task, of a group's each. ``task_folder`` holds
    YAML files of tasks of your own. lm-eval fetches its data sets from the Hugging Face hub once, unless they are local
    files.

    Raises:
        ValueError: a limit below 2, which leaves no standard error.
        UserError: lm-eval is not installed, does not know a task, cannot get its data, or has no accuracy for it.
    """
    if limit is not None and limit < 2:
        raise ValueError(f"limit is {limit}; a standard error needs two questions")
    try:
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(
            f"General ability is measured by lm-eval, which cannot be imported ({error}): pip install 'rkld[general]'."
        ) from None
    found = {}
    with _quiet("lm_eval"), measuring(lm.model):
        folder = None if task_folder is None else os.fspath(task_folder)
        manager = TaskManager(include_path=folder, include_defaults=folder is None)
        known = {*manager.all_subtasks, *manager.all_groups}
        if folder is not None and not set(tasks) <= known:
            # lm-eval's own as well, whose index takes long to make.
            manager = TaskManager(include_path=folder)
            known = {*manager.all_subtasks, *manager.all_groups}
        for name in tasks:
            if name not in known:
                raise UserError(f"lm-eval has no task '{name}'.{nearest(name, known)}")
        harness_model = HFLM(
            pretrained=lm.model,
            tokenizer=copy.deepcopy(lm.tokenizer),  # its padding is changed
            softmax_dtype=torch.promote_types(lm.head.weight.dtype, torch.float32),
            batch_size=batch_size,
        )
        for name in tasks:
            try:
                loaded = manager.load([name])
            except Exception as error:  # whatever the libraries of its data set raise
                raise UserError(
                    f"lm-eval cannot load the task '{name}' ({type(error).__name__}: {error}). Its data are fetched "
                    "from the Hugging Face hub once: try with the network, or leave the task out."
                ) from error
            for task in loaded["tasks"].values():
                task.set_config("num_fewshot", 0)
            results = evaluate(harness_model, loaded, limit=limit, log_samples=False)
            figures = results["results"][name]
            if "acc,none" not in figures:
                raise UserError(f"lm-eval reports no accuracy for the task '{name}'. Choose multiple-choice tasks.")
            found[name] = {
                "accuracy": float(figures["acc,none"]),
                "stderr": float(figures["acc_stderr,none"]),
                "n": sum(int(results["n-samples"][task]["effective"]) for task in loaded["tasks"]),
            }
    return found


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Errors alone from this logger."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
