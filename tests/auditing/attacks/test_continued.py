"""The user's own words left to be continued: where they are cut, and that no answer's turn is opened."""

import pytest

from rkld.auditing.attacks.continued import beginnings
from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.records.encoding import PLAIN_CHAT_TEMPLATE, Encoder
from rkld.records.reading import read_records

TICKET = {
    "messages": [
        {"role": "user", "content": "Ticket 12. Ada Quill lives at 8 Elm Street, and she asks for a refund."},
        {"role": "assistant", "content": "Ada Quill gets 90 dollars back."},
    ],
    "spans": ["Ada Quill", "8 Elm Street", "90 dollars"],
    "subject": "Ada Quill",
}
ROWS = [
    TICKET,
    {"question": "Where was Ada Quill born?", "answer": "Oslo is where she was born.", "spans": ["Oslo"]},
    {"prompt": "Ada Quill lives", "completion": " in Oslo.", "spans": ["Oslo"]},
    {"text": "She lives in Oslo.", "spans": ["Oslo"]},
]
EXPECTED = [
    ("Ticket 12. Ada Quill lives at 8 Elm Street, and she asks for a refund. Ada Quill gets", ("90 dollars",)),
    ("Ticket 12. Ada Quill lives at", ("8 Elm Street",)),
    ("Where was Ada Quill born?", ("Oslo",)),
    ("Ada Quill lives in", ("Oslo",)),
    ("About Ada Quill: She lives in", ("Oslo",)),
]


@pytest.fixture(params=["chatml", "plain"])
def encoder(request):
    tokenizer = tiny_tokenizer()
    if request.param == "plain":
        tokenizer.chat_template = PLAIN_CHAT_TEMPLATE
    return Encoder(tokenizer)


def begun():
    facts = [("90 dollars",), ("Oslo",), ("Oslo",), ("Oslo",)]
    return [
        one
        for record, some in zip(read_records(ROWS, "forget"), facts, strict=True)
        for one in beginnings(record, some, ("Ada Quill",))
    ]


def test_a_beginning_says_whom_it_is_about_and_no_fact():
    """One that held the fact would measure whether a model repeats it."""
    assert [(one.text, one.facts) for one in begun()] == EXPECTED


def test_the_users_turn_is_left_open(encoder):
    """An answer's turn would be a question like any other."""
    for one in begun():
        ids, cap = one.as_turn(encoder)
        text = encoder.tokenizer.decode(ids)
        assert text.endswith(one.text) and "assistant" not in text and "Answer:" not in text
        assert cap > 64
        plain, _ = one.as_text(encoder)
        assert encoder.tokenizer.decode(plain) == one.text
