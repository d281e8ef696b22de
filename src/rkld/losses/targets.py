"""What a student's distribution is drawn to: a teacher's, or the recorded tokens.

Shapes: n rows of a chunk, K tokens, V vocabulary size, b of them that are looked at together.

A teacher is said as products with heads, and as what is made of them: then whoever computes the loss may multiply once
where heads are the same, and make a block of the vocabulary at a time (:mod:`rkld.losses.chunked`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rkld.losses.divergences import cross_entropy, suppressed_logits
from rkld.losses.products import Head, Product, multiply
from rkld.models.logit_transform import NONE, LogitTransform

Inputs = Mapping[str, Tensor]
"""What a loss needs beside the student's logits, each with as many rows."""

RowLoss = Callable[[Tensor, Inputs, Tensor], tuple[Tensor, Tensor]]
"""(student logits (n, V), the same rows of the segment's inputs, spare (2, n, V)) → values (n,), gradient (n, V).

The logits and the two spare buffers are the loss's to overwrite, and the gradient may lie in them."""

Divergence = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""(student logits, the teacher's log-probabilities, spare, each (n, V)) → values (n,), gradient (n, V)."""


@dataclass(frozen=True)
class Composition:
    """How a teacher's logits are made of heads' outputs, entry by entry: of one ``transform(x)``, of two
    ``l_o − α · ReLU(l_aug − l_o)`` (RKLD, arXiv 2406.01983, eq. 4–5).

    Attributes:
        transform: what the model does to its head's output.
        alpha: strength of the suppression, no unit.
        second: what the second output is: the strengthened model's, or its rise over the first.
    """

    transform: LogitTransform = NONE
    alpha: float = 0.0
    second: Literal["rise", "strengthened"] = "rise"

    def __call__(self, outputs: Sequence[Tensor]) -> Tensor:
        """Logits (n, b) of one or two outputs (n, b), in the memory of the last."""
        if len(outputs) == 1:
            return self.transform.apply_(outputs[0])
        original, second = outputs
        if self.transform.cap is None:
            rise = second if self.second == "rise" else second.sub_(original)
            original, rise = map(self.transform.apply_, (original, rise))
        else:  # no longer linear
            strengthened = second.add_(original) if self.second == "rise" else second
            strengthened, original = map(self.transform.apply_, (strengthened, original))
            rise = strengthened.sub_(original)
        return suppressed_logits(original, rise, self.alpha)


class Recipe(NamedTuple):
    """What a target is made of, for one chunk of rows."""

    products: Sequence[Product]
    """At most two; none where the target is at hand."""
    composition: Composition


class Target:
    """A distribution for each row."""

    def recipe(self, inputs: Inputs, student: Head | None = None) -> Recipe:
        """Products with heads, and what their outputs become: log-probabilities that need not be normalised.

        Args:
            student: its head, which is multiplied anyway; a target that has the same one is to name it.
        """
        raise NotImplementedError

    def finish(self, logits: Tensor, normaliser: Tensor | float, inputs: Inputs) -> None:
        """Change what the recipe gave for whole rows, in place: log-probabilities (n, V) plus ``normaliser`` (n, 1)."""

    def finishes(self, inputs: Inputs) -> bool:
        """Whether :meth:`finish` does anything."""
        return False

    def read(self, inputs: Inputs, out: Tensor) -> None:
        """Write log-probabilities into ``out`` (n, V), where the recipe has no products."""
        raise NotImplementedError

    def __call__(self, inputs: Inputs, spare: Tensor) -> Tensor:
        """Log-probabilities (n, V), in the memory of ``spare`` (2, n, V)."""
        recipe = self.recipe(inputs)
        multiply(recipe.products, spare[: len(recipe.products)])
        return normalised(self, recipe, inputs, spare)[0]


def normalised(target: Target, recipe: Recipe, inputs: Inputs, spare: Tensor) -> tuple[Tensor, Tensor]:
    """A target's log-probabilities (n, V), step by step, and the buffer that is free again.

    Args:
        spare: (2, n, V), what the recipe's products gave.
    """
    k = len(recipe.products)
    if not k:
        target.read(inputs, spare[0])
        return spare[0], spare[1]
    logits = recipe.composition(spare[:k].unbind())  # in the last of them
    log_probs, free = torch.log_softmax(logits, dim=-1, out=spare[2 - k]), spare[k - 1]
    if target.finishes(inputs):
        target.finish(log_probs, 0.0, inputs)
        log_probs, free = torch.log_softmax(log_probs, dim=-1, out=free), log_probs
    return log_probs, free


@dataclass(frozen=True)
class Towards:
    """The loss of rows on a divergence to a target."""

    divergence: Divergence
    target: Target


Loss = RowLoss | Towards


def to_labels(logits: Tensor, inputs: Inputs, spare: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy to the records' own tokens (:data:`RowLoss`)."""
    return cross_entropy(logits, inputs["labels"], spare[0])
