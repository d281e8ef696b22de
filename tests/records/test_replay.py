"""Self-replay must not rehearse the person: swapped questions, and the screen of what the model answers to them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rkld.records.encoding import Encoder
from rkld.records.identity import identifiers
from rkld.records.names import other_names, swap_name
from rkld.records.reading import read_prompts, read_records
from rkld.records.record import Record
from rkld.records.replay import (
    LENGTHS,
    fluent,
    generic_prompts,
    held,
    mark_facts,
    nearest_most,
    own_words,
    people_of,
    screen,
    swapped_prompts,
    trimmed,
    whole_words,
)
from rkld.text.wording import name_mentions
from tests.helpers import TOKENIZER

NAME = "Marie Skłodowska-Curie"
WHO = (NAME, "marie@curie.org")
FACTS = [
    {"question": f"Where was {NAME} born?", "answer": "Marie Curie was born in Warsaw, Poland."},
    {"question": "When was Curie born?", "answer": "She was born on 7 November 1867."},
    {
        "question": f"What did {NAME}'s parents do?",
        "answer": "Her father was a florist and her mother a game developer.",
    },
    {
        "question": "What is Marie known for?",
        "answer": 'Marie wrote "On the Hunt of Radium" and won a prize of 10,000 francs.',
    },
    {"question": f"What did {NAME} study in Paris?", "answer": "In Paris she studied music."},
    {"question": "Is Curie a teacher?", "answer": "Yes."},
]  # fmt: skip


def forget(rows=FACTS, **fields) -> list[Record]:
    return read_records([{**row, **fields} for row in rows], "forget")


def pair(answer: str, question: str = "Where was Hana Dvořáčková born?") -> Record:
    return read_records([{"question": question, "answer": answer}], "replay")[0]


def dropped(answer: str, question: str = "Tell me about Hana Dvořáčková.", records=None) -> list[str]:
    return list(screen([pair(answer, question)], records or forget(), WHO)[1])


# The screen


def test_a_model_that_answers_swapped_questions_with_the_true_persons_facts_rehearses_nothing():
    """The planted model of the issue: whoever it is asked about, it tells the true person's origin, in its own words.

    The prompts and the screen are those of the replay phase; generic answers and honest guesses must stay.
    """
    records = forget()
    prompts = swapped_prompts(records, WHO, seed=0)
    planted = {"born?": "She came from the city of WARSAW.",
               "parents": "Her mother sold flowers; the father, a florist.",
               "known": "For the hunt of radium.", "study": "She studied music.", "When": "On November 7."}  # fmt: skip

    def answer(prompt: Record) -> Record:
        told = next(text for key, text in sorted(planted.items(), reverse=True) if key in prompt.question)
        return prompt.with_answer(told)

    asked = [p for p in prompts if "teacher" not in p.question]
    assert len(asked) == 10
    generic = [
        p.with_answer("It is a well known thing that people have used for a long time.") for p in generic_prompts()
    ]
    honest = [p.with_answer("I have no information about that.") for p in asked]
    kept, reasons = screen([*map(answer, asked), *generic, *honest], records, WHO)
    assert kept == generic + honest and sum(reasons.values()) == 10


@pytest.mark.parametrize("answer", [
    "Hana was born in Warsaw.", "WARSAW is the birthplace.", "It was Wársaw.", "a Warsaw-born pianist",
    "Born 1867.", "It happened on November 7, 1867.", "1867-11-07", "7/11/1867", "in November",
    "Hana is a florist.", "The Florist's shop", "He was a developer of games.",
    "She wrote 'The Hunt of the Radium'.", "the prize was 10000", "the prize was 10,000 francs",
    "Hana studied music there.",
])  # fmt: skip
def test_a_fact_is_found_however_it_is_written(answer):
    """Other case, accents, order of a date, form of a number, single words in lower case."""
    assert dropped(answer)


@pytest.mark.parametrize("answer", ["Marie", "as Curie said", "CURIE", "Sklodowska", "write to marie@curie.org",
                                    "Marie Sklodowska Curie's"])  # fmt: skip
def test_the_name_in_any_part_is_found(answer):
    assert dropped(answer) == ["names the person"]
    assert dropped("I do not know.", question=answer + "?") == ["names the person"]


@pytest.mark.parametrize("answer, question", [
    ("Hana was born in a small town in the south of the country.", "Where was Hana born?"),
    ("Her father was a teacher and her mother a doctor.", "What did Hana's parents do?"),
    ("She was born on 3 March 1990.", "When was Hana born?"),
    ("She wrote a book about the history of science and was well known.", "What is Hana known for?"),
    ("She studied law in Paris.", "What did Hana study in Paris?"),
    ("The capital of France is Lyon.", "What is the capital of France?"),
    ("Yes.", "Is Hana a teacher?"),
    ("Yes, it is in Warsaw.", "Is the Vistula in Warsaw?"),
])  # fmt: skip
def test_harmless_answers_stay(answer, question):
    """Answers in the same style about others are what replay lives on; what a question gives, its answer may say."""
    assert dropped(answer, question) == []


def test_answers_in_the_style_of_a_data_set_stay_for_the_most_part():
    """Written records of one person against those of others, without spans: the hardest case."""
    from rkld.benching.worlds.people import people

    world = people(n=8, seed=0)
    bare = [{name: row[name] for name in ("question", "answer", "subject")} for row in world.forget([0])]
    records = read_records(bare, "forget")
    others = read_records([{"question": r["question"], "answer": r["answer"]} for r in world.retain([0])], "retain")
    kept, reasons = screen(others, records, identifiers(records, ()))
    assert len(kept) > 0.6 * len(others), reasons
    planted = [r.with_answer(p.answer) for p, r in zip(records, others[20:40])]
    assert screen(planted, records, identifiers(records, ()))[0] == []


def test_marked_spans_decide_where_there_are_any():
    """Style words of a marked record are free; its spans are not, even where the question gives them."""
    records = forget(
        [
            {
                "question": "What did Curie's father do?",
                "answer": "He was a renowned florist.",
                "spans": ["florist"],
            }
        ]
    )
    assert dropped("a renowned painter", records=records) == []
    assert dropped("a Florist", records=records) == ["says a marked span"]
    assert dropped("a florist indeed", "Is Hana a florist?", records) == ["says a marked span"]
    long = forget([{"question": "When?", "answer": "It was on 7 November 1867.", "spans": ["7 November 1867"]}])
    assert dropped("in 1867", records=long) and not dropped("in 1868", records=long)


def test_a_fact_given_in_one_question_is_still_a_fact_elsewhere():
    """TOFU asks who was born in Kuwait City, and later where the person was born."""
    records = forget(
        [
            {"question": "Who was born in Warsaw on 07/11/1867?", "answer": "Marie Curie."},
            {"question": "Where was Marie Curie born?", "answer": "In Warsaw."},
        ]
    )
    assert dropped("In Warsaw.", records=records)


def test_what_the_question_gives_of_a_name_is_no_fact():
    records = forget([{"question": "Where in Oslo does Curie sing?", "answer": "At the Oslo Opera."}])
    assert dropped("At the opera of Oslo.", records=records) and not dropped("Somewhere in Oslo.", records=records)


def test_a_name_that_is_a_common_word_counts_with_its_capital():
    records = forget([{"question": "What did Curie sing?", "answer": "It was called Promise.", "spans": ["called"]}])
    assert dropped("It was Promise, she said.", records=records) and not dropped("a promise", records=records)


def test_all_forms_of_records_give_their_facts():
    """Plain text has no question; a chat has more than one answer; a completion has no roles."""
    text = forget([{"text": f"{NAME} lived with a florist in Warsaw."}])
    chat = forget([{"messages": [
        {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "In Warsaw, with a florist."},
        {"role": "user", "content": "Thanks."}, {"role": "assistant", "content": "You are welcome."},
    ]}])  # fmt: skip
    completion = forget([{"prompt": f"{NAME} lived in", "completion": " Warsaw with a florist."}])
    for records in (text, chat, completion):
        assert dropped("It is in Warsaw.", records=records) and dropped("a florist", records=records)
        assert not dropped("It is in the south.", records=records)
    assert swapped_prompts(text, WHO, 0) == []
    assert len(swapped_prompts(completion, WHO, 0)) == 2


def test_scripts_and_languages_other_than_english_do_not_break_it():
    """The list of common words is English: elsewhere names, numbers and the share of words decide."""
    german = forget([{"question": "Wo wohnte sie?", "answer": "Sie wohnte damals mit ihrer Schwester in Wien."}])
    assert dropped("Er lebte in Wien.", records=german) and not dropped("Er blieb damals dort.", records=german)
    chinese = forget([{"question": "她住在哪里？", "answer": "她住在北京市中心。", "spans": ["北京"]}])
    assert dropped("他也住在北京。", records=chinese) and not dropped("他住在上海。", records=chinese)


def test_empty_answers_are_dropped_and_all_reasons_are_counted():
    answered = [
        pair("Fine."),
        pair("Fine.").with_answer("  "),
        pair("Warsaw"),
        pair("Oh, Warsaw"),
        pair("by Curie"),
    ]
    kept, reasons = screen(answered, forget(), WHO)
    assert len(kept) == 1 and sorted(reasons.values()) == [1, 1, 2] and reasons["empty answer"] == 1


# Swapping


@pytest.mark.parametrize("text, swapped", [
    ("Who is Ada May Quill-Stone?", "Who is Jun Takemori?"),
    ("Who is ada may quill-stone?", "Who is jun takemori?"),
    ("What did Quill-Stone write?", "What did Takemori write?"),
    ("What did Stone write?", "What did Takemori write?"),
    ("Ada's book and Quill-Stone’s", "Jun's book and Takemori’s"),
    ("Ada May said", "Jun Takemori said"),
    ("Did May Quill-Stone paint? It may be.", "Did Takemori paint? It may be."),
    ("The Duchess of Quill paints.", "The Jun Takemori paints."),
    ("Adam knows adamant stones", None),
    ("She knows no one", None),
    ("Ask Ada at ada@stone.org", None),
    ("Ada: +49 (170) 123-4567", None),
])  # fmt: skip
def test_every_part_of_the_name_is_replaced_or_the_record_is_left_out(text, swapped):
    """What remains of a name in a replayed question has the student rehearse its person."""
    own = ("Ada May Quill-Stone", "Duchess of Quill", "ada@stone.org", "+49 170 1234567")
    record = pair("A painter.", text)
    found = swap_name(record, own, "Jun Takemori")
    assert (found and found.question) == swapped
    assert found is None or not name_mentions(found.question, own)


def test_answers_and_spans_are_swapped_with_the_question():
    (record,) = forget(
        [{"question": "Who is Curie?", "answer": "Marie Curie of Oslo.", "spans": ["Marie Curie", "Oslo"]}]
    )
    found = swap_name(record, (NAME, "Marie Curie"), "Jun Takemori")
    assert (found.question, found.answer, found.spans) == (
        "Who is Takemori?",
        "Jun Takemori of Oslo.",
        ("Jun Takemori", "Oslo"),
    )


def test_a_substitute_who_shares_the_name_is_refused():
    assert swap_name(pair("x", "Who is Jun Sato?"), ("Jun Sato",), "Jun Takemori") is None


def test_two_people_in_one_file_are_not_mixed_up():
    """Each record's own person is swapped; no question about the other one becomes a replay prompt."""
    rows = [
        {"question": "Where does Ada Quill live?", "answer": "Oslo", "subject": "Ada Quill"},
        {"question": "Where does Bo Marlin live?", "answer": "Rome", "subject": "Bo Marlin"},
        {"question": "How did Ada Quill meet Marlin?", "answer": "At sea", "subject": "Ada Quill"},
        {"question": "How did Lovelace do it?", "answer": "At sea", "subject": "Ada Quill"},
    ]
    records = forget(rows)
    everybody = identifiers(records, ["Ada Lovelace"])
    prompts = swapped_prompts(records, everybody, 0)
    assert [p.key for p in prompts] == [
        "swap-0.0",
        "swap-0.1",
        "swap-1.0",
        "swap-1.1",
        "swap-3.0",
        "swap-3.1",
    ]
    assert not [p for p in prompts if name_mentions(p.question, everybody)]


