"""ROUGE-L recall for text in any script; TOFU's definition, of Latin letters alone, is in :mod:`rkld.evaluation.tofu`.

Both are rouge-score's, which by default drops every character but a–z and 0–9: a Chinese or Greek answer scores 0 there
whatever it says. Here words are those of :func:`rkld.text.normalising.normalise` (in scripts written without spaces,
characters). On plain ASCII text the two agree, but for grouped numbers ("10,000").
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from rkld.text.normalising import normalise

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

STEMMED = 4
"""Letters from which rouge-score takes an English word's ending off."""


def rouge_l_recall(generated: str, gold: str) -> float:
    """ROUGE-L recall of ``generated`` against ``gold``, 0 to 1, on words of any script; English ones stemmed."""
    return float(_scorer().score(gold, generated)["rougeL"].recall)


def rouge_l_f1(generated: str, gold: str) -> float:
    """The same with precision: what is said beside the gold answer counts against it."""
    return float(_scorer().score(gold, generated)["rougeL"].fmeasure)


@cache
def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())


class _Words:
    """A tokenizer as rouge-score takes it."""

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self._stem = PorterStemmer().stem

    def tokenize(self, text: str) -> list[str]:
        forms = (token.form for token in normalise(text).tokens)
        return [self._stem(form) if form.isascii() and len(form) >= STEMMED else form for form in forms]
