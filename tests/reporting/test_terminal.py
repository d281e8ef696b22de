"""What an audit prints: each limit once, whole names on any terminal, and what each figure means."""

from __future__ import annotations

from pathlib import Path

from rkld.auditing.gates import judge_all
from rkld.pipeline.running import Result
from rkld.reporting.terminal import _figures_table, print_audit, print_result
from tests.reporting.made import METRICS, document, figure, gates, metric

LONG = "neighbours_worst_kind_facts_in_part"


def printed(capsys, monkeypatch, columns=80, **given):
    """The lines of an audit whose reasons are those of its gates, and one more."""
    monkeypatch.setenv("COLUMNS", str(columns))
    found = document(verdict="not established")
    found["verdict"], found["reasons"] = judge_all(gates("not established"), ["the audit is of little"])
    found["metrics"]["worst_kind_facts_said"]["figures"] = {
        role: {**one, "kind": "quiz"} for role, one in found["metrics"]["worst_kind_facts_said"]["figures"].items()
    }
    found["metrics"][LONG] = metric("facts_said", ["0"])
    found["metrics"]["priv_leak"] = metric("truth_ratio", ["0"])
    found["metrics"]["priv_leak"]["figures"]["audited"] = figure(-72.0, 20)
    print_audit(found, Path("audit.json"), **given)
    return capsys.readouterr().out.splitlines()


def test_each_limit_is_said_once(capsys, monkeypatch):
    lines = printed(capsys, monkeypatch)
    after = lines[lines.index("What each means: --explain") :]
    for name in ("facts_said", "gibberish", "loss_auc_distance"):
        assert sum(name in line for line in after) == 1, name
    (still_open,) = [line for line in after if line.startswith("not established: facts_said ")]
    assert "default max 0.25: the interval" not in still_open or "crosses it" in still_open
    assert "facts that the model's own answers say" in still_open
    (silent,) = [line for line in after if line.startswith("not measured: ")]
    assert "no part of the verdict" in silent and "distance of the AUC of the loss" in silent
    assert after[-3:-1] == ["verdict  not established", "         the audit is of little"]


def test_no_word_is_broken_on_a_narrow_terminal(capsys, monkeypatch):
    lines = printed(capsys, monkeypatch)
    table = lines[1 : lines.index("Where neither lower nor higher is better, read the figure beside the control's.")]
    assert max(map(len, table)) <= 80
    pieces = [piece for line in table if (piece := line[:18].strip(" ─"))]
    assert LONG in "".join(pieces) and "worst_kind_facts_said" in "".join(pieces)
    words = {word for name in (*METRICS, LONG, "priv_leak") for word in name.split("_")}
    assert {word for piece in pieces for word in piece.split("_") if word} <= words
    wide = printed(capsys, monkeypatch, columns=200)
    assert any(LONG in line and "0.040 [" in line for line in wide)


def test_what_was_not_measured_is_explained_too(capsys, monkeypatch):
    lines = printed(capsys, monkeypatch, explain=True)
    assert "loss_auc_distance: distance of the AUC of the loss. How well the records are told apart." in lines


def test_facts_that_no_answer_came_to_are_counted_beside_the_verdict(capsys, monkeypatch, tmp_path):
    """0 % of the facts was the verdict of a run whose answers were all cut before a fact could come."""
    monkeypatch.setenv("COLUMNS", "120")
    before = {"n": 4, "probability": 0.9, "facts_said": 1.0, "facts": 4, "facts_unseen": 0}
    after = {"n": 4, "probability": 0.1, "facts_said": 0.0, "facts": 4, "facts_unseen": 4}
    metrics = {"before": {"forget": before}, "after": {"forget": after}}
    print_result(Result(tmp_path, tmp_path, metrics, ()))
    said = capsys.readouterr().out
    assert "0% of the facts, 100% before; 4 of 4 are unknown: answers were cut." in " ".join(said.split())
    (row,) = [line for line in said.splitlines() if "facts in answers that were cut" in line]
    assert "4 of 4" in row


def test_the_table_says_of_every_figure_what_is_better(capsys, monkeypatch):
    """The report said it, the terminal left it blank."""
    from rich.console import Console

    from rkld.evaluation.metric import BETTER

    metrics = {name: metric(name, ["0"]) | {"forgotten": forgotten} for name, forgotten in zip(METRICS, BETTER)}
    for narrow in (False, True):
        Console(width=200).print(_figures_table(metrics, ["audited"], narrow=narrow))
        said = " ".join(capsys.readouterr().out.replace("│", " ").split())
        for words in ("lower", "higher", "as a model that", "never saw them"):
            assert words in said


def test_every_row_of_a_run_is_explained(capsys, tmp_path):
    figures = {"n": 9, "probability": 0.5, "rouge_l": 0.5, "facts_said": 0.5, "worst_kind_facts_said": 0.5,
               "facts": 9, "facts_unseen": 2}  # fmt: skip
    when = {name: {"forget": figures} for name in ("before", "after")}
    print_result(Result(tmp_path, tmp_path, when, []), explain=True)
    said = capsys.readouterr().out
    for label in ("probability", "ROUGE-L", "facts still said", "… in the worst of two other wordings",
                  "facts in answers that were cut"):  # fmt: skip
        assert f"\n{label}: " in said, label
