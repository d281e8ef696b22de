"""Membership inference: eight attacks' AUC, how far it is from an honest model's, PrivLeak, and how close the cheap
ones are to a control's. Three of them take several passes a record, and are made where they are asked for.

What gives away is the distance: a model that was pushed away from the records shows that they were there as one does
that still knows them (arXiv 2506.14003).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rkld.evaluation import membership
from rkld.evaluation.metric import Aggregate, Measured
from rkld.evaluation.registry import declare
from rkld.evaluation.statistics import Figure, bootstrap

SOURCES = {
    "loss": "Yeom et al. 2018, arXiv 1709.01604",
    "zlib": "Carlini et al. 2021, arXiv 2012.07805",
    "min_k": "Shi et al. 2024, arXiv 2310.16789",
    "min_k_plus_plus": "Zhang et al. 2025, arXiv 2404.02936",
    "reference": "Carlini et al. 2021, arXiv 2012.07805",
    "gradient_norm": "Wang et al. 2024, arXiv 2402.17012",
    "recall": "ReCaLL, Xie et al. 2024, arXiv 2406.15968",
    "neighbourhood": "Mattern et al. 2023, arXiv 2305.18462; the model itself proposes the neighbours",
}
"""Attack → source."""

CHEAP = ("loss", "zlib", "min_k", "min_k_plus_plus")
"""Those of the reading "membership", of one pass a record."""

READINGS = ("membership", "further_membership")
"""The readings that scores are made of: set → rows by attack."""

OPEN_UNLEARNING = "OpenUnlearning, arXiv 2506.12618"

Scores = dict[str, dict[str, np.ndarray]]
"""Set ("forget", "holdout") → attack → scores (n,)."""


def _scores(measured: Measured, role: str) -> Scores | None:
    """None where nothing was read; the reference attack's with the control as its reference."""
    return measured.once(f"membership scores {role}", lambda: _made_scores(measured, role))


def _made_scores(measured: Measured, role: str) -> Scores | None:
    tables = [read for name in READINGS if (read := measured.of(role, name))]
    if not tables:
        return None
    found: Scores = {name: {} for name in tables[0]}
    for table in tables:
        for name, rows in table.items():
            columns = {column for row in rows.values() for column in row}
            for attack in (attack for attack in SOURCES if attack in columns):
                found[name][attack] = np.array([row[attack] for row in rows.values()])
    control = measured.of("control", "membership")
    if control and role != "control" and all("loss" in scores for scores in found.values()):
        for name, scores in found.items():
            scores["reference"] = scores["loss"] - np.array([row["loss"] for row in control[name].values()])
    return found


