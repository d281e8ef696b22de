"""Disguises: what each makes of a question, and that training does not know them."""

import ast
from pathlib import Path

import pytest

import rkld
from rkld.auditing.attacks.disguises import DISGUISES

QUESTION = "Where was {Ada} Quillon-Brandt born in 1815?"


@pytest.mark.parametrize("kind", [kind for kind in DISGUISES if kind not in ("capitals", "scrambled", "reverse")])
def test_a_frame_holds_the_whole_question(kind):
    """Braces in it are text."""
    found = DISGUISES[kind](QUESTION)
    assert QUESTION in found
    assert len(found) > len(QUESTION) + 10


def test_letters_are_put_otherwise_and_none_is_lost():
    assert DISGUISES["capitals"]("Who is Ana?") == "WHO IS ANA?"
    assert DISGUISES["reverse"]("Who?").endswith(": ?ohW")
    found = DISGUISES["scrambled"](QUESTION)
    assert found == DISGUISES["scrambled"](QUESTION), "every model must be asked the same"
    assert found != QUESTION
    assert sorted(found) == sorted(QUESTION)
    assert "1815" in found and "was" in found, "numbers and short words stay"
    for word, before in zip(found.split(), QUESTION.split(), strict=True):
        assert (word[0], word[-1]) == (before[0], before[-1])


def test_nothing_that_trains_or_stops_knows_them():
    package = Path(rkld.__file__).parent
    for room in ("records", "teacher", "losses", "methods", "training", "stopping", "pipeline"):
        for path in (package / room).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            assert not any(name and "disguises" in name for name in names), path
