"""What a report says of one person, or of all records where they are one's: taken from the audit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rkld.errors import UserError
from rkld.reporting.run import Run
from rkld.reporting.words import ROLES, UNCOUNTED, unseen
from rkld.text.normalising import words


@dataclass(frozen=True)
class Section:
    """One verdict and what it rests on.

    Attributes:
        name: "person 2"; empty where the request is about one person, or nobody knows whose the records are.
        title: their name, where it may be shown; else ``name``.
        n: forget records.
        metrics: as in the audit, with the values of this section's records alone.
        curves: role → relearning curves of these records.
        keys: of these records; None for all.
    """

    name: str
    title: str
    n: int | None
    verdict: str | None
    reasons: Sequence[str] = ()
    gates: Sequence[Mapping[str, Any]] = ()
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    not_run: Sequence[Mapping[str, str]] = ()
    curves: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    keys: frozenset[str] | None = None

    @property
    def roles(self) -> list[str]:
        """The models that were read, in the order in which they stand."""
        found = {role for metric in self.metrics.values() for role in metric["figures"]}
        return [role for role in ROLES if role in found]

    def figure(self, metric: str, role: str = "audited") -> Mapping[str, Any] | None:
        """One figure; None where it was not measured."""
        found: Mapping[str, Any] | None = self.metrics.get(metric, {}).get("figures", {}).get(role)
        return found

    def records(self, metric: str, role: str) -> Mapping[str, float]:
        """Each record's value; none where it was not measured."""
        found: Mapping[str, float] = self.metrics.get(metric, {}).get("records", {}).get(role, {})
        return found

    def gate(self, metric: str) -> Mapping[str, Any] | None:
        """The limit on a figure that the verdict rests on."""
        return next((gate for gate in self.gates if gate["name"] == metric), None)


def sections(run: Run, show_names: bool = False) -> list[Section]:
    """One for each person of the request, or one for all."""
    audit = run.audit
    if audit is None:
        n = run.manifest.get("records", {}).get("forget records", {}).get("n")
        return [Section("", "", n, None, metrics=_own_figures(run))]
    # No audit asks them, and of a model that was damaged they say the most.
    everyday = {name: found for name, found in _own_figures(run).items() if name.startswith("everyday_")}
    people = audit.get("people") or ()
    if not people:
        return [
            Section(
                "",
                "",
                audit["inputs"].get("forget", {}).get("n"),
                audit["verdict"],
                audit["reasons"],
                audit["gates"],
                {**audit["metrics"], **everyday},
                audit["not_run"],
                audit.get("curves", {}),
            )
        ]
    names = audit.get("texts", {}).get("people", {}) if show_names else {}
    found = [_of_person(audit, person, names.get(person["name"], person["name"])) for person in people]
    return [dataclasses.replace(section, metrics={**section.metrics, **everyday}) for section in found]


def chosen(run: Run, name: str) -> Section:
    """The section of one person, by their name in the records or by the name that stands for it ("person 2").

    Raises:
        UserError: there is no such person in the audit, or their names are not in it any more.
    """
    if run.audit is None:
        raise UserError(f"{run.folder}: a section for --subject is made of an audit. Run rkld audit first.")
    found = {section.name: section for section in sections(run, show_names=True)}
    if set(found) == {""}:
        raise UserError(f"{run.folder}: the audit has one verdict for all: leave out --subject.")
    wanted = words(name)  # however it is typed: capitals, accents' encoding, spaces, apostrophes
    named = [section for section in found.values() if words(section.title) == wanted]
    if len(named) == 1 or (named := [section for section in found.values() if words(section.name) == wanted]):
        return named[0]
    known = f"give one of {', '.join(found)}"
    if not run.audit.get("texts", {}).get("people"):
        raise UserError(f"--subject: the names are not in this audit, which was redacted or purged; {known}.")
    raise UserError(f"--subject: nobody of this name is in the audit; give the name as in the records, or {known}.")


def _of_person(audit: Mapping[str, Any], person: Mapping[str, Any], title: str) -> Section:
    keys = frozenset(person["records"])
    metrics = {
        name: {**metric, "records": _own(audit["metrics"].get(name, {}).get("records", {}), keys, metric)}
        for name, metric in person["metrics"].items()
    }
    curves = {
        role: {
            "steps": curve["steps"],
            "probabilities": {key: values for key, values in curve["probabilities"].items() if key in keys},
        }
        for role, curve in audit.get("curves", {}).items()
    }
    return Section(
        person["name"], title, person["n"], person["verdict"], person["reasons"], person["gates"], metrics,
        person["not_run"], {role: curve for role, curve in curves.items() if curve["probabilities"]}, keys,
    )  # fmt: skip


def _own(
    records: Mapping[str, Mapping[str, float]], keys: frozenset[str], metric: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """The values of a person's records, or of facts in them ("key/number"); of records to keep all, who are others'."""
    if metric.get("risk") == "kept":
        return {role: dict(values) for role, values in records.items()}
    return {
        role: {key: value for key, value in values.items() if key in keys or key.rpartition("/")[0] in keys}
        for role, values in records.items()
    }


TITLES = {
    "probability": "probability of the recorded answer, per token",
    "worst_kind_facts_said": "facts said in the worst of two other wordings",
    "facts_said": "facts that the model's own answers say",
    "rouge_l": "words of the recorded answer that its own answer says, in their order",
}
"""Figures of a run, which have no intervals → what they are."""


def _own_figures(run: Run) -> dict[str, dict[str, Any]]:
    """Those that a run measures before and after, in the shape of an audit's."""
    phases, metrics = run.manifest.get("phases", {}), dict[str, dict[str, Any]]()
    for phase, role in (("before", "original"), ("after", "audited")):
        for of, values in phases.get(phase, {}).get("metrics", {}).items():
            for name, title in TITLES.items():
                if (value := values.get(name)) is None:
                    continue
                own = name if of == "forget" else f"{of}_{name}"
                direction = "low" if of == "forget" else "high"
                entry = metrics.setdefault(
                    own, {"title": title, "forgotten": direction, "unit": "share", "risk": "", "figures": {}}
                )
                figure = {"value": value, "low": None, "high": None, "n": values["n"], "method": ""}
                entry["figures"][role] = figure | _unseen(values, name)
    return metrics


def _unseen(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a run's figure leaves open where answers were cut: all between what they said and all that they could say.

    A run of an earlier version counted no facts, nor those that answers to other wordings were cut before.
    """
    counted = name.removesuffix("_said")
    unseen, facts = values.get(f"{counted}_unseen"), values.get(counted)
    if unseen is None and name == "worst_kind_facts_said" and values.get("facts_unseen"):
        return {"low": values[name], "high": 1.0, "unmeasured": None, "of": None, "range": True}
    if name == counted or not unseen:
        return {}
    high = min(1.0, values[name] + unseen / facts) if facts else 1.0
    return {"low": values[name], "high": high, "unmeasured": unseen, "of": facts, "range": True}


def left_open(figure: Mapping[str, Any]) -> str:
    """What of a figure was not measured because answers were cut; empty where all was."""
    if "unmeasured" in figure and figure["unmeasured"] is None:
        return UNCOUNTED
    n, of = figure.get("unmeasured"), figure.get("of", figure.get("n"))
    return unseen(n, of if isinstance(of, int) else None) if isinstance(n, int) and n > 0 else ""
