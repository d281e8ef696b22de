"""Frames that only audits use: what they ask, and that training does not know them."""

import ast
from pathlib import Path

import rkld
from rkld.auditing.attacks.frames import FRAMES, framed
from rkld.records.reading import read_records


def test_a_frame_holds_the_whole_question_and_keeps_the_rest():
    """Of a conversation the last question alone is put otherwise; braces in it are text."""
    rows = [
        {"question": "Where was {Ada} born?", "answer": "In Oslo."},
        {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A poet."},
                      {"role": "user", "content": "Of what?"}, {"role": "assistant", "content": "Of the sea."}]},
    ]  # fmt: skip
    for frame in FRAMES.values():
        one, two = framed(read_records(rows, "forget"), frame)
        assert "Where was {Ada} born?" in one.question and one.answer == "In Oslo."
        assert two.turns[0].content == "Who?" and "Of what?" in two.question and two.answer == "Of the sea."


def test_only_audits_and_figures_know_the_frames():
    """What an audit asks is evidence as long as nothing that trains or stops can see it."""
    package = Path(rkld.__file__).parent
    steering = ("records", "teacher", "losses", "methods", "training", "stopping")
    for path in (path for room in steering for path in (package / room).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not any(name and name.startswith("rkld.auditing") for name in names), path
        said = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        for frame in FRAMES.values():
            assert not any(frame.replace("{}", "").strip() in text for text in said), path
