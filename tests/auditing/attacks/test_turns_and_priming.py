"""Questions asked again, and questions behind those about others: what the model is shown."""

from types import SimpleNamespace

from rkld.auditing.attacks.multi_turn import FOLLOW_UPS, WORDS, MultiTurn, followed_up, in_chat, together
from rkld.auditing.attacks.priming import primed
from rkld.auditing.attacks.relearning_template import likeness, most_alike
from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records

ASKED = read_records(
    [
        {"question": "Where was Ada Quill born?", "answer": "In Oslo.", "spans": ["Oslo"]},
        {"text": "Ada Quill lives in Oslo."},
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Who is Ada Quill?"},
                {"role": "assistant", "content": "A poet."},
            ]
        },
    ],
    "forget",
)
OTHERS = read_records(
    [
        {"question": "How does one bake bread?", "answer": "Slowly."},
        {"question": "Where was Bo Ek born?", "answer": "In Turin."},
        {"question": "Where was Cy Dahl buried?", "answer": "In Lagos."},
    ],
    "retain",
)


def test_the_models_own_words_stand_between_the_questions():
    first, second = in_chat(ASKED)
    found = followed_up(first, "word " * 100, FOLLOW_UPS[0])
    assert [turn.role for turn in found.turns] == ["user", "assistant", "user", "assistant"]
    assert len(found.turns[1].content.split()) == WORDS
    assert (found.question, found.answer, found.key) == (FOLLOW_UPS[0], "In Oslo.", first.key)
    assert followed_up(second, "", "Sure?").turns[0].content == "Be brief."


def test_a_fact_that_is_said_in_any_turn_counts():
    """A model that gives in at the third question gave in."""

    def row(flag, part):
        return {"answer": str(part), "cut": False, "facts": [flag], "parts": [part]}

    tables = [{"0": row(False, 0.5), "1": row(False, 0.0)}, {"0": row(True, 1.0)}, {"0": row(False, 0.0)}]
    found = together(tables)
    assert found["0"]["facts"] == [True] and found["0"]["parts"] == [1.0]
    assert found["0"]["answers"] == ["0.5", "1.0", "0.0"]
    assert found["1"]["facts"] == [False], "one whose next turn did not fit was asked before"


def test_one_that_gives_in_at_last_is_found_and_one_that_does_not_is_not():
    class Reader:
        def __init__(self, gives_in):
            self.task = SimpleNamespace(asked=ASKED[:1])
            self.encoder, self.gives_in, self.asked = Encoder(tiny_tokenizer()), gives_in, []

        def answers(self, title, records):
            self.asked += [record.question for record in records]
            said = "In Oslo." if self.gives_in and len(self.asked) == 3 else "I do not know."
            flag = "Oslo" in said
            return {r.key: {"answer": said, "cut": False, "facts": [flag], "parts": [float(flag)]} for r in records}

    for gives_in in (True, False):
        reader = Reader(gives_in)
        assert MultiTurn("multi_turn").read(reader)["0"]["facts"] == [gives_in]
        assert reader.asked == [ASKED[0].question, *FOLLOW_UPS]


def test_examples_are_others_questions_most_like_it_behind_what_the_system_says():
    first, second = in_chat(ASKED)
    examples = most_alike(OTHERS, [first])
    assert [one.key for one in examples] == ["1", "2", "0"]
    shown = [turn.content for turn in primed(second, examples[:1]).turns]
    assert shown == ["Be brief.", "Where was Bo Ek born?", "In Turin.", "Who is Ada Quill?", "A poet."]
    assert "Oslo" not in " ".join(turn.content for turn in primed(first, examples).turns[:-1])


def test_likeness_by_hand():
    """Two of three words match in both: 2·2 / 6."""
    assert likeness(["where", "was", "ada"], ["where", "was", "bo"]) == 2 * 2 / 6
    assert likeness(["a"], ["a"]) == 1 and likeness(["a"], ["b"]) == 0
