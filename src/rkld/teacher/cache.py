"""The teacher's cache: final hidden states of the original and of the strengthened model, and their heads, on disk.

Both models are fixed while the student learns, and the records are few. Both are read once; from then on the teacher
is ``hidden × head``, made again chunk by chunk (:mod:`rkld.teacher.logits`). The cache holds neither α nor a
divergence: one cache serves them all.

Shapes: n marked tokens, d hidden size, V vocabulary size.

A cache folder:
    index.json                    identity of all that went in, where each record's tensors lie, and files' checksums
    MODEL-SET-00000.safetensors   "MODEL/SET/key" → (n, d), in the dtype the model computed them in
    head-MODEL.safetensors        heads that differ from the student's frozen one (full fine-tuning)

A folder may come from elsewhere. So the names of its files are computed (:func:`shard_file`, :func:`head_file`) and
never taken from the index; an index that names any other file is refused, a link is neither read nor written through,
and what is deleted is what bears such a computed name in this folder.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rkld import processes
from rkld.errors import UserError
from rkld.files import make_folder, new_file
from rkld.models.hidden_states import BATCH_TOKENS, batches, hidden_at, pad, predictors
from rkld.models.language_model import LanguageModel
from rkld.models.modes import evaluating
from rkld.models.sharded import gathered, whole
from rkld.records.encoding import Encoded, marked
from rkld.runfolder.checksums import checksum, read_sealed, write_sealed

logger = logging.getLogger(__name__)

SHARD_BYTES = 1 << 30
"""Bytes of hidden states held in memory before they are written."""

_PART = re.compile(
    r"(?:original|strengthened|reference|rank|uninformed|uninformed_ids|layer\d{1,5}|smoothed\d{1,5}(?:\.\d{1,9})?)/[A-Za-z0-9_]{1,64}"
)
_HEAD = re.compile(r"original|strengthened")
_OWN_FILE = re.compile(rf"{_PART.pattern.replace('/', '-')}-\d{{5}}\.safetensors|head-(?:{_HEAD.pattern})\.safetensors")


class Part(NamedTuple):
    """What the cache holds of one set of records; the cache calls it "STATES/RECORDS", "original/forget"."""

    states: str
    records: str

    def __str__(self) -> str:
        return f"{self.states}/{self.records}"


def shard_file(part: str, number: int) -> str:
    """The name of a part's shard: "original/forget", 0 → "original-forget-00000.safetensors"."""
    if not _PART.fullmatch(part):
        raise ValueError(f"no part of a cache is called {part!r}")
    return f"{part.replace('/', '-')}-{number:05d}.safetensors"


def head_file(name: str) -> str:
    """The name of the file of the model ``name``'s head."""
    if not _HEAD.fullmatch(name):
        raise ValueError(f"no model of a cache is called {name!r}")
    return f"head-{name}.safetensors"


INDEX_FILE = "index.json"


class Index(TypedDict):
    """index.json."""

    identity: dict[str, Any]
    tensors: dict[str, str]
    """"PART/SET/key" → :func:`shard_file`"""
    heads: dict[str, str]
    """model → :func:`head_file`"""
    files: dict[str, str]
    """file → :func:`rkld.runfolder.checksums.checksum`"""
    done: list[str]
    """Parts that are on disk whole."""


def read_index(path: Path) -> Index:
    """What a cache's index.json says. UserError where it is none of a cache."""
    found = read_sealed(path)
    if not _is_index(found):  # ours is never half written, so it belongs to another program or is damaged
        raise UserError(f"{path} is no index of a teacher: give another folder, or delete this one.")
    return cast("Index", found)


