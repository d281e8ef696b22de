"""The models that a benchmark starts from and compares with, made once."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from rkld.benching import result_store
from rkld.benching.benchmark import Benchmark
from rkld.models.saving import save_model
from rkld.progress import Silent


def make_model(benchmark: Benchmark, role: str, split: str, seed: int, progress: Silent) -> str | Path:
    """:meth:`Benchmark.model_folder`, made unless it is there.

    Raises:
        UserError: it is there, made with other settings.
    """
    folder = benchmark.model_folder(role, split, seed)
    if isinstance(folder, str):  # given; loading it says whether it is there
        return folder
    training = folder.with_name(f"{role}-training")
    # Noted before the training: what an interrupted one has left must be of the same settings, too.
    noted, identity = folder.with_name(f"{role}.json"), benchmark.model_identity(role, split, seed)
    if not result_store.read(noted, identity):
        result_store.write(noted, identity, time.time())
    if folder.exists():
        return folder
    progress.say(f"Making the {role} model in {folder}")
    save_model(benchmark.train_model(role, split, seed, training, progress), folder)
    shutil.rmtree(training, ignore_errors=True)
    return folder
