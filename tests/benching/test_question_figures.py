"""Figures of generated answers."""

from __future__ import annotations

import numpy as np
import pytest

from rkld.benching.question_figures import FIGURES, SETS, names_whole, question_figures
from rkld.records.reading import read_records


def test_a_garbled_name_is_counted_where_the_question_gave_it():
    """Damage that forget quality is blind to; a name that only the answer has is a secret, and must not count."""
    rows = [
        {"question": "Where was Ada Lund born?", "answer": "Ada Lund was born in Oslo."},
        {"question": "What does Ada Lund write?", "answer": "Ada Lund writes poems."},
        {"question": "Who was born in Oslo in 1950?", "answer": "Her name is Ada Lund."},
        {"question": "Is Ada Lund married?", "answer": "Yes."},
    ]
    found = names_whole(
        read_records(rows, "forget"), ["Ada Lund was born.", "Ada Lud writes.", "Eve", "No"], ["Ada Lund"]
    )
    assert found.tolist() == [True, False]


def test_both_forms_of_the_truth_ratio_stand_beside_each_other():
    """TOFU's, wrong over right, and open-unlearning's later one: right over right and wrong."""
    wrong, right = np.array([[3.0, 1.0], [1.0, 1.0]]), np.array([1.0, 3.0])
    columns = {
        "gold_loss": right,
        "paraphrase_loss": right,
        "perturbed_loss": wrong,
    }
    found = question_figures(dict.fromkeys(SETS, columns), [1.0, 1.0])
    p, q = np.exp(-right), np.exp(-wrong.mean(1))
    assert found["forget_correct_share"] == pytest.approx((p / (p + q)).mean())
    assert found["forget_truth_ratio"] == pytest.approx(np.minimum(q / p, p / q).mean())
    assert set(found) <= {*FIGURES, "n"}