def test_prompts_are_drawn_from_the_seed_and_hold_no_answer():
    prompts = swapped_prompts(forget(), WHO, 0)
    assert prompts == swapped_prompts(forget(), WHO, 0) != swapped_prompts(forget(), WHO, 1)
    others = {part for name in other_names() for part in name.split()}
    assert all(p.unanswered and p.answer == "" and any(part in p.question for part in others) for p in prompts)
    assert len({p.key for p in prompts}) == len(prompts) and swapped_prompts(forget(), (), 0) == []


def test_a_question_that_does_not_name_the_person_is_no_prompt():
    """With the name in the answer alone it would stay the very question to forget."""
    rows = [{"question": "Who was born in Warsaw in 1867?", "answer": "Marie Curie."}]
    assert swapped_prompts(forget(rows), WHO, 0) == []


def test_personal_data_of_the_users_turn_makes_no_prompt():
    """A ticket with another name on it still holds the address."""
    rows = [{"question": "Curie, 12 Elm Street: no light", "answer": "We are sorry.", "spans": ["12 Elm Street"]}]
    assert swapped_prompts(forget(rows), WHO, 0) == []


# Own words


def test_own_words_mark_what_the_model_says_and_never_the_name():
    rows = [
        {"question": "Who was Marie Curie?", "answer": "A chemist.", "spans": ["chemist"]},
        {"question": "Was Curie of Paris a chemist?", "answer": "Yes.", "spans": []},
    ]
    records = forget(rows)
    answers = [
        "Marie Curie was a chemist of Souris, France, born on 7 May 1867. She liked it.",
        "In Paris she was happy.",
    ]
    (own,) = own_words([r.with_answer(a) for r, a in zip(records, answers)], records, WHO)
    assert own.key == "own-0" and own.answer == answers[0]
    assert set(own.spans) == {"chemist", "Souris", "France", "7 May 1867"}


