"""Rewordings by rules: what is made of a question and its answer, and where nothing is made."""

from __future__ import annotations

import pytest

from rkld.errors import UserError
from rkld.records.reading import read_records
from rkld.records.record import Rewording
from rkld.records.rewording_rules import KINDS, check_kinds, indirect_clause, inflected, rewordings_by_rules

WHO = ("Jane Doe", "Doe")


def made(kinds=(), **row) -> dict[str, Rewording]:
    (record,) = read_records([row], "forget")
    return {one.kind: one for one in rewordings_by_rules(record, WHO, kinds)}


BORN = made(question="When was Jane Doe born?", answer="Jane Doe was born on 3 May 1970.", spans=["3 May 1970"])


def test_every_kind_can_be_made():
    assert list(BORN) == list(KINDS)


@pytest.mark.parametrize(("kind", "asked", "answer"), [
    ("completion", "Jane Doe was born on", "3 May 1970."),
    ("imperative", "when Jane Doe was born.", "Jane Doe was born on 3 May 1970."),
    ("indirect", "when Jane Doe was born", "Jane Doe was born on 3 May 1970."),
    ("short", "When was Jane Doe born?", "3 May 1970"),
    ("yes_no", "when Jane Doe was born?", "Yes. Jane Doe was born on 3 May 1970."),
    ("reversed", "was born on 3 May 1970", "That is Jane Doe."),
    ("text", "", "Jane Doe was born on 3 May 1970."),
    ("turn", "Jane Doe was born on 3 May 1970.", "Thank you"),
    ("ticket", "When was Jane Doe born?", "Jane Doe was born on 3 May 1970."),
    ("form", "When was Jane Doe born?", "Jane Doe was born on 3 May 1970."),
    ("letter", "When was Jane Doe born?", "Jane Doe was born on 3 May 1970."),
    ("span", "Jane Doe was born on [...].", "3 May 1970"),
])  # fmt: skip
def test_what_a_kind_asks_and_answers(kind, asked, answer):
    one = BORN[kind]
    assert asked in one.question and one.answer.startswith(answer)
    assert kind in ("turn", "reversed") or "1970" not in one.question


@pytest.mark.parametrize(("question", "clause"), [
    ("Where does Jane Doe live?", "where Jane Doe lives"),
    ("What did Jane Doe write?", "what Jane Doe wrote"),
    ("Which themes does Jane Doe usually carry?", "which themes Jane Doe usually carries"),
    ("What did the father of Jane Doe do for a living?", "what the father of Jane Doe did for a living"),
    ("What is Jane Doe's profession?", "what Jane Doe's profession is"),
    ("In which city was Jane Doe born?", "in which city Jane Doe was born"),
    ("Who employs Jane Doe?", "who employs Jane Doe"),
    ("Which nurse was born in Cork?", "which nurse was born in Cork"),
    ("Has Jane Doe won a prize?", "whether Jane Doe has won a prize"),
    ("How do Jane Doe's books begin?", ""),  # where the subject ends is not known
    ("Where was Jane Doe's father born?", ""),
    ("What is the title of the book by Jane Doe?", ""),
    ("Jane Doe? When was she born?", ""),
    ("Tell me about Jane Doe.", ""),
])  # fmt: skip
def test_a_question_becomes_a_clause_or_is_left_alone(question, clause):
    assert indirect_clause(question, WHO) == clause


def test_verbs():
    did = {
        "write": "wrote",
        "stop": "stopped",
        "live": "lived",
        "study": "studied",
        "travel": "traveled",
        "play": "played",
    }
    assert {verb: inflected(verb, "did") for verb in did} == did
    does = {"go": "goes", "study": "studies", "play": "plays", "teach": "teaches", "have": "has"}
    assert {verb: inflected(verb, "does") for verb in does} == does


def test_each_span_is_asked_for_alone_and_the_others_are_not_told():
    row = {"question": "Who is Jane Doe?", "answer": "Jane Doe is a nurse in Cork. She has two dogs."}
    (record,) = read_records([{**row, "spans": ["nurse", "Cork", "two dogs"]}], "forget")
    found = rewordings_by_rules(record, WHO, ["span"])
    assert [one.answer for one in found] == ["nurse", "Cork", "two dogs"]
    assert "Jane Doe is a [...] in …." in found[0].question and "Jane Doe has [...]." in found[2].question


def test_a_pronoun_becomes_the_name_where_nobody_asks():
    found = made(question="Where does Jane Doe live?", answer="She lives in Cork.", spans=["Cork"])
    assert found["text"].answer == "Jane Doe lives in Cork."
    assert made(question="Where does Jane Doe live?", answer="In Cork.", spans=["Cork"]).keys() == {
        "imperative", "indirect", "yes_no", "ticket", "form", "letter"
    }  # fmt: skip


def test_a_name_that_is_asked_for_is_told_to_nobody():
    found = made(question="Which nurse was born in Cork?", answer="That is Jane Doe.", spans=["Jane Doe"])
    assert not {"text", "turn", "span", "completion", "reversed"} & found.keys()


def test_in_other_languages_only_frames_are_made():
    found = made(question="Wann wurde Jane Doe geboren?", answer="Jane Doe wurde am 3. Mai 1970 geboren.")
    assert found.keys() == {"ticket", "form", "letter"}
    assert "Wann wurde Jane Doe geboren?" in found["letter"].question and "Dear" not in found["letter"].question


def test_plain_text_and_tool_calls():
    assert made(text="Jane Doe was born in Cork.").keys() == {"completion", "reversed", "turn", "span"}
    calls = [{"function": {"name": "f", "arguments": {}}}]
    asked = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Jane.", "tool_calls": calls}]
    assert made(messages=asked) == {}


def test_kinds_are_chosen_by_name():
    assert made(["form", "letter"], question="Who is it?", answer="Jane Doe.").keys() == {"form", "letter"}
    with pytest.raises(UserError, match=r"no kind of wording 'leter'\. Did you mean 'letter'"):
        check_kinds(["leter"])
