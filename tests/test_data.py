"""The shipped data: the demo's records and probes, the replay prompts, the names for swapping."""

import json
import re
from importlib.resources import files

DATA = files("rkld") / "data"


def read_lines(name: str) -> list[dict]:
    text = (DATA / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


FORGET = read_lines("demo/charles_darwin.jsonl")
PROBES = read_lines("demo/probes.jsonl")
REPLAY = read_lines("replay_prompts.jsonl")
NAMES = json.loads((DATA / "swap_names.json").read_text(encoding="utf-8"))["names"]


def holds(text: str, part: str) -> bool:
    """Whether `part` occurs in `text` at word boundaries, whatever the case."""
    return re.search(rf"(?<!\w){re.escape(part.casefold())}(?!\w)", text.casefold()) is not None


def identifiers() -> set[str]:
    return {name for record in FORGET for name in (record["subject"], *record["aliases"])}


def entities(question: str) -> set[str]:
    """Capitalised words of a question after its first: the names of what it asks about."""
    return set(re.findall(r"\b[A-Z]\w+", question.split(maxsplit=1)[1]))


def test_sizes():
    """The demo's gates are shares: too few records would make them coarse."""
    assert 16 <= len(FORGET) <= 20
    assert len(PROBES) >= 40
    assert len(REPLAY) >= 60
    assert len(NAMES) >= 48


def test_fields_are_what_the_reader_expects():
    """A misspelt or empty field would be dropped silently or stop the demo."""
    for record in FORGET + PROBES:
        assert set(record) == {"question", "answer", "subject", "aliases", "spans"}
        assert record["question"].strip() and record["answer"].strip() and record["subject"].strip()
        assert record["spans"] and all(span.strip() == span != "" for span in record["spans"])
    for record in REPLAY:
        assert set(record) == {"question"} and record["question"].strip()


def test_spans_occur_in_answers():
    """A span the answer lacks could neither be scored nor found in it."""
    for record in FORGET + PROBES:
        for span in record["spans"]:
            assert span in record["answer"] and holds(record["answer"], span), record["question"]


def test_no_question_tells_its_own_fact():
    """A fact named in its question is repeated by any fluent model, forgotten or not."""
    for record in FORGET + PROBES:
        assert not any(holds(record["question"], span) for span in record["spans"]), record["question"]


def test_forget_questions_name_the_subject_and_spans_do_not():
    """The subject's name must survive in the answers, so no part of it may be scored."""
    for record in FORGET:
        assert record["subject"] in record["question"]
        assert not any(holds(span, word) for span in record["spans"] for word in record["subject"].split())


def test_questions_are_unique_across_files():
    """A probe or a replay prompt asked twice, or a probe that is trained on, would spoil the measure."""
    questions = [record["question"].casefold() for record in FORGET + PROBES + REPLAY]
    assert len(set(questions)) == len(questions)


def test_probes_and_replay_leave_the_subject_alone():
    """Replay that mentions the subject rehearses it; probes that share its facts must fall with it."""
    facts = {span for record in FORGET for span in record["spans"]}
    for record in PROBES + REPLAY:
        text = f"{record['question']} {record.get('answer', '')}"
        assert not any(holds(text, part) for part in identifiers() | facts), record["question"]


def test_probes_are_untrained():
    """No replay prompt asks about what a probe asks about."""
    names = {word for record in PROBES for word in entities(record["question"])}
    subjects = {record["subject"] for record in PROBES}
    for record in REPLAY:
        assert names.isdisjoint(re.findall(r"\w+", record["question"])), record["question"]
        assert not any(holds(record["question"], subject) for subject in subjects), record["question"]


def test_swap_names_are_nobody_in_the_data():
    """A swapped name that is asked about elsewhere would train on it."""
    assert len(set(NAMES)) == len(NAMES)
    questions = [record["question"] for record in FORGET + PROBES + REPLAY]
    for name in NAMES:
        assert len(name.split()) >= 2
        assert not any(holds(question, word) for question in questions for word in name.split()), name
