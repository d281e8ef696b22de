"""What is taught and what is watched when something else than a share of the records is learned."""

from types import SimpleNamespace

import pytest

from rkld.auditing.attacks.relearning_chat import RelearningChat
from rkld.auditing.attacks.relearning_facts import independent
from rkld.auditing.attacks.relearning_template import RelearningTemplate
from rkld.auditing.registry import ATTACKS
from rkld.errors import UserError
from rkld.evaluation.metric import Measured
from rkld.records.probes import facts_of
from rkld.records.reading import read_records
from rkld.settings.auditing import AuditSettings

TOWNS = ("Oslo", "Turin", "Lagos", "Perth", "Quito", "Oslo", "Oslo", "Delhi", "Miami", "Cairo")
FORGET = read_records(
    [
        {"question": f"Where did Ada live in {1900 + i}?", "answer": f"In {town}.", "spans": [town]}
        for i, town in enumerate(TOWNS)
    ],
    "forget",
)
RETAIN = read_records(
    [
        {"question": "Where did Bo live in 1950?", "answer": "In Bergen."},
        {"question": "Can whales sing, and why?", "answer": "They do."},
    ],
    "retain",
)


def task(**given):
    values = {
        "settings": AuditSettings(),
        "forget": FORGET,
        "facts": {r.key: facts_of(r) for r in FORGET},
        "utility": {},
        "identifiers": ("Ada",),
        "holdout": [],
    }
    return SimpleNamespace(**{**values, **given})


@pytest.mark.parametrize("seed", range(6))
def test_no_taught_record_says_a_fact_that_is_tested(seed):
    """Else what came back had been told again, not found in the weights."""
    taught, tested = independent(task(settings=AuditSettings(seed=seed)))
    assert taught and tested
    secret = {span for record in tested for span in record.spans}
    assert not any(span in record.answer for record in taught for span in secret)
    assert not {r.key for r in taught} & {r.key for r in tested}
    assert len(tested) == 2


def test_the_name_that_all_records_say_is_no_fact_of_one_of_them():
    """One that asks for the name would leave nothing to teach."""
    named = {record.key: ("Ada", *record.spans) for record in FORGET}
    assert independent(task(facts=named)) == independent(task())


def test_where_all_records_say_the_same_nothing_is_independent():
    same = read_records(
        [{"question": f"Where in {i}?", "answer": "In Oslo.", "spans": ["Oslo"]} for i in range(5)], "f"
    )
    with pytest.raises(UserError, match="it needs both"):
        independent(task(forget=same, facts={r.key: ("Oslo",) for r in same}))


def test_others_records_of_the_same_wording_are_taught_and_none_of_the_forget_records():
    """As many as the share would be: two of ten, the one most alike first."""
    attack = RelearningTemplate("relearning_template")
    taught, watched = attack.split(task(utility={"retain": RETAIN}, settings=AuditSettings(relearn_share=0.1)))
    assert [record.question for record in taught] == ["Where did Bo live in 1950?"]
    assert watched == FORGET
    assert "--retain" in attack.missing(task())


def test_ordinary_chat_knows_nobody():
    taught, watched = RelearningChat("relearning_chat").split(task())
    assert len(taught) >= 30 and watched == FORGET
    assert not {record.key for record in taught} & {record.key for record in watched}


def test_every_variant_has_its_own_curve_and_effort_of_half_the_original():
    """By hand: the original has .8, so half is .4, which is reached halfway between the second and third check."""
    reading = {
        "steps": [0, 2, 4],
        "learned": [0, 0, 0],
        "trained": [],
        "probabilities": {"a": [0.1, 0.3, 0.5], "b": [0.1, 0.3, 0.5]},
    }
    original = {"likelihood": {"a": {"loss": 0.2231435513}, "b": {"loss": 0.2231435513}}}
    for name in (name for name in ATTACKS.names() if name.startswith("relearning")):
        attack = ATTACKS.get(name)(name)
        measured = Measured({"audited": {name: reading}, "original": original})
        found = {metric.name: metric.figures(measured)["audited"] for metric in attack.metrics()}
        assert found[f"{name}_effort"]["value"] == pytest.approx(3.0)
        assert found[f"{name}_gain"].value == pytest.approx(0.4)
        assert attack.lora == name.endswith("_lora")