class HiddenCache:
    """Final hidden states by (model name, set, record key), on disk, read one record at a time."""

    def __init__(self, folder: Path, identity: Mapping[str, object]):
        """Open the cache in ``folder``; one that was made from something else is started anew.

        Args:
            identity: fingerprints of everything that decides the contents. Nothing stale is ever read.

        Raises:
            UserError: the folder holds an index that is none of a cache; nothing has been changed then.
        """
        self.folder = Path(folder)
        self._index_path = self.folder / INDEX_FILE
        self._open: dict[str, safe_open] = {}
        self.index: Index = processes.by_main(lambda: self._begun(identity))

    def _begun(self, identity: Mapping[str, object]) -> Index:
        """The index of what is there; of what was made from something else nothing is left."""
        make_folder(self.folder)
        # Through JSON, which knows no tuples: else an identity would differ from itself read again.
        index: Index = {
            "identity": json.loads(json.dumps(dict(identity))),
            "tensors": {},
            "heads": {},
            "files": {},
            "done": [],
        }
        if self._index_path.exists():
            found = read_index(self._index_path)
            if found["identity"] == index["identity"]:
                self._drop_damaged(found)
                return found
            # The index goes first: it must never name tensors that are gone or have been replaced.
            self._index_path.unlink()
            for path in self.folder.iterdir():
                if _OWN_FILE.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                    path.unlink()
        return index

    def _drop_damaged(self, index: Index) -> None:
        """Take out what lies in files that are not as they were written: it is made anew, as if it had never been."""
        damaged = {file for file, noted in index["files"].items() if not self._is_whole(file, noted)}
        if not damaged:
            return
        logger.warning("%s: damaged (%s), and made anew.", self.folder, ", ".join(sorted(damaged)))
        lost = {_part_of(name) for name, file in index["tensors"].items() if file in damaged}
        if lost & {"uninformed_ids/forget", "uninformed/forget"}:  # as these two come from one reading
            lost |= {"uninformed_ids/forget", "uninformed/forget"}
        index["tensors"] = {name: file for name, file in index["tensors"].items() if _part_of(name) not in lost}
        index["heads"] = {name: file for name, file in index["heads"].items() if file not in damaged}
        index["done"] = [part for part in index["done"] if part not in lost]
        if head_file("strengthened") in damaged:  # and it and the states from one strengthening
            index["done"] = [part for part in index["done"] if not part.startswith("strengthened/")]
        index["files"] = {file: noted for file, noted in index["files"].items() if file not in damaged}

    def _is_whole(self, file: str, noted: str) -> bool:
        path = self.folder / file
        return path.is_file() and not path.is_symlink() and checksum(path) == noted

    def done(self, part: str) -> bool:
        """Whether ``part`` ("original/forget") has been written whole."""
        return part in self.index["done"]

    def write(self, part: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Write ``part`` from (record key, tensor) pairs; it counts as done only when all are on disk.

        Of several processes each gives the records that fall to it, and writes them into files of its own.
        """
        for where, files in processes.everyone(lambda: self._write(part, tensors)):
            self.index["tensors"].update(where)
            self.index["files"].update(files)
        self.index["done"].append(part)
        write_sealed(self._index_path, self.index)

    def _write(self, part: str, tensors: Iterable[tuple[str, Tensor]]) -> tuple[dict[str, str], dict[str, str]]:
        """Returns where each tensor lies, and the files' checksums."""
        shard: dict[str, Tensor] = {}
        where: dict[str, str] = {}
        files: dict[str, str] = {}
        number, size = processes.index(), 0

        def flush() -> None:
            nonlocal shard, number, size
            file = shard_file(part, number)
            files[file] = self._save(shard, file)
            where.update(dict.fromkeys(shard, file))
            shard, number, size = {}, number + processes.count(), 0

        for key, tensor in tensors:
            shard[f"{part}/{key}"] = tensor.contiguous()
            size += tensor.numel() * tensor.element_size()
            if size >= SHARD_BYTES:
                flush()
        if shard:
            flush()
        return where, files

    def write_head(self, name: str, lm: LanguageModel) -> None:
        """Keep a copy of ``lm``'s head under ``name``."""
        head = {"weight": whole(lm.head.weight.detach()).to("cpu", copy=True)}
        if lm.head.bias is not None:
            head["bias"] = whole(lm.head.bias.detach()).to("cpu", copy=True)
        self.index["files"][head_file(name)] = processes.by_main(lambda: self._save(head, head_file(name)))
        self.index["heads"][name] = head_file(name)
        write_sealed(self._index_path, self.index)

    def has_head(self, name: str) -> bool:
        """Whether a head is kept under ``name``."""
        return name in self.index["heads"]

    def read_head(self, name: str) -> dict[str, Tensor] | None:
        """The head kept under ``name``, "weight" (V, d) and maybe "bias" (V,), or None."""
        if not self.has_head(name):
            return None
        path = self._regular(head_file(name))
        try:
            return load_file(path)
        except (OSError, SafetensorError):
            raise _damaged(path) from None

    def read(self, part: str, key: str) -> Tensor:
        """One record's tensor, on the CPU.

        Raises:
            KeyError: there is no such tensor.
            UserError: its file is missing or damaged.
        """
        file, name = self._file(part, key), f"{part}/{key}"
        try:
            return file.get_tensor(name)
        except SafetensorError:
            raise _damaged(self.folder / self.index["tensors"][name]) from None

    def rows(self, part: str, key: str) -> int | None:
        """How many rows a record's tensor has; None where there is no such tensor."""
        name = f"{part}/{key}"
        if name not in self.index["tensors"]:
            return None
        file = self._file(part, key)
        try:
            shape: list[int] = file.get_slice(name).get_shape()
        except SafetensorError:
            raise _damaged(self.folder / self.index["tensors"][name]) from None
        return shape[0] if shape else None

    def _file(self, part: str, key: str) -> safe_open:
        number = _shard_number(part, self.index["tensors"][f"{part}/{key}"])
        assert number is not None  # the index has been checked
        file = shard_file(part, number)
        if file not in self._open:
            path = self._regular(file)
            try:
                self._open[file] = safe_open(path, framework="pt")
            except (OSError, SafetensorError):
                raise _damaged(path) from None
        return self._open[file]

    def _regular(self, file: str) -> Path:
        """The path of a file of ours, which is no link to somewhere else."""
        path = self.folder / file
        if path.is_symlink() or not path.is_file():
            raise _damaged(path)
        return path

    def _save(self, tensors: dict[str, Tensor], file: str) -> str:
        """Returns the file's checksum."""
        with new_file(self.folder / file) as new:  # it takes the place of a link, and leaves alone where that points
            save_file(tensors, new)
            return checksum(new)


def _part_of(name: str) -> str:
    """The part of a tensor: "original/forget/key" → "original/forget"."""
    return "/".join(name.split("/", 2)[:2])


def _shard_number(part: str, file: object) -> int | None:
    """The number of a shard of ``part``; None if ``file`` is no name of one."""
    if not (isinstance(file, str) and _PART.fullmatch(part)):
        return None
    number = file.removeprefix(f"{part.replace('/', '-')}-").removesuffix(".safetensors")
    if not re.fullmatch("[0-9]{5}", number) or file != shard_file(part, int(number)):
        return None
    return int(number)


def _is_index(found: object) -> bool:
    """Whether this is an index as :class:`HiddenCache` writes it, with no other file names than those computed."""
    if not isinstance(found, dict) or set(found) != set(Index.__annotations__):
        return False
    tensors, heads, done = found["tensors"], found["heads"], found["done"]
    if not (isinstance(found["identity"], dict) and isinstance(tensors, dict) and isinstance(heads, dict)):
        return False
    if not isinstance(done, list) or not all(isinstance(part, str) and _PART.fullmatch(part) for part in done):
        return False
    if not all(_HEAD.fullmatch(name) and file == head_file(name) for name, file in heads.items()):
        return False
    if not isinstance(found["files"], dict) or not all(_OWN_FILE.fullmatch(file) for file in found["files"]):
        return False
    return all(_shard_number(_part_of(name), file) is not None for name, file in tensors.items())


def _damaged(path: Path) -> UserError:
    return UserError(
        f"{path} is missing, damaged or a link, since the cache was opened: give the same command again, and what is "
        "in it is made anew."
    )


@torch.no_grad()
def marked_hidden(
    lm: LanguageModel, records: Sequence[Encoded], batch_tokens: int = BATCH_TOKENS, layer: int | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield (record key, hidden states (n, d) at its marked positions, on the CPU): final, or of block ``layer``."""
    with evaluating(lm.model):
        for batch in batches([len(e.ids) for e in records], batch_tokens):
            ids = pad([records[i] for i in batch])
            masks = [marked(records[i]) for i in batch]
            rows = predictors(masks, ids.shape[1])
            at = ids.to(lm.device), rows.to(lm.device), layer
            states = gathered(lm.model, lambda at=at: hidden_at(lm.backbone, *at)).cpu()  # type: ignore[misc]
            for i, part in zip(batch, states.split([sum(m) for m in masks])):
                yield records[i].key, part.clone()
