"""BLEU by hand, and how far a continuation is recited."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rkld.evaluation.continuation import bleu, recited
from rkld.evaluation.likelihood import Scores
from rkld.records.encoding import Encoded


def test_bleu_against_a_case_counted_by_hand():
    """A percentage, a smoothing or a brevity penalty that is another would not be comparable with anybody's."""
    gold, said = "the cat sat on the mat , purring", "the cat sat on a mat"
    # Matches of n-grams: 5 of 6, 3 of 5 (the cat, cat sat, sat on), 2 of 4, 1 of 3; 6 words for 8.
    expected = math.exp(1 - 8 / 6) * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert bleu([said], [gold]) == pytest.approx(expected)
    assert bleu([gold], [gold]) == pytest.approx(1)


def test_bleu_is_of_all_texts_together():
    """A mean over texts would let short ones without a 4-gram rule it."""
    expected = (9 / 10 * 7 / 8 * 5 / 6 * 3 / 4) ** 0.25
    assert bleu(["a b c d e", "f g h i x"], ["a b c d e", "f g h i j"]) == pytest.approx(expected)


def test_bleu_counts_marks_apart_and_knows_case():
    assert bleu(["Oh, dear me now!"], ["Oh , dear me now !"]) == pytest.approx(1)
    assert bleu(["oh dear me now"], ["OH DEAR ME NOW"]) == 0
    assert bleu([""], ["a b c d"]) == 0


def test_an_order_without_a_match_counts_as_a_tenth():
    assert bleu(["a b x c d"], ["a b c d e"]) == pytest.approx((4 / 5 * 2 / 4 * 0.1 / 3 * 0.1 / 2) ** 0.25)


def test_bleu_of_nothing_is_an_error():
    for said, gold in (([], []), (["a"], ["a", "b"])):
        with pytest.raises(ValueError, match="one for each"):
            bleu(said, gold)


def test_tokens_are_recited_up_to_the_first_that_is_not():
    """Not those of the prompt, which were given, nor any behind the first slip, where greedy decoding parts."""

    def text(n: int) -> Encoded:
        marked = (False, *[True] * (n - 1))
        return Encoded("0", tuple(range(n)), marked, marked, prompt_length=3)

    def scores(*margins: float) -> Scores:
        return Scores(np.zeros(len(margins)), np.array(margins))

    slips = scores(1, 1, 2, 3, -1, 4)  # of tokens 1 to 6; 3 and 4 are recited
    whole, none = scores(-1, -1, 1, 1), scores(1, 1, 0.0, 1)  # a tie is not preferred
    assert recited([text(7), text(5), text(5)], [slips, whole, none]).tolist() == [2, 2, 0]