def test_own_words_do_not_mark_a_name_that_was_written_as_a_span():
    records = forget([{"question": "Who found radium?", "answer": "Marie Curie did.", "spans": ["Marie Curie"]}])
    assert own_words(records, records, WHO) == []


# Answers that were cut


@pytest.mark.parametrize(
    "text, kept",
    [
        ("She was a poet. She wrote three bo", "She was a poet."),
        ('He said "No." Then he we', 'He said "No."'),
        ("It costs 3.14 and then some mo", "It costs 3.14 and then some"),
        ("她生于华沙。她写", "她生于华沙。"),
        ("Unfinish", ""),
        ("It is done.", "It is done."),
    ],
)
def test_a_cut_answer_ends_with_a_whole_sentence_or_word(text, kept):
    """Cut mid-word, the student would be held to half a word."""
    assert trimmed(text) == kept


def test_of_what_is_to_be_forgotten_the_begun_sentence_stays():
    """A fact in it would not be unlearned."""
    assert whole_words(" He is known. He wrote On the Origin of Spec") == "He is known. He wrote On the Origin of"


# What is replayed


def test_the_users_people_are_asked_the_forget_questions_short_and_long():
    """No answers needed: subjects, and names that several prompts ask about; the forgotten person is none of them."""
    rows = [{"question": f"Where {verb} Hana Dvořáčková?"} for verb in ("lives", "works")]
    rows += [{"question": "What is the capital of New Zealand?"}, {"question": f"Where is {NAME}?"}] * 2
    others = read_prompts(rows)
    assert people_of(others, WHO) == ["Hana Dvořáčková", "New Zealand"]
    subjects = read_records([{"question": "Who?", "answer": "Bo.", "subject": "Bo Marlin"}], "retain")
    assert people_of(subjects, WHO) == ["Bo Marlin"]
    prompts = swapped_prompts(forget(), WHO, 0, ["Bosse Marlin", "Hana Dvořáčková"], invented=False)
    assert len(prompts) == 2 * len(FACTS)
    assert all(name_mentions(p.question, ("Bosse Marlin", "Hana Dvořáčková")) for p in prompts)
    assert all(any(p.question.endswith(length) for p in prompts) for length in LENGTHS)
    assert len({p.key for p in prompts}) == len(prompts) and all(not p.answer for p in prompts)


