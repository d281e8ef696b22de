"""The teacher: log-probabilities of the original, and of the composite of it and the strengthened model.

Both are made again from cached hidden states (:mod:`rkld.teacher.cache`) for each chunk of rows
(:mod:`rkld.losses.chunked`): ``hidden × head``.

Shapes: n rows of a chunk, d hidden size, V vocabulary size, K likeliest tokens of the floor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rkld.losses.divergences import with_floor
from rkld.losses.products import Head, Product, accurate, compute_dtype, same_tensor
from rkld.losses.targets import Composition, Inputs, Recipe, Target
from rkld.models.language_model import LanguageModel
from rkld.models.logit_transform import NONE
from rkld.teacher.cache import HiddenCache

Stored = dict[str, Tensor]
"""A head's "weight" (V, d) and, if it has one, "bias" (V,)."""


class Teacher:
    """A finished teacher: turns cached hidden states into log-probabilities, a chunk of rows at a time.

    Takes the heads from the cache where they were kept and the student's own, frozen one (LoRA) elsewhere.

    α multiplies whatever error there is in ``l_aug − l_o``. So logits are added up in float32 whatever the model's
    dtype; and where hidden states or heads are rounded before they are multiplied (float32 weights under bfloat16
    autocast), or both models share a head, their *difference* is formed first and multiplied then.

    Attributes:
        alpha: strength of the suppression, no unit. The cache serves any, so it may be set at any time.
        original: log π_o of the original model. Needs inputs ``original`` (n, d).
        composite: log π_t of ``l_t = l_o − α · ReLU(l_aug − l_o)``. Needs inputs ``original`` and ``strengthened``
            (n, d). Where inputs hold ``uninformed`` (n, K) log-probabilities of the tokens ``uninformed_ids`` (n, K),
            the teacher is kept from falling below them, the mean of the original's distributions for other people in
            the same place (:func:`rkld.losses.divergences.with_floor`); rows of −∞ have no floor.
    """

    def __init__(self, cache: HiddenCache, *, alpha: float):
        self.cache = cache
        self.alpha = alpha
        self._lm: LanguageModel | None = None
        self.original: Target = self.of_states("original")
        self.composite: Target = _Composite(self)
        self._transform = NONE
        self._heads: dict[tuple[str, torch.dtype], Stored] = {}

    def of_states(self, states: str) -> Target:
        """log π of other final states (n, d) of the original, which are called so in the inputs: through its head."""
        return _Original(self, states)

    def attach(self, lm: LanguageModel) -> None:
        """Take the student's head for those that the cache has none of. Heads are read when they are first used."""
        self._lm = lm
        self._heads = {}
        self._transform = lm.logit_transform

    @property
    def _shared(self) -> Stored:
        """The student's head as it is now: where it is sharded, it is whole in its own forward alone."""
        assert self._lm is not None, "the teacher has not been attached"
        head = self._lm.head
        return {n: p.detach() for n, p in (("weight", head.weight), ("bias", head.bias)) if p is not None}

    def original_product(self, hidden: Tensor, student: Head | None) -> Product:
        """The head's output for the original's states (n, d)."""
        head = self._of_student(student) or self._head("original")
        return _product(hidden.to(head["weight"].dtype), head)

    def products(
        self, original: Tensor, strengthened: Tensor, student: Head | None
    ) -> tuple[Sequence[Product], Composition]:
        """Of both models' states (n, d): the original's output, and the strengthened one's or its rise over it."""
        dtype = compute_dtype(self._shared["weight"])
        exact = accurate(dtype)
        apart = strengthened.to(exact) - original.to(exact)
        shared, rounded = not self.cache.has_head("strengthened"), self._shared["weight"].dtype != dtype
        if rounded and not shared:  # (h_aug − h_o) · W_oᵀ + h_aug · (W_aug − W_o)ᵀ in one product
            x = torch.cat([apart, strengthened.to(exact)], -1).to(dtype)
            second = _product(x, self._head("difference"))  # of which the original's is a part
            return (self.original_product(original, student), second), Composition(self._transform, self.alpha)
        first = self.original_product(original, student)
        if shared:  # (h_aug − h_o) · Wᵀ
            return (first, Product(apart.to(dtype), first.weight)), Composition(self._transform, self.alpha)
        second = _product(strengthened.to(dtype), self._head("strengthened"))
        return (first, second), Composition(self._transform, self.alpha, "strengthened")

    def _of_student(self, student: Head | None) -> Stored | None:
        """The student's head as it is multiplied, where the original has the same one."""
        if student is None or self.cache.has_head("original") or self._lm is None:
            return None
        if not same_tensor(student.stored, self._shared["weight"]):
            return None
        return {"weight": student.weight} | ({} if student.bias is None else {"bias": student.bias})

    def _head(self, name: str) -> Stored:
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

    def _at(self, head: Stored, dtype: torch.dtype) -> Stored:
        return {name: tensor.to(self._shared["weight"].device, dtype) for name, tensor in head.items()}

    def _stored(self, name: str) -> Stored:
        return self.cache.read_head(name) or self._shared


def _product(hidden: Tensor, head: Stored) -> Product:
    return Product(hidden, head["weight"], head.get("bias"))


class _Original(Target):
    def __init__(self, teacher: Teacher, states: str):
        self.teacher, self.states = teacher, states

    def recipe(self, inputs: Inputs, student: Head | None = None) -> Recipe:
        first = self.teacher.original_product(inputs[self.states], student)
        return Recipe((first,), Composition(self.teacher._transform))


class _Composite(Target):
    def __init__(self, teacher: Teacher):
        self.teacher = teacher

    def recipe(self, inputs: Inputs, student: Head | None = None) -> Recipe:
        return Recipe(*self.teacher.products(inputs["original"], inputs["strengthened"], student))

    def finishes(self, inputs: Inputs) -> bool:
        return "uninformed" in inputs

    def finish(self, logits: Tensor, normaliser: Tensor | float, inputs: Inputs) -> None:
        with_floor(logits, normaliser, inputs["uninformed_ids"], inputs["uninformed"])
