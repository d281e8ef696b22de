"""The teacher: cached final hidden states of the original and of the strengthened model, and their logits.

The original and the strengthened model are fixed while the student learns, and the records are few. Both are read
once; from then on the teacher is ``hidden × head``, made again chunk by chunk (:mod:`rkld.losses.chunked`). The
cache holds neither α nor a divergence: one cache serves them all.

Shapes: n marked tokens, d hidden size, V vocabulary size, k swapped names.

A cache folder:
    index.json                    identity of all that went in, and where each record's tensors lie
    MODEL-SET-00000.safetensors   "MODEL/SET/key" → (n, d), in the dtype the model computed them in
    head-MODEL.safetensors        heads that differ from the student's frozen one (full fine-tuning)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rkld.errors import UserError
from rkld.files import write_json
from rkld.models.hidden_states import BATCH_TOKENS, batches, hidden_at, pad, predictors
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded

SHARD_BYTES = 1 << 30
"""Bytes of hidden states held in memory before they are written."""


class HiddenCache:
    """Final hidden states by (model name, set, record key), on disk, read one record at a time."""

    def __init__(self, folder: Path, identity: Mapping[str, object]):
        """Open the cache in ``folder``; one that was made from something else is started anew.

        Args:
            identity: fingerprints of everything that decides the contents. Nothing stale is ever read.
        """
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._index_path = self.folder / "index.json"
        self._open: dict[str, safe_open] = {}
        # Through JSON, which knows no tuples: else an identity would differ from itself read again.
        self.index: dict = {"identity": json.loads(json.dumps(dict(identity))), "tensors": {}, "heads": {}, "done": []}
        if self._index_path.exists():
            found = self._read_index()
            if found["identity"] == self.index["identity"]:
                self.index = found
            else:  # the index goes first: it must never speak of tensors that are gone or have been replaced
                self._index_path.unlink()
                for file in {*found["tensors"].values(), *found["heads"].values()}:
                    (self.folder / file).unlink(missing_ok=True)

    def _read_index(self) -> dict:
        try:
            found = json.loads(self._index_path.read_text(encoding="utf-8"))
            whole = {"identity", "tensors", "heads", "done"} <= set(found)
        except (ValueError, TypeError):
            whole = False
        if not whole:  # ours is never half written, so it is somebody else's or damaged: nothing is deleted by it
            raise UserError(f"{self._index_path} is no index of a teacher: give another folder, or delete this one.")
        return found

    def done(self, part: str) -> bool:
        """Whether ``part`` ("original/forget") has been written whole."""
        return part in self.index["done"]

    def write(self, part: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Write ``part`` from (record key, tensor) pairs; it counts as done only when all are on disk."""
        shard: dict[str, Tensor] = {}
        where: dict[str, str] = {}
        number, held = 0, 0

        def flush() -> None:
            nonlocal shard, number, held
            name = f"{part.replace('/', '-')}-{number:05d}.safetensors"
            save_file(shard, self.folder / name)
            where.update(dict.fromkeys(shard, name))
            shard, number, held = {}, number + 1, 0

        for key, tensor in tensors:
            shard[f"{part}/{key}"] = tensor.contiguous()
            held += tensor.numel() * tensor.element_size()
            if held >= SHARD_BYTES:
                flush()
        if shard:
            flush()
        self.index["tensors"].update(where)
        self.index["done"].append(part)
        write_json(self._index_path, self.index)

    def write_head(self, name: str, lm: LanguageModel) -> None:
        """Keep a copy of ``lm``'s head under ``name``."""
        head = {"weight": lm.head.weight.detach().to("cpu", copy=True)}
        if lm.head.bias is not None:
            head["bias"] = lm.head.bias.detach().to("cpu", copy=True)
        file = f"head-{name}.safetensors"
        save_file(head, self.folder / file)
        self.index["heads"][name] = file
        write_json(self._index_path, self.index)

    def read_head(self, name: str) -> dict[str, Tensor] | None:
        """The head kept under ``name``, or None."""
        file = self.index["heads"].get(name)
        return load_file(self.folder / file) if file else None

    def read(self, part: str, key: str) -> Tensor:
        """One record's tensor, on the CPU."""
        name = f"{part}/{key}"
        return self._file(name).get_tensor(name)

    def rows(self, part: str, key: str) -> int | None:
        """How many rows a record's tensor has; None where there is no such tensor."""
        name = f"{part}/{key}"
        return self._file(name).get_slice(name).get_shape()[0] if name in self.index["tensors"] else None

    def _file(self, name: str) -> safe_open:
        file = self.index["tensors"][name]
        if file not in self._open:
            self._open[file] = safe_open(self.folder / file, framework="pt")
        return self._open[file]


def marked(encoded: Encoded) -> list[bool]:
    """The positions a cache holds for a record: what is unlearned and what is said."""
    return [a or s for a, s in zip(encoded.answer, encoded.scored)]


@torch.no_grad()
def marked_hidden(
    lm: LanguageModel, records: Sequence[Encoded], batch_tokens: int = BATCH_TOKENS, layer: int | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield (record key, hidden states (n, d) at its marked positions, on the CPU): final, or of block ``layer``."""
    was_training = lm.model.training
    lm.model.eval()
    for batch in batches([len(e.ids) for e in records], batch_tokens):
        ids = pad([records[i] for i in batch])
        masks = [marked(records[i]) for i in batch]
        rows = predictors(masks, ids.shape[1])
        states = hidden_at(lm.backbone, ids.to(lm.device), rows.to(lm.device), layer).cpu()
        for i, part in zip(batch, states.split([sum(m) for m in masks])):
            yield records[i].key, part.clone()
    lm.model.train(was_training)
