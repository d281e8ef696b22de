"""Whether an answer says a fact, and whether it repeats itself: as strings, without any model."""

from __future__ import annotations

from collections.abc import Sequence

from rkld.text.matching import Matcher
from rkld.text.normalising import normalise


def facts_said(facts: Sequence[str], answer: str) -> list[bool]:
    """For each fact whether ``answer`` says it, as :func:`rkld.text.matching.mentions` finds it.

    "Skłodowska" is said by "SKLODOWSKA-CURIE'S", "10,000" by "10000"; but "18" is not said by "1867". Other wordings
    ("eighteen" for "18") are not found.

    Raises:
        ValueError: a fact is blank.
    """
    for number, fact in enumerate(facts, start=1):
        if not fact.strip():
            raise ValueError(f"fact {number} of {len(facts)} is blank")
    said = Matcher.of(facts).said(answer)
    return [number in said for number in range(len(facts))]


_GRAM = 4
"""Words that count as a repetition together."""


def repetition(text: str) -> float:
    """Share of runs of four words that repeat an earlier one: 0 for fluent text, towards 1 for text that loops.

    seq-rep-4 of Welleck et al. 2020 (arXiv 1908.04319), on words. Text shorter than five words gives 0.
    """
    words = [token.form for token in normalise(text).tokens]
    grams = [tuple(words[i : i + _GRAM]) for i in range(len(words) - _GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
