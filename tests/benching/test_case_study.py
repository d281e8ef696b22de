"""The case study: which facts are asked for, what of each model is kept, and a page that is safe to open."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rkld import UserError
from rkld.benching import case_study as cases
from rkld.benching import comparing
from rkld.benching.case_study import choose_cases, complete_cases, write_cases
from rkld.benching.cell_runs import CELL, cell_results, finished
from rkld.benching.cells import Cell
from rkld.benching.comparing import bench
from rkld.benching.registry import open_benchmark
from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model, tiny_tokenizer
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.records.encoding import Encoder
from rkld.records.identity import identifiers
from rkld.records.reading import read_records

pytestmark = pytest.mark.slow

SMALL = {"seeds": 1, "epochs": 1, "strengthen_epochs": 1, "batch_size": 20, "questions": 1,
         "max_new_tokens": 2, "cases": 3}  # fmt: skip
WORLD = people(n=6, seed=0)
TOFU = [
    {"question": "Where was Ada Lund born?", "answer": "Ada Lund was born in Oslo, Norway."},
    {"question": "Does Ada Lund write?", "answer": "Yes."},
    {"question": "What was the work of Ada Lund's father?", "answer": "Ada Lund's father was a florist."},
    {"question": "Where does Bo Marlin live?", "answer": "Rome is where Bo Marlin lives."},
]
"""Without spans and subjects, as TOFU's records are."""
NAMES = ("Ada Lund", "Bo Marlin")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(tiny_tokenizer())


@pytest.fixture(scope="module")
def done(four_people, tmp_path_factory) -> tuple[Path, dict]:
    """A finished benchmark with three cases, of models that have learned nothing."""
    folder = tmp_path_factory.mktemp("bench")
    save_model(load_model(tiny_model(0)[0], tokenizer=tiny_tokenizer()), folder / "model")
    given = {name: str(folder / "model") for name in ("original", "retrained")}
    settings = {**SMALL, **given, "methods": "gradient_ascent", "out": str(folder / "out")}
    found = bench(four_people, **settings)
    assert folder / "out" / "cases.md" in found.files
    return folder / "out", settings


def cell(folder: Path, name: str) -> dict:
    return json.loads((folder / "cells/people/seed0" / name / "cell.json").read_text(encoding="utf-8"))


# Which


def test_people_take_turns_and_few_cases_are_a_part_of_more(encoder):
    """Otherwise three cases of ten authors could all be about one, or more cases would be other ones."""
    records = read_records(WORLD.forget([1, 2, 4]), "forget")
    names = identifiers(records, ())
    few, more = (choose_cases(records, names, encoder, count) for count in (3, 6))
    assert len({case.record.subject for case in few}) == 3
    assert {case.record.key for case in few} < {case.record.key for case in more}
    assert [case.record.key for case in more] == [case.record.key for case in choose_cases(records, names, encoder, 6)]
    assert [int(case.record.key) for case in more] == sorted(int(case.record.key) for case in more)


def test_the_fact_is_what_the_blank_leaves_out(encoder):
    for case in choose_cases(read_records(WORLD.forget([1]), "forget"), WORLD.names[1:2], encoder, 20):
        assert case.blank.fact in case.record.spans
        assert case.blank.fact not in case.record.question
        assert case.record.answer.startswith(case.beginning)
        assert case.blank.fact not in case.beginning


def test_records_without_marks_have_names_numbers_or_what_the_answer_adds(encoder):
    """TOFU marks nothing; "florist" is no name, yet a fact. "Yes." holds none, and must not become a case."""
    found = choose_cases(read_records(TOFU, "forget"), NAMES, encoder, 9)
    assert {case.blank.fact: case.beginning for case in found} == {
        "Oslo": "Ada Lund was born in", "florist": "Ada Lund's father was a", "Rome": ""
    }  # fmt: skip
    few = choose_cases(read_records(TOFU, "forget"), NAMES, encoder, 2)
    assert {name for name in NAMES for case in few if name in case.record.question} == set(NAMES)


def test_records_without_facts_are_refused(encoder):
    with pytest.raises(UserError, match=r"none of the 1 forget questions .* 'spans'"):
        choose_cases(read_records(TOFU[1:2], "forget"), NAMES, encoder, 2)


# What is said


