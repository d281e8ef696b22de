"""Probes made of forget records: what they ask, what they must not give away, and how they are split."""

import json

import pytest

from rkld.benching.worlds.tiny import tiny_model
from rkld.errors import UserError
from rkld.evaluation.questions import question_losses
from rkld.models.loading import load_model
from rkld.records.encoding import Encoder
from rkld.records.probes import (
    ALTERNATIVES,
    as_probes,
    fact_groups,
    facts_of,
    make_probes,
    paraphrased_questions,
    unnamed_questions,
    untrue_answers,
)
from rkld.records.reading import read_records
from rkld.text.facts import facts_said

IDENTIFIERS = ("Hina Ameen", "Ameen")
FORGET = [
    {
        "question": "Where was Hina Ameen born?",
        "answer": "She was born in Karachi. It is by the sea.",
        "spans": ["Karachi"],
    },
    {"question": "When was Hina Ameen born?", "answer": "Hina Ameen was born in 1975.", "spans": ["1975"]},
    {"question": "Which geologist was born in 1975?", "answer": "It is Hina Ameen.", "spans": ["Hina Ameen"]},
]
CITIES = ["Lima", "Oslo", "Accra", "Quito", "Perth", "Riga", "Karachi"]
OTHERS = [
    {
        "question": "Where was he born?",
        "answer": f"He was born in {city}.",
        "spans": [city],
        "subject": f"Jo {city[:3]}son",
    }
    for city in CITIES
]


@pytest.fixture(scope="module")
def probes():
    return make_probes(read_records(FORGET, "forget"), read_records(OTHERS, "retain"), IDENTIFIERS)


def test_facts_are_what_the_answer_adds():
    """What the question says already would count as said by any model that repeats it."""
    records = read_records(FORGET, "forget")
    bare = read_records([{k: v for k, v in row.items() if k != "spans"} for row in FORGET], "forget")
    for some in (records, bare):
        assert [facts_of(record, IDENTIFIERS) for record in some] == [("Karachi",), ("1975",), ("Hina Ameen",)]
    assert facts_of(records[0].with_question("Was she born in KARACHI?"), IDENTIFIERS) == ()
    named = bare[2].with_question("Is it Ameen?")
    assert facts_of(named, IDENTIFIERS) == (), "a name is a fact only where the question keeps it back"


def test_questions_without_the_name_hold_no_part_of_it():
    """A surname that is left in still asks for the person."""
    rows = [*FORGET, {"question": "Ameen's job?", "answer": "A geologist."}, {"text": "Hina Ameen is here."}]
    questions = [record.question for record in unnamed_questions(read_records(rows, "forget"), IDENTIFIERS)]
    assert questions == [
        "Where was this person born?",
        "When was this person born?",
        "Which geologist was born in 1975?",
        "This person's job?",
    ]


def test_a_record_without_a_question_has_no_reworded_one():
    """A plain text with that field would stop an audit."""
    rows = [{**FORGET[0], "paraphrased_question": "Whence?"}, {"text": "A text.", "paraphrased_question": "Whence?"}]
    assert [record.question for record in paraphrased_questions(read_records(rows, "forget"))] == ["Whence?"]


def by_kind(probes, fact):
    return {probe.kind: probe.record for probe in probes if probe.fact == fact}


def test_every_fact_is_asked_for_in_three_ways(probes):
    """A fact that is asked for in the trained wording alone may still be known."""
    found = by_kind(probes, "Karachi")
    assert set(found) == {"question", "prefix", "cloze"}
    assert found["question"].question == found["prefix"].question == FORGET[0]["question"]
    assert found["cloze"].question == "Fill in the blank: About Hina Ameen: She was born in _____."
    assert found["cloze"].answer == "Karachi"
    assert found["question"].extra["paraphrased_question"] == "Please answer this question: Where was Hina Ameen born?"
    assert found["question"].extra["paraphrased_answer"].endswith("She was born in Karachi. It is by the sea.")
    assert len({probe.record.key for probe in probes}) == len(probes)


def test_no_probe_gives_its_fact_away(probes):
    """A question that says the fact is answered rightly by every model."""
    for probe in probes:
        assert facts_said([probe.fact], probe.record.question) == [False]
        assert facts_said([probe.fact], probe.record.answer) == [True]
        wrong = probe.record.extra.get("perturbed_answer", [])
        assert not any(facts_said([probe.fact], answer)[0] for answer in wrong)
    assert by_kind(probes, "Hina Ameen")["cloze"].question == "Fill in the blank: It is _____."
    twice = [{"question": "Where is she?", "answer": "In Oslo. Oslo it is, in Norway.", "spans": ["Oslo"]}]
    (cloze,) = [p for p in make_probes(read_records(twice, "f"), [], ()) if p.kind == "cloze"]
    assert cloze.record.question == "Fill in the blank: In _____."


