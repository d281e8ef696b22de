"""Replayed answers, kept in the user's cache for the next run of the same model.

A model's greedy answer to a prompt is always the same, and a hundred of them take minutes. What a run has screened lies
in ``rkld/replay`` of the user's cache, a file for each model and way of asking, until it is :data:`DAYS` old. Prompts
and models stand in it as hashes under a key of the user's own (:func:`rkld.runfolder.once.own_key`), answers as text,
for they are what is kept. A file that this user's key has not sealed is read as none.

No run knows whether its answers name somebody whom another one is about. So each screens what it finds here like what
it has just asked for, and a purge of any run deletes it all.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rkld.files import make_folder, read_bounded
from rkld.runfolder.checksums import unsealed, write_sealed
from rkld.runfolder.once import own_cache, own_key

logger = logging.getLogger(__name__)

DAYS = 30
"""After which a file that no run has written to is deleted by the next that writes one."""

MOST_BYTES = 64 << 20
"""Of a file that is read."""


class Answer(NamedTuple):
    """What a model answered."""

    text: str
    cut: bool
    """Whether it was cut before its end."""


def folder() -> Path:
    """Where they lie.

    Raises:
        RuntimeError: the user has no home.
    """
    return own_cache() / "replay"


def kept_files() -> list[Path]:
    """All that is kept there, or was left by a process that was killed."""
    try:
        return sorted(path for path in folder().iterdir() if path.name.endswith(".json") or path.name.startswith("."))
    except (OSError, RuntimeError):
        return []


@contextmanager
def alone() -> Iterator[None]:
    """Keep other processes from writing here meanwhile, after those that do; at once where there is no folder."""
    try:
        descriptor = os.open(folder(), os.O_RDONLY)
    except (OSError, RuntimeError):
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _delete_old() -> None:
    """Files that no run has written to for :data:`DAYS`; one that cannot be deleted does not keep the others."""
    for path in kept_files():
        with suppress(OSError):
            if path.lstat().st_mtime < time.time() - DAYS * 86400:
                path.unlink()


@dataclass(frozen=True)
class KeptAnswers:
    """Those of one model, asked in one way.

    Attributes:
        of: all that decides an answer beside the prompt, as JSON has it.
    """

    of: Mapping[str, Any]

    def find(self, prompts: Iterable[Sequence[int]]) -> list[Answer | None]:
        """What is kept to each prompt (token ids); None where nothing is."""
        key = own_key()
        found = self._read(key)
        return [found.get(_hash(key, list(prompt))) for prompt in prompts]

    def note(self, answers: Iterable[tuple[Sequence[int], Answer | None]]) -> None:
        """Keep an answer to each prompt, or, where there is None, keep none.

        Nothing is kept where the user has no cache of their own to keep it, and its key, in.
        """
        key = own_key()
        if own_key() != key:  # a fresh one each time: what was sealed by it could never be read again
            return
        try:
            make_folder(folder())
            with alone():  # else another run's answers would be lost, and what a purge deletes meanwhile be back
                found = self._read(key)
                for prompt, answer in answers:
                    if answer is None:
                        found.pop(_hash(key, list(prompt)), None)
                    else:
                        found[_hash(key, list(prompt))] = answer
                write_sealed(self._path(key), {"answers": {name: list(one) for name, one in found.items()}}, key)
                _delete_old()
        except OSError as error:  # the run has its answers all the same
            logger.warning("replayed answers could not be kept for later runs: %s", error.strerror)

    def _path(self, key: str) -> Path:
        return folder() / f"{_hash(key, dict(self.of))}.json"

    def _read(self, key: str) -> dict[str, Answer]:
        """Hash of a prompt → answer; of a file that is not as it was written, nothing."""
        try:
            data = read_bounded(self._path(key), MOST_BYTES)
        except (OSError, RuntimeError):
            return {}
        try:
            found = unsealed(json.loads(data), key)
        except (ValueError, RecursionError):
            found = None
        answers = None if found is None else found.get("answers")
        if not isinstance(answers, dict) or not all(_is_answer(one) for one in answers.values()):
            logger.warning("kept answers are not as they were written: the prompts are answered anew")
            return {}
        return {name: Answer(*one) for name, one in answers.items()}


def _is_answer(found: object) -> bool:
    return isinstance(found, list) and [type(one) for one in found] == [str, bool]


def _hash(key: str, value: object) -> str:
    """Of a value as JSON has it, 32 hex digits, which nobody without the key can make."""
    data = json.dumps(["replay", value], sort_keys=True).encode()
    return hashlib.blake2b(data, digest_size=16, key=key.encode()).hexdigest()
