"""The models that a benchmark starts from and compares with, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

from rkld.benching.benchmark import Benchmark
from rkld.models.saving import save_model
from rkld.progress import NoProgress
from rkld.runfolder.once import ResultFiles, once


def make_model(benchmark: Benchmark, role: str, split: str, seed: int, progress: NoProgress) -> str | Path:
    """:meth:`Benchmark.model_folder`, made unless it is there.

    Raises:
        UserError: it is there, made with other settings.
    """
    folder = benchmark.model_folder(role, split, seed)
    if isinstance(folder, str):  # given; loading it says whether it is there
        return folder
    training = folder.with_name(f"{role}-training")
    # Noted before the training: what an interrupted one has left must be of the same settings, too.
    once(ResultFiles(folder.parent, benchmark.model_identity(role, split, seed)), role, dict)
    if folder.exists():
        return folder
    progress.say(f"Making the {role} model in {folder}")
    save_model(benchmark.train_model(role, split, seed, training, progress), folder)
    shutil.rmtree(training, ignore_errors=True)
    return folder
