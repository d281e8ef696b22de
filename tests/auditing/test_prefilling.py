"""Prefilled prompts: what stands in them, in each format and template."""

import pytest

from rkld.auditing.attacks.prefixes import PREFIXES
from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.errors import UserError
from rkld.evaluation.prefilling import prefilled
from rkld.records.encoding import Encoder
from rkld.records.probes import paraphrased_questions
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
    ids, prompt = prefilled(made, record, start), made.prompt(record)
    assert ids[: len(prompt)] == prompt
    assert text_of(made, ids[len(prompt) :]).strip() == start
    assert made.tokenizer.eos_token_id not in ids[len(prompt) :]


@pytest.mark.parametrize("template", ["chatml", None], ids=["chat template", "plain"])
def test_what_a_model_would_read_of_an_answer_that_begins_so(template):
    """The ids are those of a whole answer with that beginning: nothing is tokenized otherwise at the cut."""
    made = encoder(template)
    ids = prefilled(made, CHAT, START)
    whole = made.encode(CHAT.with_answer(f"{START} In Turin."))
    assert whole.ids[: len(ids)] == ids
    assert text_of(made, whole.ids[len(ids) :]).startswith(" In Turin.")


@pytest.mark.parametrize("gap", ["", " ", "\n"])
def test_a_completion_is_set_off_as_its_own(gap):
    made = encoder()
    record = one(prompt="Ann Lee was born in", completion=f"{gap}Turin.")
    assert text_of(made, prefilled(made, record, START)) == f"Ann Lee was born in{gap}{START}"


def test_a_plain_text_is_cut_where_its_prompt_ends():
    made = encoder()
    record = one(text="Ann Lee was born in Turin and moved to Oslo as a child, where she became a baker.")
    text = text_of(made, made.prompt(record))
    assert text_of(made, prefilled(made, record, START)) == f"{text}\n{START}"
    assert 0 < len(text) < len(record.answer)


def test_a_prompt_without_an_answer_can_be_prefilled():
    made = encoder()
    assert prefilled(made, CHAT.as_prompt("0"), START) == prefilled(made, CHAT, START)


def test_space_at_the_end_is_left_to_what_follows():
    """Models hardly ever write two spaces, so after one of ours the right word would be unlikely."""
    assert prefilled(encoder(), CHAT, f"{START} ") == prefilled(encoder(), CHAT, START)


def test_the_own_answer_is_not_in_it():
    made = encoder()
    assert prefilled(made, CHAT, START) == prefilled(made, CHAT.with_answer("Something else altogether."), START)


@pytest.mark.parametrize("limit", ["context_length", "max_length"])
def test_a_begun_answer_without_room_for_the_rest_is_refused(limit):
    """Cut short it would be another attack than the one reported."""
    length = len(prefilled(encoder(), CHAT, START))
    assert len(prefilled(encoder(max_length=length + 1), CHAT, START)) == length
    with pytest.raises(UserError, match="forget record 1"):
        prefilled(encoder(**{limit: length}), CHAT, START)


def test_paraphrased_questions_need_nothing_new():
    """The attack with reworded questions is a set of records like any other: answers can be begun in it as well."""
    record = one(question="Where was Ann Lee born?", answer="In Turin.", paraphrased_question="Ann Lee's birthplace?")
    made = encoder()
    (reworded,) = paraphrased_questions([record])
    text = text_of(made, prefilled(made, reworded, START))
    assert "Ann Lee's birthplace?" in text
    assert text.endswith(START)
