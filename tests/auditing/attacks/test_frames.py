"""Frames that only audits use: what they ask, and that training does not know them."""

import ast
from pathlib import Path

import rkld
from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.evaluation import frames
from rkld.evaluation.frames import FRAMES, facts_said_otherwise, framed
from rkld.evaluation.generation import Generated
from rkld.evaluation.summary import Measurement
from rkld.records.encoding import Encoder
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
        assert not any(name and "frames" in name for name in names), path
        said = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        for frame in FRAMES.values():
            assert not any(frame.replace("{}", "").strip() in text for text in said), path


def test_a_run_glances_at_other_wordings(monkeypatch):
    """What it shows of itself was the recorded question alone, which is forgotten first."""
    rows = [{"question": f"Where was A{i} born?", "answer": f"In Oslo{i}.", "spans": [f"Oslo{i}"]} for i in range(30)]
    asked = []

    def answers(lm, encoder, records, **_):
        asked.append([record.question for record in records])
        return [[Generated((), "In Oslo0." if "card" in record.question else "", True)] for record in records]

    monkeypatch.setattr(frames, "greedy_answers", answers)
    encoder = Encoder(tiny_tokenizer(), context_length=256)
    found = facts_said_otherwise(None, encoder, read_records(rows, "forget"))
    assert len(asked) == 2 and all(len(some) == 10 for some in asked)
    assert {kind: sum(filter(None, flags)) / len(flags) for kind, flags in found.items()} == {
        "third_party": 0.0, "index_card": 0.1,
    }  # fmt: skip
    measured = Measurement(("0",), (0.5,), otherwise=found)
    assert measured.values()["worst_kind_facts_said"] == 0.1
    for letter, wanted in (([False, None], (0.5, 2, 0)), ([None, None, None], (0.0, 3, 3))):  # that which may say most
        cut = Measurement(("0",), (0.5,), otherwise={"quiz": [True, False], "letter": letter}).values()
        assert (cut["worst_kind_facts_said"], cut["worst_kind_facts"], cut["worst_kind_facts_unseen"]) == wanted
    long = {"question": "Where was Ada born? " * 60, "answer": "In Oslo.", "spans": ["Oslo"]}
    for row in ({"text": "Ada lives in Oslo."}, long):
        assert facts_said_otherwise(None, encoder, read_records([row], "forget")) == {}, "a run must not end of it"
