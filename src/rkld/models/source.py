"""What a model's source holds beside what is trained: carried into the saved folder, or refused before time is spent.

Licences and processor files go along. Weights that the loaded class has no use for (a vision tower, heads that draft
several tokens at once) cannot: a folder without them would be another model than the one that was given.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import IncompleteSnapshotError
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from rkld.errors import UserError
from rkld.files import LONGEST_NAME
from rkld.models.language_model import LanguageModel
from rkld.settings.config_file import plain_values
from rkld.text.printable import printable

LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "USE_POLICY*")
"""Names to fetch from the hub; what is carried is narrower (:data:`LICENCE`)."""

LICENCE = re.compile(r"(LICEN[CS]E|NOTICE|COPYING|USE_POLICY)([-_. ][\w. -]*)?", re.IGNORECASE | re.ASCII)

TEXT_SUFFIXES = re.compile(r"|\.(txt|md|rst)|[._-][\d.]+", re.IGNORECASE)

PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")

LARGEST = 2**20
"""Bytes of a file that is carried; licences and processor configs are far smaller."""

FRONT_MATTER = re.compile(r"---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
"""Of a model's card: YAML between two lines of dashes."""

# Of checkpoints of older versions, made anew from the config: masks, position numbers, rotary frequencies.
_COMPUTED = re.compile(r"(inv_freq|position_ids|masked_bias|\battn\.bias|\battention\.bias|relative_position_index)$")

LEFT_OUT = "rkld_left_out"
"""Attribute of a loaded model: names of the weights in its folder that its class has no use for."""


def carry(lm: LanguageModel, folder: Path) -> None:
    """Copy licences, and the processor files of a model that is whole, from where it came from.

    Of an adapter also those of its base. Only text, of known names, no longer than ``LARGEST``, and no link that leads
    out of its folder; never anything that can be run. What is there already stays.
    """
    whole = not left_out(lm.inner)
    for source in dict.fromkeys(found for name in (lm.source, lm.inner.name_or_path) for found in _folders(name)):
        for file in source.iterdir():
            if _within(file, source) and _known(file, whole) and not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)  # contents alone: neither mode nor link


def source_dtype(lm: LanguageModel) -> torch.dtype | None:
    """The dtype of most weights in the folder of the model, or of an adapter's base; None where that is not known."""
    return _dtype_in(lm.inner.name_or_path, "model")


def adapter_dtype(lm: LanguageModel) -> torch.dtype | None:
    """The dtype of an adapter's weights in the folder that it came from; None of one that is made here."""
    return _dtype_in(lm.source, "adapter_model")


def _dtype_in(source: str, stem: str) -> torch.dtype | None:
    counts: Counter[str] = Counter()
    for folder in _folders(source):
        for file in _weights(folder, stem):
            for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                part = file.get_slice(name)
                counts[part.get_dtype()] += math.prod(part.get_shape())
    known = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    return next((known.get(name) for name, _ in counts.most_common(1)), None)


def card_base(name: str) -> str | None:
    """What a model's card (README.md) says that it was tuned from: one hub name or path; None where it names none.

    Nothing is fetched. A card that names what the model was quantised or merged from says nothing of a training, nor
    does that of an unlearned model: the model before it knows the person.
    """
    for folder in _folders(name):
        card = folder / "README.md"
        if not _within(card, folder):
            continue
        head = FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace"))
        try:
            facts = plain_values(head[1]) if head else None
        except Exception:  # others' YAML leads PyYAML to raise anything
            continue
        if not isinstance(facts, dict) or facts.get("base_model_relation", "finetune") not in ("finetune", "adapter"):
            continue
        tags, found = facts.get("tags"), facts.get("base_model")
        found = found[0] if isinstance(found, list) and len(found) == 1 else found
        unlearned = isinstance(tags, list) and "unlearning" in tags
        if isinstance(found, str) and 0 < len(found) <= LONGEST_NAME and not unlearned:
            return found
    return None


def _folders(name: str) -> Iterator[Path]:
    """The folder, if it is there, that a folder or hub name stands for. Nothing is fetched."""
    try:
        if not Path(name).is_absolute() and not Path(name).is_dir():
            name = snapshot_download(name, local_files_only=True)
    except IncompleteSnapshotError as error:
        name = error.snapshot_path
    except Exception:  # no name of the hub, or nothing of it was fetched
        return
    if name and os.access(name, os.R_OK | os.X_OK):
        yield Path(name)


def _known(file: Path, whole: bool) -> bool:
    if file.name in PROCESSORS:
        return whole and not _asks_for_code(file)
    return LICENCE.fullmatch(file.name) is not None and TEXT_SUFFIXES.fullmatch(file.suffix) is not None


def _asks_for_code(file: Path) -> bool:
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return True
    return not isinstance(facts, dict) or "auto_map" in facts


def _within(file: Path, source: Path) -> bool:
    """Whether it is a regular, small file inside the folder; in the hub's cache, inside the model's part of it."""
    cached = source.parent.name == "snapshots" and (source.parents[1] / "blobs").is_dir()
    root = (source.parents[1] if cached else source).resolve()
    try:
        found = file.resolve(strict=True)
        facts = found.stat()
    except (OSError, RuntimeError):
        return False
    regular = stat.S_ISREG(facts.st_mode) and facts.st_size <= LARGEST and os.access(found, os.R_OK)
    return regular and found.is_relative_to(root)


def note_left_out(model: PreTrainedModel, stored: Iterable[str], unexpected: Iterable[str]) -> None:
    """Note on a loaded model which weights of its folder it has no use for.

    Args:
        stored: names of all weights that the folder holds.
        unexpected: those that transformers reports. It keeps silent about those that the class declares as known to be
            of no use, so the stored ones are compared with that declaration.
    """
    declared = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    own = model.state_dict().keys()
    silent = (n for n in set(stored) - own if any(pattern.search(n) for pattern in declared))
    setattr(model, LEFT_OUT, tuple(sorted(n for n in {*unexpected, *silent} if not _COMPUTED.search(n))))


def left_out(model: PreTrainedModel) -> tuple[str, ...]:
    """Names of the weights that the model's folder held, and its class has no use for."""
    return getattr(model, LEFT_OUT, ())


def _weights(folder: Path, stem: str = "model") -> Iterator[Any]:
    """The folder's safetensors, opened one after the other; only their headers are read."""
    for path in sorted(folder.glob(f"{stem}*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                yield file
        except (OSError, SafetensorError):  # none of those that were loaded
            continue


def check_whole(lm: LanguageModel, remedy: str) -> None:
    """Refuse to write a model anew of which only a part is loaded.

    Args:
        remedy: how to leave the rest behind, and how to train an adapter.

    Raises:
        UserError: so; it names what would be lost.
    """
    names = left_out(lm.inner)
    if not names:
        return
    parts = Counter(".".join(name.split(".")[: 2 if name.startswith("model.") else 1]) for name in names)
    lost = ", ".join(f"{printable(part)} ({n})" for part, n in parts.most_common(5))
    raise UserError(
        f"Of {lm.source} only the part that reads and writes text is used: the saved model would lack {len(names)} of "
        f"its tensors, {lost}. {remedy}, whose adapter is saved alone and leaves them where they are."
    )