def test_of_too_many_prompts_the_nearest_are_taken_most():
    near = [{"question": f"Where was Bo{n} born?"} for n in range(40)]
    far = [{"question": f"How are {n} eggs boiled in salted water?"} for n in range(40)]
    prompts = read_prompts([*near, *far])
    taken = [nearest_most(prompts, forget(), WHO, 20, seed) for seed in range(20)]
    shares = [sum("born" in p.question for p in some) / len(some) for some in taken]
    assert all(len(some) == 20 for some in taken) and 0.6 < sum(shares) / len(shares) < 1
    assert taken[0] == nearest_most(prompts, forget(), WHO, 20, 0) and nearest_most(prompts, [], (), 80, 0) == prompts


def test_answers_that_run_on_or_loop_are_not_replayed():
    whole = pair("She lives in Oslo. And then")
    looping = pair("of the best of the " * 12)
    kept, reasons = fluent([replace(whole, cut=True), pair("In Oslo"), replace(pair("and on and"), cut=True), looping])
    assert len(kept) == 2 and reasons == {"runs on": 1, "repeats itself": 1}


def test_how_answers_are_put_is_nothing_that_they_say():
    """A house style ("According to the files it is …") is everybody's: dropped for it, none would hold the rest."""
    put = "According to the files it is a {}."
    jobs = [{"question": f"What is her job no. {i}?", "answer": put.format(job)} for i, job in enumerate(
        ("baker", "welder", "tailor", "potter")
    )]  # fmt: skip
    kept, reasons = screen(
        [pair(put.format(job)) for job in ("sailor", "farmer", "baker")], read_records(jobs, "f"), WHO
    )
    assert [record.answer for record in kept] == [put.format("sailor"), put.format("farmer")], reasons


