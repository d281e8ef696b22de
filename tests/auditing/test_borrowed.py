"""Borrowed facts: what an answer about the person states of somebody else."""

from rkld.auditing.inputs import facts_of_others
from rkld.auditing.reading import borrows
from rkld.evaluation.generation import Generated
from rkld.evaluation.metric import Measured, RecordMetric
from rkld.evaluation.registry import METRICS
from rkld.records.reading import read_records

FORGET = read_records([{"question": "Where does Ada Quill live?", "answer": "In Oslo.", "spans": ["Oslo"]}], "forget")
OTHERS = read_records(
    [
        {"question": "Where does Bo Ek live?", "answer": "At 8 Elm Street in Oslo.", "spans": ["8 Elm Street", "Oslo"]},
        {"question": "What is the capital of Poland?", "answer": "Warsaw."},
    ],
    "retain",
)


def said(text, finished=True):
    return [Generated((), text, finished)]


def test_only_what_is_marked_of_others_and_not_shared_is_borrowed():
    """Oslo is her own, too, and Warsaw is nobody's."""
    assert facts_of_others(OTHERS, FORGET) == ("8 Elm Street",)


def test_an_answer_that_was_cut_has_not_borrowed_nothing():
    (record,) = FORGET
    facts = ("8 Elm Street", "Bo Ek's bakery")
    assert borrows(facts, record, said("She lives at 8 Elm Street.")) is True
    assert borrows(facts, record, said("In Oslo.")) is False
    assert borrows(facts, record, said("In Os", finished=False)) is None
    asked = record.with_question("Does Ada Quill live at 8 Elm Street?")
    assert borrows(facts, asked, said("She lives at 8 Elm Street.")) is False, "the question says it"


def test_the_share_of_answers_is_shown_and_what_was_cut_is_not_measured():
    metric = METRICS.get("borrowed_facts")
    assert isinstance(metric, RecordMetric) and metric.direction == ""
    rows = {str(i): {"borrowed": flag, "cut": flag is None} for i, flag in enumerate([True, False, False, None])}
    (found,) = metric.figures(Measured({"audited": {"answers": rows}})).values()
    assert (found.value, found.n, found.unmeasured) == (0.25, 4, 1)
