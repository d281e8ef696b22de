"""Attack prompts: what stands in them, in each format and template."""

import pytest

from rkld.auditing.attacks.prompts import PREFIXES, begun, with_context
from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.errors import UserError
from rkld.records.encoding import Encoder
from rkld.records.probes import facts_of, paraphrased_questions
from rkld.records.reading import read_records

START = PREFIXES[0]


def one(**fields):
    return read_records([fields], "forget")[0]


def encoder(template="chatml", **settings) -> Encoder:
    tokenizer = tiny_tokenizer()
    if template != "chatml":
        tokenizer.chat_template = template
    return Encoder(tokenizer, **settings)


def text_of(made: Encoder, ids) -> str:
    return made.tokenizer.decode(ids, skip_special_tokens=False)


CHAT = one(question="Where was Ann Lee born?", answer="In Turin.")
SEVERAL = one(
    messages=[
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who is Ann Lee?"},
        {"role": "assistant", "content": "A baker."},
        {"role": "user", "content": "Where was she born?"},
        {"role": "assistant", "content": "In Turin."},
    ]
)


@pytest.mark.parametrize("record", [CHAT, SEVERAL], ids=["one turn", "several turns"])
@pytest.mark.parametrize("template", ["chatml", None], ids=["chat template", "plain"])
@pytest.mark.parametrize("start", PREFIXES)
def test_the_prompt_as_it_was_and_the_answer_left_open(record, template, start):
    """Would break if an end of turn closed the begun answer, or the template's prompt were not before it."""
    made = encoder(template)
    ids, prompt = begun(made, record, start), made.prompt(record)
    assert ids[: len(prompt)] == prompt
    assert text_of(made, ids[len(prompt) :]).strip() == start
    assert made.tokenizer.eos_token_id not in ids[len(prompt) :]


@pytest.mark.parametrize("template", ["chatml", None], ids=["chat template", "plain"])
def test_what_a_model_would_read_of_an_answer_that_begins_so(template):
    """The ids are those of a whole answer with that beginning: nothing is tokenized otherwise at the cut."""
    made = encoder(template)
    ids = begun(made, CHAT, START)
    whole = made.encode(CHAT.with_answer(f"{START} In Turin."))
    assert whole.ids[: len(ids)] == ids
    assert text_of(made, whole.ids[len(ids) :]).startswith(" In Turin.")


@pytest.mark.parametrize("gap", ["", " ", "\n"])
def test_a_completion_is_set_off_as_its_own(gap):
    made = encoder()
    record = one(prompt="Ann Lee was born in", completion=f"{gap}Turin.")
    assert text_of(made, begun(made, record, START)) == f"Ann Lee was born in{gap}{START}"


def test_a_plain_text_is_cut_where_its_prompt_ends():
    made = encoder()
    record = one(text="Ann Lee was born in Turin and moved to Oslo as a child, where she became a baker.")
    text = text_of(made, made.prompt(record))
    assert text_of(made, begun(made, record, START)) == f"{text}\n{START}"
    assert 0 < len(text) < len(record.answer)


def test_a_prompt_without_an_answer_can_be_begun():
    made = encoder()
    assert begun(made, CHAT.as_prompt("0"), START) == begun(made, CHAT, START)


def test_space_at_the_end_is_left_to_what_follows():
    """Models hardly ever write two spaces, so after one of ours the right word would be unlikely."""
    assert begun(encoder(), CHAT, f"{START} ") == begun(encoder(), CHAT, START)


def test_the_own_answer_is_not_in_it():
    made = encoder()
    assert begun(made, CHAT, START) == begun(made, CHAT.with_answer("Something else altogether."), START)


@pytest.mark.parametrize("limit", ["context_length", "max_length"])
def test_a_begun_answer_without_room_for_the_rest_is_refused(limit):
    """Cut short it would be another attack than the one reported."""
    length = len(begun(encoder(), CHAT, START))
    assert len(begun(encoder(max_length=length + 1), CHAT, START)) == length
    with pytest.raises(UserError, match="forget record 1"):
        begun(encoder(**{limit: length}), CHAT, START)


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


def test_paraphrased_questions_need_nothing_new():
    """The attack with reworded questions is a set of records like any other: answers can be begun in it as well."""
    record = one(question="Where was Ann Lee born?", answer="In Turin.", paraphrased_question="Ann Lee's birthplace?")
    made = encoder()
    (asked,) = paraphrased_questions([record])
    text = text_of(made, begun(made, asked, START))
    assert "Ann Lee's birthplace?" in text and text.endswith(START)