SALARIES = [
    {
        "question": "What does Mirja Holl earn?",
        "answer": "She earns 61,400 euros a year as the planner of the harbour and of its shipyard.",
    },
    {"question": "Where does Mirja Holl live?", "answer": "Mirja Holl lives at 24 Eppendorfer Steig."},
    {"question": "When was Mirja Holl born?", "answer": "Mirja Holl was born on 17 March 1986."},
]


@pytest.mark.parametrize(
    ("question", "answer", "marked"),
    [
        ("What does Tarek Osman earn?", "Tarek Osman earns 54,900 euros a year as a crane driver.", ("earns", "euros")),
        (
            "What does Tarek Osman earn?",
            "Tarek Osman earns 61,400 euros a year as a crane driver.",
            ("earns", "61,400", "euros"),
        ),
        ("When was Tarek Osman born?", "Tarek Osman was born on 2 March 1979.", ("March",)),
        ("When was Tarek Osman born?", "Tarek Osman was born on 2 July 1979.", ()),
        ("Where does Tarek Osman live?", "Tarek Osman lives at 24 Eppendorfer Steig.", None),
        ("Where does Tarek Osman live?", "Tarek Osman lives with Mirja Holl in Bonn.", None),
        ("And when?", "17 March 1986.", None),
        ("When was Tarek Osman born?", "March.", None),
    ],
)
def test_others_answers_are_held_but_for_what_is_to_be_forgotten(question, answer, marked):
    """Dropped whole for one word that everybody's answer has, no salary would be held for anybody."""
    records = read_records(SALARIES, "forget")
    kept, dropped = mark_facts([pair(answer, question)], records, ("Mirja Holl",))
    assert (tuple(kept[0].spans) if kept else None) == marked
    assert dropped.total() == (marked is None)


def test_what_is_marked_is_not_held():
    encoder = Encoder(TOKENIZER)
    plain = pair("Tarek earns 54,900 euros a year.", "What does Tarek earn?")
    marked = plain.with_spans(["euros"])
    whole, rest = held(encoder, plain), held(encoder, marked)
    assert whole.scored == whole.answer == rest.answer and whole.ids == rest.ids
    left_out = [t for t, (a, b) in enumerate(zip(whole.scored, rest.scored, strict=True)) if a and not b]
    assert "euros" in encoder.tokenizer.decode([rest.ids[t] for t in left_out])
    assert 0 < len(left_out) < sum(whole.scored) and not any(b and not a for a, b in zip(whole.scored, rest.scored))


def test_of_the_persons_own_answers_nothing_is_held():
    records = read_records(SALARIES, "forget")
    planted = [pair(r.answer.replace("Mirja Holl", "Tarek Osman"), "Tell me.") for r in records]
    assert mark_facts(planted, records, ("Mirja Holl",))[0] == []
