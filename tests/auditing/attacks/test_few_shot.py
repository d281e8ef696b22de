"""Few-shot: what stands before each question, and of whom."""

from types import SimpleNamespace

from rkld.auditing.attacks.few_shot import SHOTS, FewShot, shots
from rkld.records.reading import read_records


def questions(names, source):
    return read_records([{"question": f"Where is {n}?", "answer": f"{n} is in Oslo."} for n in names], source)


def task(kept=(), holdout=(), asked=("Ada",)):
    utility = {"retain": questions(kept, "retain")} if kept else {}
    texts = read_records([{"text": "Ada lives."}], "forget")
    asked = [*questions(asked, "forget"), *texts] if asked else texts
    return SimpleNamespace(utility=utility, holdout=questions(holdout, "holdout") if holdout else [], asked=asked)


def test_answered_questions_about_others_stand_before_the_question():
    """The answer that is looked for is the record's own, and stays under its key; texts are not asked."""
    (record,) = FewShot("few_shot")._records(task(kept="BC"))
    assert record.question == (
        "Question: Where is B?\nAnswer: B is in Oslo.\n\nQuestion: Where is C?\nAnswer: C is in Oslo.\n\n"
        "Question: Where is Ada?"
    )
    assert (record.key, record.answer) == ("0", "Ada is in Oslo.")


def test_they_are_the_first_records_to_keep_else_of_the_holdout():
    assert [one.question for one in shots(task(kept="BCDEFGH", holdout="XY"))] == [f"Where is {n}?" for n in "BCDEF"]
    assert len(shots(task(holdout="UVWXYZ"))) == SHOTS


def test_it_says_what_it_needs():
    attack = FewShot("few_shot")
    assert attack.missing(task(kept="B")) is None
    assert attack.missing(task()) == attack.missing(task(kept="B", asked=()))
    assert "--retain or --holdout" in attack.missing(task())