def pair_of(measured: Measured, role: str, attack: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Scores of the forget (n,) and of the holdout records (m,); None where they were not made."""
    scores = _scores(measured, role)
    return (scores["forget"][attack], scores["holdout"][attack]) if scores and attack in scores["forget"] else None


def persons_of(measured: Measured) -> list[Any]:
    """Whose the forget and the holdout records are."""
    read = next(found for role in measured.readings for name in READINGS if (found := measured.of(role, name)))
    return [measured.persons(list(read["forget"])), measured.holdout_persons]


def _auc(attack: str) -> Callable[[Measured, str], Figure | None]:
    def make(measured: Measured, role: str) -> Figure | None:
        pair = pair_of(measured, role, attack)
        return None if pair is None else membership.auc_figure(*pair, *persons_of(measured), seed=measured.seed)

    return lambda measured, role: measured.once(f"{attack}_auc {role}", lambda: make(measured, role))


def _less(attack: str) -> Callable[[Measured, str, str], Figure | None]:
    """AUC of one model less another's, on the same records, which are drawn together."""

    def compare(measured: Measured, one: str, other: str) -> Figure | None:
        ours, theirs = pair_of(measured, one, attack), pair_of(measured, other, attack)
        if ours is None or theirs is None:
            return None
        (a, b), (c, d) = ours, theirs
        return bootstrap(
            lambda f, h: membership.auc(a[f], b[h]) - membership.auc(c[f], d[h]),
            (len(a), len(b)),
            persons_of(measured),
            bounds=(-1.0, 1.0),
            seed=measured.seed,
        )

    return compare


def _difference(attack: str) -> Callable[[Measured, str], Figure | None]:
    return lambda measured, role: _less(attack)(measured, "audited", role)


def reference_auc(measured: Measured, attack: str) -> tuple[float, str]:
    """The AUC that an honest model shows, and whose it is.

    "control": the control's. Without one, "text": that of the texts alone, where these tell the sets apart, for a model
    of the language sees what a bag of words sees. Else "chance": .5, as for the reference attack, which is a difference
    to the control already.
    """
    control = _auc(attack)(measured, "control")
    if control is not None:
        return control.value, "control"
    text = measured.text_auc
    if attack != "reference" and text is not None and membership.text_tells(text):
        return text.value, "text"
    return 0.5, "chance"


def _distance(attack: str) -> Callable[[Measured, str], Figure | None]:
    """|AUC − reference|. With a control both are drawn together; else the reference is taken as it came out."""

    def compute(measured: Measured, role: str) -> Figure | None:
        figure = _auc(attack)(measured, role)
        if figure is None or role == "control":
            return None
        reference, whose = reference_auc(measured, attack)
        if whose == "control" and (difference := _less(attack)(measured, role, "control")):
            signed, method = difference, f"{difference.method}; less the control's"
        else:
            ends = (figure.value - reference, figure.low - reference, figure.high - reference)
            signed, method = Figure(*ends, figure.n, ""), f"{figure.method}; reference {reference:.3f} ({whose})"
        low, high = sorted((abs(signed.low), abs(signed.high)))
        return Figure(abs(signed.value), 0.0 if signed.low <= 0 <= signed.high else low, high, signed.n, method)

    return compute


def _leak(attack: str) -> Callable[[Measured, str], Figure | None]:
    def compute(measured: Measured, role: str) -> Figure | None:
        figure, control = _auc(attack)(measured, role), _auc(attack)(measured, "control")
        reference = 0.5 if control is None else control.value
        if figure is None or reference == 1:  # PrivLeak divides by 1 − AUC
            return None
        # It falls as the AUC rises, so the ends change places.
        value, high, low = (membership.priv_leak(x, reference) for x in (figure.value, figure.low, figure.high))
        return Figure(value, low, high, figure.n, f"{figure.method}; reference AUC {reference:.3f}")

    return compute


def _privacy(measured: Measured, role: str) -> Figure | None:
    """Closeness of four attacks' AUC to the control's, the audited records of both drawn together."""
    found = {name: _scores(measured, name) for name in (role, "control")}
    if any(scores is None or "loss" not in scores["forget"] for scores in found.values()):
        return None
    pairs = {
        name: [(scores["forget"][attack], scores["holdout"][attack]) for attack in CHEAP]
        for name, scores in found.items()
        if scores is not None
    }

    def statistic(f: np.ndarray, h: np.ndarray) -> float:
        ours, theirs = ([membership.auc(a[f], b[h]) for a, b in pairs[name]] for name in (role, "control"))
        # Closeness is relative to the control's AUC, so one of 0 counts as the least that so many pairs can show.
        return membership.privacy_score(ours, np.maximum(theirs, 1 / (2 * f.size * h.size)))

    sizes = [len(some) for some in pairs[role][0]]
    return bootstrap(statistic, sizes, persons_of(measured), bounds=(0.0, 1.0), seed=measured.seed)


for _attack, _source in SOURCES.items():
    _words = _attack.replace("_", " ")
    declare(
        Aggregate(
            f"{_attack}_auc",
            f"how well an attacker tells the records from unseen ones, by {_words} (AUC)",
            _auc(_attack),
            risk="membership inference",
            explanation="How well an attacker tells the records from ones that were never trained on: .5 is not at "
            "all. Above and below the control's both give them away.",
            compare=_difference(_attack),
            direction="",
            unit="AUC",
            source=_source,
            distance=f"{_attack}_auc_distance",
        )
    )
    declare(
        Aggregate(
            f"{_attack}_auc_distance",
            f"how far an attacker's success at that is from what it is on a control, else by the text alone ({_words})",
            _distance(_attack),
            risk="membership inference",
            explanation="How far that attack is from what it finds in a model that never saw the records.",
            unit="AUC",
            source="over-forgetting is a leak: arXiv 2506.14003",
        )
    )
    declare(
        Aggregate(
            f"{_attack}_priv_leak",
            f"PrivLeak by {_words}",
            _leak(_attack),
            risk="membership inference",
            explanation="The same as a share of the control's: 0 is alike, below it the records are still known, "
            "above it they were pushed away.",
            direction="",
            unit="percent",
            bounds=(-np.inf, 100.0),
            distance=f"{_attack}_auc_distance",
            source="MUSE, arXiv 2407.06460",
        )
    )

declare(
    Aggregate(
        "priv",
        "harmonic mean of closeness of membership to the control's",
        _privacy,
        direction="high",
        unit="score",
        source=OPEN_UNLEARNING,
        risk="membership inference",
        explanation="How close membership attacks come to what they find in the control: 1 is the same.",
    )
)
