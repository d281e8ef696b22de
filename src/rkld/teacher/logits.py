"""The teacher: log-probabilities of the original, and of the composite of it and the strengthened model.

Both are made again from cached hidden states (:mod:`rkld.teacher.cache`) for each chunk of rows
(:mod:`rkld.losses.chunked`): ``hidden × head``.

Shapes: n rows of a chunk, d hidden size, V vocabulary size, K likeliest tokens of the floor.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rkld.losses.chunked import accurate_logits, compute_dtype
from rkld.losses.divergences import suppressed_logits, with_floor
from rkld.models.language_model import LanguageModel
from rkld.models.logit_transform import NONE
from rkld.teacher.cache import HiddenCache

Head = dict[str, Tensor]
"""A head's "weight" (V, d) and, if it has one, "bias" (V,)."""


class Teacher:
    """A finished teacher: turns cached hidden states into log-probabilities, a chunk of rows at a time.

    Takes the heads from the cache where they were kept and the student's own, frozen one (LoRA) elsewhere.

    α multiplies whatever error there is in ``l_aug − l_o``. So logits are added up in float32 whatever the model's
    dtype; and where hidden states or heads are rounded before they are multiplied (float32 weights under bfloat16
    autocast), or both models share a head, their *difference* is formed first and multiplied then.

    Attributes:
        alpha: strength of the suppression, no unit. The cache serves any, so it may be set at any time.
    """

    def __init__(self, cache: HiddenCache, *, alpha: float):
        self.cache = cache
        self.alpha = alpha
        self._lm: LanguageModel | None = None
        self._transform = NONE
        self._heads: dict[tuple[str, torch.dtype], Head] = {}

    def attach(self, lm: LanguageModel) -> None:
        """Take the student's head for those that the cache has none of. Heads are read when they are first used."""
        self._lm = lm
        self._heads = {}
        self._transform = lm.logit_transform

    @property
    def _shared(self) -> Head:
        """The student's head as it is now: where it is sharded, it is whole in its own forward alone."""
        assert self._lm is not None, "the teacher has not been attached"
        head = self._lm.head
        return {n: p.detach() for n, p in (("weight", head.weight), ("bias", head.bias)) if p is not None}

    def original(self, inputs: Mapping[str, Tensor], spare: Tensor) -> Tensor:
        """log π_o of the original model, (n, V). Needs inputs ``original`` (n, d).

        Args:
            spare: (2, n, V); the first takes the result, the second can be used again.
        """
        logits = self._transform.apply_(self._original_output(inputs["original"], spare[1]))
        return torch.log_softmax(logits, dim=-1, out=spare[0])

    def composite(self, inputs: Mapping[str, Tensor], spare: Tensor) -> Tensor:
        """log π_t of ``l_t = l_o − α · ReLU(l_aug − l_o)``, (n, V); ``spare`` as in :meth:`original`.

        Needs inputs ``original`` and ``strengthened`` (n, d). Where inputs hold ``uninformed`` (n, K) log-probabilities
        of the tokens ``uninformed_ids`` (n, K), the teacher is kept from falling below them, the mean of the original's
        distributions for other people in the same place (:func:`rkld.losses.divergences.with_floor`); rows of −∞ have
        no floor.
        """
        original = self._original_output(inputs["original"], spare[0])
        rise = self._rise(inputs["original"], inputs["strengthened"], original, spare[1])
        if self._transform.cap is None:
            original, rise = map(self._transform.apply_, (original, rise))
        else:  # no longer linear
            strengthened = self._transform.apply_(rise.add_(original))
            original = self._transform.apply_(original)
            rise = strengthened.sub_(original)
        log_probs = torch.log_softmax(suppressed_logits(original, rise, self.alpha), dim=-1, out=spare[0])
        if "uninformed" not in inputs:
            return log_probs
        floor = spare[1].fill_(-torch.inf)
        floor.scatter_(1, inputs["uninformed_ids"].long(), inputs["uninformed"].to(floor.dtype))
        return with_floor(log_probs, floor)

    def _original_output(self, hidden: Tensor, out: Tensor) -> Tensor:
        head = self._head("original")
        return accurate_logits(hidden.to(head["weight"].dtype), head["weight"], head.get("bias"), out)

    def _rise(self, original: Tensor, strengthened: Tensor, logits: Tensor, out: Tensor) -> Tensor:
        """What the head puts out more for the strengthened model, (n, V), into ``out``: of both hidden states (n, d),
        and ``logits``, its output for the original (n, V)."""
        ours, dtype = self._head("original"), compute_dtype(self._shared["weight"])
        apart = strengthened.to(out.dtype) - original.to(out.dtype)
        if not self.cache.has_head("strengthened"):  # (h_aug − h_o) · Wᵀ
            return accurate_logits(apart.to(dtype), ours["weight"], None, out)
        if self._shared["weight"].dtype == dtype:  # nothing is rounded before it is multiplied
            head = self._head("strengthened")
            return accurate_logits(strengthened.to(dtype), head["weight"], head.get("bias"), out).sub_(logits)
        # (h_aug − h_o) · W_oᵀ + h_aug · (W_aug − W_o)ᵀ in one product
        head, x = self._head("difference"), torch.cat([apart, strengthened.to(out.dtype)], -1).to(dtype)
        return accurate_logits(x, head["weight"], head.get("bias"), out)

    def _head(self, name: str) -> Head:
        """A head in the dtype to compute in, on the student's device.

        Args:
            name: "original", "strengthened", or "difference" of the two: W_o and W_aug − W_o side by side, (V, 2d),
                with the biases' difference. Then the original's is a part of it, so that two heads are held, not three.
        """
        at = self._shared["weight"]
        key = name, compute_dtype(at)
        if name != "difference" and not self.cache.has_head(name) and at.dtype == key[1]:
            return self._shared
        if key not in self._heads:
            if name == "difference":
                first, second = self._stored("original"), self._stored("strengthened")
                V, d = first["weight"].shape
                weight = torch.empty((V, 2 * d), dtype=key[1], device=at.device)
                weight[:, :d].copy_(first["weight"])
                weight[:, d:].copy_(second["weight"] - first["weight"])
                bias = (second["bias"] - first["bias"]).to(at.device) if "bias" in first else None
                self._heads["original", key[1]] = self._at(first | {"weight": weight[:, :d]}, key[1])
                self._heads[key] = {"weight": weight} | ({} if bias is None else {"bias": bias})
            else:
                self._heads[key] = self._at(self._stored(name), key[1])
        return self._heads[key]

    def _at(self, head: Head, dtype: torch.dtype) -> Head:
        return {name: tensor.to(self._shared["weight"].device, dtype) for name, tensor in head.items()}

    def _stored(self, name: str) -> Head:
        return self.cache.read_head(name) or self._shared