def test_what_is_told_is_said_by_the_model(encoder, monkeypatch):
    """The direct answer must be to the question, the completions to the blank, each compared with the fact."""
    (case,) = choose_cases(read_records(TOFU[:1], "forget"), NAMES, encoder, 1)
    lm = load_model(tiny_model(0)[0], tokenizer=tiny_tokenizer())
    monkeypatch.setattr(cases, "fill_in", lambda lm, given, k: [("Rome.", "Oslo, I think")] * len(given))
    (row,) = complete_cases(lm, [case], 3)
    assert row["filled"]
    assert not row["said"]
    assert row["completions"] == ["Rome.", "Oslo, I think"]
    assert lm.tokenizer.decode(case.prompt) in lm.tokenizer.decode(case.blank.ids)
    assert lm.tokenizer.decode(case.blank.ids).rstrip().endswith("born in")
    monkeypatch.undo()
    (row,) = complete_cases(lm, [case], 3)
    assert len(row["completions"]) == cases.TOP


def test_every_cell_tells_of_every_moment(done):
    """A method without its cases could not stand beside the others; figures must not take texts for numbers."""
    folder, _ = done
    moments = {
        "original": {"model"}, "retrained": {"model"}, "gradient_ascent": {"last", "stop", "oracle"}
    }  # fmt: skip
    asked = None
    for name, expected in moments.items():
        found = cell(folder, name)
        assert found["cases"].keys() == expected == found["moments"].keys()
        assert all("cases" not in values for values in found["moments"].values())
        for told in found["cases"].values():
            asked = asked or [(row["question"], row["fact"]) for row in told]
            assert [(row["question"], row["fact"]) for row in told] == asked
            assert len(asked) == 3
            assert all(len(row["completions"]) == 5 for row in told)
    page = (folder / "cases.md").read_text(encoding="utf-8")
    assert all(page.count(f"| {name} | ") == n for name, n in {"original": 4, "gradient_ascent": 12}.items())


def test_the_same_cells_give_the_same_page_and_other_cases_are_refused(done, four_people, monkeypatch):
    folder, settings = done
    before = (folder / "cases.md").read_bytes()
    monkeypatch.setattr(comparing, "run_cells", None)  # a cell that were run again would fail
    bench(four_people, **settings)
    assert (folder / "cases.md").read_bytes() == before
    with pytest.raises(UserError, match="cases: 3 then, 4 now"):
        bench(four_people, **{**settings, "cases": 4})


def test_cells_without_cases_count_until_some_are_asked_for(tmp_path):
    """A benchmark of days must not be refused for a setting that it did not have."""
    benchmark = open_benchmark("people", {"out": str(tmp_path)})
    one = Cell("people", 0, "original")
    path = cell_results(benchmark, one).path(CELL)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"settings": benchmark.identity(one)}))
    assert finished(benchmark, one)
    with pytest.raises(UserError, match="cases: None then, 2 now"):
        finished(open_benchmark("people", {"out": str(tmp_path), "cases": 2}), one)


def test_tuning_has_no_cases():
    """Its rates are tried on people who are not reported on: their texts would be kept for nothing."""
    benchmark = open_benchmark("people", {"cases": 2})
    assert benchmark.cases(Cell("people", 1, "rkld", tuning=True)) == 0
    assert benchmark.cases(Cell("people", 0, "rkld")) == 2


# The page


def test_the_page_counts_over_seeds_and_trusts_no_text(tmp_path):
    evil = {"question": "Who <b>is</b> it?", "beginning": "It is", "fact": "A|B", "answer": "<script>x</script>\x1b[2J",
            "completions": ["| # x", "[a](b)", "", "d", "e"]}  # fmt: skip
    found = {
        Cell("forget01", seed, "npo"): {"cases": {"last": [{**evil, "said": False, "filled": seed == 0}]}}
        for seed in range(4)
    }
    page = write_cases(tmp_path, found).read_text(encoding="utf-8")
    assert "| forget01 | npo | last epoch | 4 | 0.250 | 0.000 |" in page
    assert not any(text in page for text in ("<script", "<b>", "\x1b", "[a]", "A|B"))
    assert page.count("## Case") == 1
    rows = [line for line in page.splitlines() if line.startswith("| npo")]
    assert len(rows) == 4
    assert {row.count("|") for row in rows} == {12}
    assert "| – |" in rows[0]
