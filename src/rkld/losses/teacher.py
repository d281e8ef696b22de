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

from collections.abc import Mapping

import torch
from torch import Tensor

from rkld.losses.cache import HiddenCache
from rkld.losses.chunked import compute_dtype, head_logits
from rkld.losses.divergences import composite_logits, with_floor
from rkld.models.language_model import LanguageModel


class Teacher:
    """A finished teacher: turns cached hidden states into log-probabilities, a chunk of rows at a time.

    Takes the heads from the cache where they were kept and the student's own, frozen one (LoRA) elsewhere.
    """

    def __init__(self, cache: HiddenCache, *, alpha: float):
        self.cache = cache
        self.alpha = alpha
        self._shared: dict[str, Tensor] = {}
        self._heads: dict[tuple[str, torch.dtype], dict[str, Tensor]] = {}

    def attach(self, lm: LanguageModel) -> None:
        """Take the student's head for those that the cache has none of. Heads are read when they are first used."""
        self._shared = {n: p.detach() for n, p in (("weight", lm.head.weight), ("bias", lm.head.bias)) if p is not None}
        self._heads = {}

    def _logits(self, head: str, hidden: Tensor, out: Tensor) -> Tensor:
        at = self._shared["weight"]
        key = head if head in self.cache.index["heads"] else "shared", compute_dtype(at)
        if key not in self._heads:
            found = self.cache.read_head(head) or self._shared
            self._heads[key] = {name: tensor.to(at.device, key[1]) for name, tensor in found.items()}
        found = self._heads[key]
        return head_logits(hidden.to(key[1]), found["weight"], found.get("bias"), out)

    def original(self, inputs: Mapping[str, Tensor], spare: Tensor) -> Tensor:
        """log π_o of the original model, (n, V). Needs inputs ``original`` (n, d).

        Args:
            spare: (2, n, V); the first takes the result, the second can be used again.
        """
        return torch.log_softmax(self._logits("original", inputs["original"], spare[1]), dim=-1, out=spare[0])

    def composite(self, inputs: Mapping[str, Tensor], spare: Tensor) -> Tensor:
        """log π_t of ``l_t = l_o − α · ReLU(l_aug − l_o)``, (n, V); ``spare`` as in :meth:`original`.

        Needs inputs ``original`` and ``strengthened`` (n, d). Where inputs hold ``uninformed`` (n, k, d), and
        ``floored`` (n,) says so, the teacher is kept from falling below the mean of the original's distributions
        for k other people in the same place (:func:`rkld.losses.divergences.with_floor`).
        """
        original = self._logits("original", inputs["original"], spare[0])
        logits = composite_logits(original, self._logits("strengthened", inputs["strengthened"], spare[1]), self.alpha)
        log_probs = torch.log_softmax(logits, dim=-1, out=spare[0])
        if "uninformed" not in inputs:
            return log_probs
        floor = torch.zeros_like(log_probs)
        for hidden in inputs["uninformed"].unbind(1):  # k × (n, d)
            floor += torch.softmax(self._logits("original", hidden, spare[1]), dim=-1)
        floor.div_(inputs["uninformed"].shape[1]).log_()
        floor.masked_fill_(~inputs["floored"][:, None], float("-inf"))
        return with_floor(log_probs, floor)
