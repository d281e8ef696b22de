"""How far a model's continuation of a text is the true one: words in common, and tokens recited.

ROUGE-L recall is :func:`rkld.evaluation.rouge.rouge_l_recall`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rkld.evaluation.likelihood import Scores
    from rkld.records.encoding import Encoded


_TOKEN = re.compile(r"\w+|[^\w\s]")
"""Words and, one by one, punctuation marks."""


def bleu(generated: Sequence[str], gold: Sequence[str]) -> float:
    """Corpus BLEU of the texts against one gold text each, 0 to 1, by NLTK.

    N-grams of 1 to 4 words or punctuation marks, counted over all texts, letter by letter with case; brevity penalty.
    An n-gram order without any match counts as a tenth of one (Chen and Cherry 2014, method 1), unless no word matches:
    then it is 0. ValueError where there are no texts, or not as many of one as of the other.
    """
    from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

    if not gold or len(generated) != len(gold):
        raise ValueError(f"{len(generated)} generated texts for {len(gold)} gold ones; there must be one for each")
    references = [[_TOKEN.findall(text)] for text in gold]
    hypotheses = [_TOKEN.findall(text) for text in generated]
    return float(corpus_bleu(references, hypotheses, smoothing_function=SmoothingFunction().method1))


def recited(encoded: Sequence[Encoded], scores: Sequence[Scores]) -> np.ndarray:
    """How many tokens of each greedy continuation are the true ones, up to the first that is not; (records,) int64.

    Nothing need be generated for that: greedy decoding goes along the true tokens as long as it prefers them.

    Args:
        scores: :func:`rkld.evaluation.likelihood.answer_scores` of the records, with mask "answer".
    """
    lengths = []
    for record, found in zip(encoded, scores, strict=True):
        missed = ~(found.margins[sum(record.answer[: record.prompt_length]) :] > 0)
        lengths.append(int(missed.argmax()) if missed.any() else missed.size)
    return np.array(lengths, dtype=np.int64)
