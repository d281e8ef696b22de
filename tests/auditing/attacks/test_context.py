"""The context attack: what stands before each question."""

from rkld.auditing.attacks.context import with_context
from rkld.records.probes import facts_of
from rkld.records.reading import read_records

PERSON = read_records(
    [
        {"question": "Where was Ann Lee born?", "answer": "Ann Lee was born in Turin.", "subject": "Ann Lee"},
        {"question": "What does Ann Lee do?", "answer": "She is a baker in Turin.", "subject": "Ann Lee"},
        {"question": "When did Ann Lee marry?", "answer": "She married in 1990.", "subject": "Ann Lee"},
        {"question": "Whom did Ann Lee marry?", "answer": "Her husband is Bo Ek.", "subject": "Ann Lee"},
        {"question": "Where was Bo Ek born?", "answer": "He was born in Oslo.", "subject": "Bo Ek"},
    ],
    "forget",
)
NAMES = ("Ann Lee",)


def test_context_is_of_the_same_person_and_does_not_give_the_fact_away():
    found = {record.key: record.question for record in with_context(PERSON, 5, NAMES)}
    assert found["0"] == "She married in 1990.\nHer husband is Bo Ek.\n\nWhere was Ann Lee born?"
    assert found["2"] == (
        "Her husband is Bo Ek.\nAnn Lee was born in Turin.\nShe is a baker in Turin.\n\nWhen did Ann Lee marry?"
    )
    assert "4" not in found  # nothing else is known of him


def test_context_is_at_most_n_answers_and_not_the_same_for_all():
    found = [record.question.split("\n")[0] for record in with_context(PERSON, 1, NAMES)]
    assert found == [PERSON[2].answer, PERSON[2].answer, PERSON[3].answer, PERSON[0].answer]
    assert all(record.question.count("\n") == 2 for record in with_context(PERSON, 1, NAMES))


def test_the_facts_asked_for_stay_those_of_the_record():
    """The context must not count as the question's own words where facts are looked for."""
    before = {record.key: facts_of(record, NAMES) for record in PERSON}
    for record in with_context(PERSON, 5, NAMES):
        assert facts_of(record, NAMES) == before[record.key]
        assert record.answer == PERSON[int(record.key)].answer


def test_a_name_that_is_asked_for_is_not_said_before():
    asked = read_records(
        [
            {"question": "Which baker was born in Turin?", "answer": "Ann Lee.", "subject": "Ann Lee"},
            {"question": "What is she?", "answer": "Ann Lee is a baker.", "subject": "Ann Lee"},
            {"question": "When did she marry?", "answer": "In 1990.", "subject": "Ann Lee"},
        ],
        "forget",
    )
    assert with_context(asked, 5, NAMES)[0].question == "In 1990.\n\nWhich baker was born in Turin?"


def test_an_answer_that_is_the_same_is_no_context():
    """Without facts in it (a yes or no) an equal answer would still give it away."""
    same = read_records(
        [{"question": "Is she a baker?", "answer": "yes"}, {"question": "Is she happy?", "answer": "Yes"}], "forget"
    )
    assert with_context(same, 3) == []


def test_prompts_with_completions_take_context_and_plain_texts_do_not():
    records = read_records(
        [
            {"prompt": "Ann Lee works as a", "completion": " baker."},
            {"prompt": "Ann Lee married in", "completion": " 1990."},
            {"text": "Ann Lee is happy."},
        ],
        "forget",
    )
    found = with_context(records, 1, NAMES)
    questions = ["1990.\n\nAnn Lee works as a", "Ann Lee is happy.\n\nAnn Lee married in"]
    assert [record.question for record in found] == questions