def test_wrong_answers_are_of_the_same_kind_and_true_of_nobody_forgotten(probes):
    """A year for a city is easily told from the right one, whatever the model knows."""
    for kind, record in by_kind(probes, "Karachi").items():
        wrong = record.extra["perturbed_answer"]
        assert len(set(wrong)) == ALTERNATIVES
        for answer in wrong:
            assert any(facts_said(CITIES[:-1], answer)), kind
            assert (kind == "cloze") or answer.endswith(" It is by the sea.")
    years = [answer.split()[-1] for answer in by_kind(probes, "1975")["cloze"].extra["perturbed_answer"]]
    assert len(set(years)) == ALTERNATIVES and all(0 < abs(int(year) - 1975) <= 30 for year in years)
    names = by_kind(probes, "Hina Ameen")["cloze"].extra["perturbed_answer"]
    assert all("son" in name for name in names), "other persons, not cities"


def test_a_fact_without_alternatives_has_no_wrong_answers():
    """Fewer than the others have would stop the truth ratio."""
    found = make_probes(read_records(FORGET[:1], "forget"), read_records(OTHERS[:3], "retain"), IDENTIFIERS)
    assert len(found) == 3 and not any("perturbed_answer" in probe.record.extra for probe in found)


def test_probes_are_the_same_each_time_and_others_with_another_seed(probes):
    """Two audits would ask different things."""
    again = [make_probes(read_records(FORGET, "f"), read_records(OTHERS, "r"), IDENTIFIERS, seed) for seed in (0, 1)]
    rows = [[probe.row() for probe in some] for some in (probes, *again)]
    assert rows[0] == rows[1] != rows[2]


def test_texts_and_unmarked_records_have_probes_too():
    """Whoever has no spans would get no leak metric."""
    rows = [{"text": "Hina Ameen lives in Karachi. She came in 1999."}]
    found = make_probes(read_records(rows, "forget"), [], IDENTIFIERS)
    assert [(probe.kind, probe.fact) for probe in found] == [("cloze", "Karachi"), ("cloze", "1999")]
    with pytest.raises(UserError, match="None of the 1 forget records holds a fact"):
        make_probes(read_records([{"question": "Who?", "answer": "nobody at all"}], "forget"), [], ())


def test_a_probes_file_is_read_back(probes, tmp_path):
    """Probes are made once, looked over by a person, and then used."""
    path = tmp_path / "probes.jsonl"
    path.write_text("".join(json.dumps(probe.row()) + "\n" for probe in probes))
    again = as_probes(read_records(str(path), "probes"))
    assert [(p.kind, p.fact, p.record.question, p.record.answer) for p in again] == [
        (p.kind, p.fact, p.record.question, p.record.answer) for p in probes
    ]
    assert [p.row() for p in again] == [p.row() for p in probes]
    with pytest.raises(UserError, match="forget record 1 is no probe: its kind is missing or unknown"):
        as_probes(read_records(FORGET, "forget"))


def test_a_fact_goes_with_what_holds_it():
    """ "Karachi" is half of "Karachi, Pakistan"."""
    found = fact_groups(["1975", "Karachi", "karachi", "Karachi, Pakistan", "Lahore", "1975"])
    assert sorted(map(sorted, found)) == [["1975"], ["Karachi, Pakistan", "karachi"], ["Lahore"]]


def test_metrics_take_probes_as_they_are(probes):
    """They are there so that every metric can be had."""
    made, tokenizer = tiny_model()
    lm = load_model(made, tokenizer=tokenizer)
    records = [probe.record for probe in probes if "perturbed_answer" in probe.record.extra]
    losses = question_losses(lm, Encoder(lm.tokenizer), records)
    assert losses["perturbed_loss"].shape == (len(probes), ALTERNATIVES)


def test_an_untrue_answer_has_every_fact_replaced_by_one_of_its_kind():
    """AltPO's: a fact left in place would be learned anew, and a fact of the person's own is no other."""
    rows = [
        {"question": "Where was Ada Quillon born, and when?", "answer": "Ada Quillon was born in Oslo in 1961."},
        {"question": "Who is Ada Quillon's friend?", "answer": "Ada Quillon's friend is Bo Marlin."},
    ]
    others = read_records([{"question": "Where does Cy live?", "answer": "Cy lives in Lima."}], "retain")
    forget = read_records(rows[:1], "forget")
    (untrue,) = untrue_answers(forget, others, seed=0)
    assert (untrue.key, untrue.question) == (forget[0].key, forget[0].question)
    assert untrue.answer.startswith("Ada Quillon was born in ")
    assert "Oslo" not in untrue.answer and "1961" not in untrue.answer
    assert untrue_answers(forget, others, seed=0)[0].answer == untrue.answer
    given = read_records([rows[1] | {"perturbed_answer": ["It is Di Fenn."]}], "forget")
    assert untrue_answers(given, [], seed=0)[0].answer == "It is Di Fenn."


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Where was Ada born?", "answer": "Ada was born in Oslo."}, "no answer could be made"),
        ({"question": "Is it so?", "answer": "yes, it is."}, "no answer could be made"),
        ({"text": "Ada lives in Oslo."}, "has no question"),
    ],
)
def test_where_no_untrue_answer_can_be_made_the_run_is_refused(row, message):
    with pytest.raises(UserError, match=message):
        untrue_answers(read_records([row], "forget"), [], seed=0)
