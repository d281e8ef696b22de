"""ROUGE-L in any script, and as TOFU has it where the letters are Latin."""

import pytest

from rkld.evaluation import tofu
from rkld.evaluation.rouge import rouge_l_recall


@pytest.mark.parametrize(
    "answer, gold",
    [
        ("She was born in Warsaw.", "Marie was born in Warsaw, in the city's north, in 1867."),
        ("runs and running, studies; studied it", "He runs; the runner's study of it."),
        ("", "Nothing at all."),
        ("Nothing", "..."),
    ],
)
def test_plain_latin_text_scores_as_tofu_scores_it(answer, gold):
    """Figures beside published ones would mean something else."""
    assert rouge_l_recall(answer, gold) == pytest.approx(tofu.rouge_l_recall(answer, gold))


@pytest.mark.parametrize(
    "answer, gold, recall",
    [
        ("她生于华沙", "居里夫人生于华沙", 0.5),
        ("στη Βαρσοβία", "Γεννήθηκε στη Βαρσοβία", 2 / 3),
        ("في وارسو", "ولدت في وارسو", 2 / 3),
        ("В Варшаве.", "Она родилась в Варшаве.", 0.5),
        ("भारत में", "वह भारत में थी", 0.5),
        ("ワルシャワ", "ワルシャワ", 1.0),
    ],
)
def test_other_scripts_score_too(answer, gold, recall):
    """0 whatever the answer says: a full leak in Chinese would hold every gate."""
    assert rouge_l_recall(answer, gold) == pytest.approx(recall)
    assert tofu.rouge_l_recall(answer, gold) == 0
