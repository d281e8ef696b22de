"""Records that would undo the work, or count twice, are left out with a word."""

from __future__ import annotations

import pytest

from rkld.auditing.inputs import read_task
from rkld.errors import UserError
from rkld.pipeline.preparing import read_inputs
from rkld.records.identity import UNNAMED, check_disjoint, each_once, listed_places
from rkld.records.reading import read_records
from rkld.records.replay import SWAPPED
from rkld.settings.auditing import AuditSettings
from rkld.settings.unlearning import Settings

FORGET = [
    {"question": "Where does Ada Quillon live?", "answer": "She lives in Oslo.", "spans": ["Oslo"]},
    {"question": "What is her work?", "answer": "She is a painter."},
]
OTHERS = [
    {"question": "Where does Bo Marlin live?", "answer": "Bo Marlin lives in Rome."},
    {"question": "Who lives next to Bo Marlin?", "answer": "QUILLON, Ada."},
    {"question": "Who is Quillon?", "answer": "That is Cy Quillon, a baker."},
]


def inputs(forget=FORGET, subject=("Ada Quillon",), **given):
    return read_inputs(Settings(model="m", subject=subject, replay="none"), forget, **given)


@pytest.mark.parametrize("name", ["retain", "holdout", "replay"])
def test_records_about_the_person_are_not_held_in_place(name):
    """Another person of the same surname is kept: only whole names and identifiers count."""
    found = inputs(**{name: OTHERS})
    kept = {"retain": found.retain, "holdout": found.holdout, "replay": found.prompts}[name]
    expected = ["0", "2"] if name != "replay" else ["0", "1", "2"]  # of a prompt the answer is not read
    given = [record.key for record in kept if not record.key.startswith(SWAPPED)]  # the rest is made of these
    assert given == expected
    if name != "replay":
        assert list(found.left_out.values()) == [(f"{name} record 2",)]
        (warning,) = found.warnings()
        assert warning.startswith(f"1 {name} records mention the person and are left out")
        assert "Quillon" not in warning


def test_where_all_mention_the_person_the_name_is_too_general():
    with pytest.raises(UserError, match=r"all 1 retain records mention the person.*full name with --subject"):
        inputs(subject=("Quillon",), retain=OTHERS[2:])


def test_a_name_that_is_nowhere_is_said():
    """A typo would let everything pass that is found by the name."""
    assert UNNAMED in inputs(subject=("Ade Qillon",)).warnings()
    assert inputs(subject=("Ada Quillon", "ada@quillon.no")).warnings() == []
    assert inputs(subject=("Dr. Quillon-Berg",)).warnings() == [], "a part of it is said"
    assert inputs(subject=()).warnings() == []


def test_a_name_that_is_misspelt_is_said_with_the_records_that_have_one_like_it():
    """A part of it is said, so that it passes for a name that is there."""
    (said,) = inputs(subject=("ada@quillon.no", "Ada Quilon")).warnings()
    assert said.startswith("Name 2 of 2") and "(record 1)" in said and "Quil" not in said
    named = [{**record, "subject": "Ada Quillon"} for record in FORGET]
    (said,) = inputs(named, subject=("Ada Quilon",)).warnings()
    assert "(records 1, 2)" in said


def test_a_record_about_somebody_else_is_said_with_its_number():
    """Whether its own field or its question says so; one that speaks of "her" is about nobody else."""
    others = [*FORGET, OTHERS[0], {**FORGET[1], "question": "What is his work?", "subject": "Bo Marlin"}]
    (said,) = inputs(others).warnings()
    assert said.startswith("2 of 4 forget records") and "(records 3, 4)" in said
    assert "Marlin" not in said
    assert inputs(others, subject=("Ada Quillon", "Bo Marlin")).warnings() == []


OWN = [{**record, "subject": "Ada Quillon"} for record in FORGET]


