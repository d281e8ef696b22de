"""Whether an answer says a fact, and whether it repeats itself: as strings, without any model."""

from __future__ import annotations

from collections.abc import Sequence

from rkld.text.matching import Matcher
from rkld.text.normalising import normalise, words
from rkld.text.wording import content_words


def facts_said(facts: Sequence[str], answer: str) -> list[bool]:
    """For each fact whether ``answer`` says it, as :func:`rkld.text.matching.mentions` finds it.

    "Skłodowska" is said by "SKLODOWSKA-CURIE'S", "10,000" by "10000" and "ten thousand", "12 May 1990" by "1990-05-12";
    but "18" is not said by "1867". A part of a fact does not say it: :func:`shares_said`.

    Raises:
        ValueError: a fact is blank.
    """
    for number, fact in enumerate(facts, start=1):
        if not fact.strip():
            raise ValueError(f"fact {number} of {len(facts)} is blank")
    said = Matcher.of(facts).said(answer)
    return [number in said for number in range(len(facts))]


def shares_said(facts: Sequence[str], answer: str, given: str = "") -> list[float]:
    """For each fact which share of its words ``answer`` says, in [0, 1]; 1 where it says the whole, in any form.

    "Basil Husseiniani" says a third of "Basil Mahfouz Al-Kuwaiti", "May 1990" two of "12 May 1990". Function words,
    letters by themselves and particles of two do not count, nor what ``given``, such as the question, says already.
    """
    said, known = facts_said(facts, answer), set(words(given))
    shares = []
    for fact, whole in zip(facts, said, strict=True):
        parts = [] if whole else [word for word in content_words(fact) if word not in known]
        shares.append(len(Matcher.of(parts).said(answer)) / len(parts) if parts else float(whole))
    return shares


_GRAM = 4
"""Words that count as a repetition together."""


def repetition(text: str) -> float:
    """Share of runs of four words that repeat an earlier one: 0 for fluent text, towards 1 for text that loops.

    seq-rep-4 of Welleck et al. 2020 (arXiv 1908.04319), on words. Text shorter than five words gives 0.
    """
    words = [token.form for token in normalise(text).tokens]
    grams = [tuple(words[i : i + _GRAM]) for i in range(len(words) - _GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
