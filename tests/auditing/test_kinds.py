"""The worst of several kinds of wording: its figure, its interval, and what was cut."""

from rkld.auditing.attacks.disguises import DISGUISES
from rkld.auditing.kinds import kinds_of, together, worst_kinds
from rkld.auditing.metrics import audit_metrics, known_readings
from rkld.evaluation.metric import Measured
from rkld.evaluation.statistics import share
from rkld.settings.auditing import AuditSettings

SETTINGS = AuditSettings(model="m", forget="f")


def rows(flags, cut=()):
    return {
        str(i): {"facts": [None if i in cut else flag], "parts": [float(flag)], "cut": i in cut}
        for i, flag in enumerate(flags)
    }


def measured(**frames):
    """Readings of two models: the control says none of ten facts in any kind."""
    none = rows([False] * 10)
    of = {"answers": none, "frames": {kind: rows(*given) for kind, given in frames.items()}}
    return Measured({"audited": of, "control": {"answers": none, "frames": dict.fromkeys(frames, none)}})


def worst(measured):
    metrics, readings = list(audit_metrics(SETTINGS).values()), known_readings(SETTINGS)
    metric, _ = worst_kinds(metrics, readings)
    return metric.figures(measured), metric.differences(measured)


def test_every_kind_that_is_asked_is_judged_and_no_other_attack():
    """A kind that is left out would be the one in which the facts are still said."""
    found = kinds_of(audit_metrics(SETTINGS).values(), known_readings(SETTINGS), "facts_said")
    expected = ["", "unnamed", "paraphrased", "prefixed", "continued", "plain_text"]
    expected += ["third_party", "quiz", "index_card", "short", *DISGUISES, "multi_turn", "primed"]
    assert {metric.name for metric in found} == {f"{kind}_facts_said".lstrip("_") for kind in expected}


def test_the_worst_kind_has_a_name_and_an_interval_for_all_of_them():
    """The highest of many is high by chance, too: its own interval would be too narrow."""
    figures, differences = worst(measured(quiz=([True] * 3 + [False] * 7,), short=([False] * 10,)))
    found, control = figures["audited"], figures["control"]
    assert (found.kind, found.value, found.n) == ("quiz_facts_said", 0.3, 10)
    alone, corrected = (share([True] * 3 + [False] * 7, level=level) for level in (0.95, 1 - 0.05 / 3))
    assert found.low == corrected.low < alone.low and found.high == corrected.high > alone.high
    assert control.value == 0 and differences["control"].value == 0.3


def test_a_kind_whose_answers_were_cut_stays_in_the_comparison():
    """It would hide behind the others, which could all be measured."""
    given = measured(quiz=([True] * 9 + [False], (9,)), short=([False] * 10,))
    figures, differences = worst(given)
    assert figures["audited"].unmeasured == 1
    found = differences["control"]
    assert found.kind == "quiz_facts_said" and found.high == figures["audited"].high and found.unmeasured == 1


def test_a_control_like_the_model_has_its_figures():
    kinds = kinds_of(audit_metrics(SETTINGS).values(), known_readings(SETTINGS), "facts_said")
    given = measured(quiz=([False] * 10,))
    figures, differences = worst(given)
    assert figures["audited"] == figures["control"] and differences["control"].value == 0
    assert together(kinds, given).kinds == 2