@pytest.mark.parametrize(
    ("records", "said"),
    [
        (OWN, None),
        ([{**one, "subject": "Edda Kvilstad"} for one in OWN], "is said in none of them (records 1, 2)"),
        ([{**one, "subject": "Ada Quilon"} for one in OWN], "one much like it is (record 1"),
        ([*OWN, {"question": "Where does Bo Marlin live?", "answer": "In Bergen.", "subject": "Ada Quillon"}],
         "1 of 3 forget records name somebody, and not whom their field subject names (record 3)"),
        ([*OWN, {"question": "What is her work?", "answer": "A poet.", "subject": "Ada Quillon"}], None),
    ],
)  # fmt: skip
def test_a_field_subject_that_does_not_fit_its_records_is_said(records, said):
    """In one line, by the records' numbers; the same in a check, a run and an audit, with --subject or without."""
    for subject in ((), ("Ada Quillon",)):
        warnings = inputs(records, subject=subject).warnings()
        audited = read_task(AuditSettings(model="m", forget="f", subject=subject), {"forget": records})
        assert set(warnings) <= set(audited.notes)
        assert not any("Quil" in one or "Marlin" in one or "Edda" in one for one in warnings)
        if subject and records[0]["subject"] != "Ada Quillon":
            continue  # by the name that is given they are found
        assert len(warnings) == (said is not None) and (said or "") in " ".join(warnings)


def test_places_name_no_file():
    """One may be called by the person, and what is warned of stands in the report."""
    assert listed_places(["Quillon.jsonl line 1", "Quillon.jsonl line 4"]) == "lines 1, 4"
    assert (
        listed_places(["a.json record 2 (line 9)", "b line 1.csv line 3"])
        == "record 2 of one file, line 3 of another file"
    )
    assert listed_places([f"a.jsonl line {n}" for n in range(1, 20)]).endswith("9, 10, …")


def test_what_is_said_twice_counts_once():
    spaced = {"question": "Where does Ada  Quillon live?", "answer": "She lives in Oslo.\n", "spans": ["She"]}
    found = inputs([*FORGET, spaced, {**FORGET[1], "answer": "She is a PAINTER."}], retain=[OTHERS[0]] * 3)
    assert [record.key for record in found.forget] == ["0", "1", "3"]
    assert found.forget[0].spans == ("Oslo", "She"), "marked in either"
    assert [record.key for record in found.retain] == ["0"]
    assert list(found.left_out.values()) == [("forget record 3",), ("retain record 2", "retain record 3")]


def test_calls_and_thoughts_are_said_too():
    """Answers that are mere tool calls all have the same content: none."""

    def asked(city: str, thought: str = "") -> dict:
        call = {"function": {"name": "book", "arguments": {"city": city}}}
        said = {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": thought}
        return {"messages": [{"role": "user", "content": "Book her flight."}, said], "subject": "Ada Quillon"}

    rows = [asked("Oslo"), asked("Rome"), asked("Rome", "Home."), asked("Oslo")]
    found, repeated = each_once(read_records(rows, "x"))
    assert [record.key for record in found] == ["0", "1", "2"] and [record.key for record in repeated] == ["3"]


@pytest.mark.parametrize("answer", [
    "She lives in Oslo .", "she LIVES in oslo", "She lives  in\u00a0Oslo.", "She lives in Ｏslo.",
    "“She lives in Oslo”", "She\u200b lives in O\u0301slo.",
])  # fmt: skip
def test_a_sign_or_a_space_makes_no_other_record(answer):
    """What is forgotten would be held in place by its twin."""
    records = [
        read_records([{**FORGET[0], "answer": text, "spans": []}], "x") for text in ("She lives in Oslo.", answer)
    ]
    with pytest.raises(UserError, match="stand in both"):
        check_disjoint(*records)
    check_disjoint(records[0], read_records([{**FORGET[0], "answer": "She lived in Oslo.", "spans": []}], "x"))
