"""``audit.json``: metrics, comparisons, gates and verdict, made of the readings of all models. Pure."""

from __future__ import annotations

import math
import re
import time
import traceback
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from rkld.auditing.attacks.prefixes import PREFIXES
from rkld.auditing.control import one_model
from rkld.auditing.fixed import fixed_before_the_run
from rkld.auditing.gates import (
    FEWEST,
    WITH_CONTROL,
    Gate,
    about_what_was_kept,
    gates_in_force,
    is_poor,
    judge,
    judge_all,
    judge_request,
    poor_references,
)
from rkld.auditing.inputs import Task, people_of, person_of
from rkld.auditing.kinds import kinds_of, together
from rkld.auditing.metrics import audit_metrics, known_readings
from rkld.auditing.registry import known_attacks
from rkld.errors import ODD_VALUES, UserError
from rkld.evaluation import membership
from rkld.evaluation.frames import FRAMES
from rkld.evaluation.metric import KEPT, Measured, Metric, RecordMetric
from rkld.evaluation.metrics.membership import READINGS as MEMBERSHIP
from rkld.evaluation.metrics.membership import reference_auc
from rkld.evaluation.statistics import Figure, equivalence
from rkld.evaluation.tofu import logged_ratios, read_logs
from rkld.files import can_be_path
from rkld.pipeline.fixing import FIXED
from rkld.runfolder.lock import MODEL
from rkld.runfolder.manifest import SETTINGS, is_finished, read_manifest, run_of
from rkld.runfolder.request import NOTHING_STATED, REQUEST, RequestForm
from rkld.settings.auditing import AuditSettings
from rkld.settings.table import specs
from rkld.text.normalising import normal

FORMAT = 2
"""Of audit.json."""

TEXT_TELLS = (
    "the texts alone tell the records from the holdout ones, so that an attacker also does by the model (AUC) shows "
    "nothing"
)
"""What is to be known of membership then."""

REDACTED = "<redacted>"
"""In place of where a model lies."""


def model_path(source: str) -> str:
    """The model that a run folder holds, where ``source`` is one.

    Raises:
        UserError: the run has not written it yet, or it is gone.
    """
    folder = Path(source)
    if run_of(source) != folder:
        return source
    if (folder / MODEL).is_dir():
        return str(folder / MODEL)
    if is_finished(manifest := read_manifest(folder) or {}):
        raise UserError(f"{folder}: the model of this run is gone ({folder / MODEL}). Restore it, or give its folder.")
    how = (
        "and was purged, so it cannot go on: delete the folder to begin again"
        if "purged" in manifest
        else f"so there is no unlearned model yet. Go on with it: rkld unlearn --config {folder / SETTINGS}"
    )
    raise UserError(f"{folder}: the run is not finished, {how}.")


def document(
    task: Task,
    readings: Mapping[str, Mapping[str, Any]],
    *,
    models: Mapping[str, Any],
    inputs: Mapping[str, Any],
    not_run: Sequence[Mapping[str, str]],
    versions: Mapping[str, str],
    seconds: float,
    request: RequestForm = NOTHING_STATED,
) -> dict[str, Any]:
    """The whole of audit.json, of plain values without NaN or infinity (an unbounded end is null).

    Args:
        readings: role ("audited", "control", "original") → readings.
        request: what is stated of the request, if anything is.
        models, inputs, not_run, versions, seconds: written as they are; redacted without where models lie.
    """
    settings = task.settings
    same = one_model(models)
    found = _judged(task, readings, same)
    not_run = list(not_run)
    if settings.redact:
        request = request.without_personal(REDACTED)
        given = [model[name] for model in models.values() for name in ("source", "base") if name in model]
        sources = [*given, *(str(Path(source).resolve()) for source in given if can_be_path(source))]  # as it is loaded
        models = {
            role: {**model, **{name: REDACTED for name in ("source", "base") if name in model}}
            for role, model in models.items()
        }
        not_run = [{**entry, "reason": _without(sources, entry["reason"])} for entry in not_run]
    parts = _people(task, readings)
    people = [_person(name, *part, not_run, same) for name, part in parts.items()]
    verdict, reasons = judge_request(found.verdict, found.reasons, people)
    content: dict[str, Any] = {
        "format": FORMAT,
        "verdict": verdict,
        "reasons": reasons,
        "gates": found.gates,
        FIXED: fixed_before_the_run(task),
        **({REQUEST: request.to_dict()} if request.is_stated else {}),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": seconds,
        "versions": dict(versions),
        "settings": _settings(settings),
        "models": dict(models),
        "inputs": {
            **inputs,
            "left_out": sorted(task.steering.left_out),
            "notes": list(task.notes),
            "probes": task.probed,
        },
        "metrics": found.named,
        "membership": found.note,
        "curves": {
            role: {name: read["relearning"][name] for name in ("steps", "probabilities", "learned")}
            for role, read in readings.items()
            if "relearning" in read
        },
        "general": {role: read["general"] for role, read in readings.items() if "general" in read},
        "not_run": [*not_run, *_cut(readings)],
    }
    if people:
        content["people"] = people
    if not settings.redact:
        content["texts"] = _texts(task, readings)
        if people:
            content["texts"]["people"] = {name: str(part.label) for name, part in parts.items()}
    return plain(content)


@dataclass(frozen=True)
class _Judged:
    """Figures, gates and verdict, of all records or of one person's."""

    named: dict[str, dict[str, Any]]
    note: dict[str, Any] | None
    gates: list[dict[str, Any]]
    verdict: str
    reasons: list[str]


def _judged(task: Task, readings: Mapping[str, Mapping[str, Any]], same: str | None) -> _Judged:
    """Judge what was read.

    Args:
        same: what to say where audited model and original are one.
    """
    settings = task.settings
    measured, metrics = _measured(task, readings), audit_metrics(settings)
    risks = {reading.name: reading.risk for reading in known_readings(settings)}
    named = {
        name: entry
        for name, metric in metrics.items()
        if (entry := _entry(metric, measured, settings.margin, risks)) is not None
    }
    for kind, found in _together(settings, measured).items():
        named[kind]["together"] = found
    note = _membership_note(measured)
    in_force = gates_in_force(settings.gates(), metrics, readings, _attacked(settings, metrics, named))
    gates = [judge(gate, named) for gate in in_force]
    blind = _membership_doubts(gates, note, measured, metrics)
    gates = [_unless_blind(gate, blind) for gate in gates]
    gates = [_unless_poor(gate, named) for gate in gates]
    gates = [gate if gate["name"] in named else {**gate, **_meant(metrics[gate["name"]])} for gate in gates]
    doubts = [
        *task.steering.doubts,
        *_few_facts(task),
        *(blind[of] for gate in gates if (of := (gate["name"], gate["limit"])) in blind and not gate["default"]),
        *_what_is_missing(gates, readings),
        *poor_references(gates, named),
        *([same] if same else _nothing_to_forget(in_force, measured, settings)),
    ]
    return _Judged(named, note, gates, *judge_all(gates, doubts))


def _meant(metric: Metric) -> dict[str, str]:
    """What a gate says of a figure that was not measured, and so stands nowhere else in the document."""
    return {"title": metric.title, "explanation": metric.explanation}


class _Part(NamedTuple):
    """What of an audit is about one person: as if nobody else had been asked about."""

    task: Task
    readings: dict[str, dict[str, Any]]
    label: Hashable


def _people(task: Task, readings: Mapping[str, Mapping[str, Any]]) -> dict[str, _Part]:
    """A name that names nobody → their part; none where the request is about one, or whose a record is is unknown."""
    people = people_of(task.identifiers, ([one.subject, *one.aliases] for one in task.forget if one.subject))
    owners = {**{record.key: person_of(record, people) for record in task.forget}, **task.persons}
    labels = dict.fromkeys(owners[record.key] for record in (*task.forget, *task.asked))
    if len(labels) < 2 or None in labels:
        return {}
    found = {}
    for number, label in enumerate(labels, 1):
        own = {key for key, owner in owners.items() if owner == label}
        part = replace(
            task,
            forget=[record for record in task.forget if record.key in own],
            asked=[record for record in task.asked if record.key in own],
            persons={key: owner for key, owner in task.persons.items() if owner == label},
        )
        rows = {
            role: {name: _rows_of(name, reading, own, owners.keys()) for name, reading in read.items()}
            for role, read in readings.items()
        }
        found[f"person {number}"] = _Part(part, rows, label)
    return found


def _rows_of(name: str, reading: Any, own: Collection[str], known: Collection[str]) -> Any:
    """Of a reading the rows about one person; what is about others, or about nobody, as it is.

    Args:
        own: keys of the person's records; known: of those of all who are to be forgotten.
    """

    def of(rows: Any) -> Any:
        if not isinstance(rows, Mapping):
            return rows
        return {key: row if key in own else of(row) for key, row in rows.items() if key in own or key not in known}

    if name in KEPT or name == "general":
        return reading
    if name in MEMBERSHIP:  # holdout records may have the keys of those to be forgotten
        return {**reading, "forget": of(reading["forget"])}
    found = of(reading)
    curves = found.get("probabilities") if isinstance(found, Mapping) else None  # of relearning and merging
    return {} if curves == {} else found


def _person(
    name: str,
    task: Task,
    readings: Mapping[str, Mapping[str, Any]],
    label: Hashable,
    not_run: Sequence[Mapping[str, str]],
    same: str | None,
) -> dict[str, Any]:
    """A person's verdict; each record's values stand in the figures of all."""
    found = _judged(task, readings, same)
    return {
        "name": name,
        "n": len(task.forget),
        "records": sorted({*task.persons, *(record.key for record in task.forget)}),
        "verdict": found.verdict,
        "reasons": found.reasons,
        "gates": found.gates,
        "metrics": {
            name: {what: value for what, value in entry.items() if what != "records"}
            for name, entry in found.named.items()
        },
        "not_run": [*not_run, *_cut(readings)],
    }


def _measured(task: Task, readings: Mapping[str, Mapping[str, Any]]) -> Measured:
    subjects = [record.subject for record in task.holdout]
    logs = task.settings.retain_logs
    holdout_persons = None if None in subjects else subjects
    text = None
    if any(read.get("membership") for read in readings.values()):
        text = membership.text_auc(
            [record.answer for record in task.forget],
            [record.answer for record in task.holdout],
            task.identifiers,
            task.labels([record.key for record in task.forget]),
            holdout_persons,
            seed=task.settings.seed,
        )
    return Measured(
        readings,
        persons=task.labels,
        holdout_persons=holdout_persons,
        retrained_ratios=logged_ratios(read_logs(logs)) if logs else None,
        text_auc=text,
        seed=task.settings.seed,
    )


def _attacked(settings: AuditSettings, metrics: Mapping[str, Metric], named: Mapping[str, Any]) -> list[str]:
    """The facts said under those attacks that were run and have a default gate then."""
    judged = {attack.name for attack in known_attacks(settings) if attack.judged}
    return [
        name
        for name, metric in metrics.items()
        if isinstance(metric, RecordMetric)
        and metric.reading in judged
        and name.endswith("_facts_said")
        and "audited" in named.get(name, {}).get("figures", {})
    ]


def _together(settings: AuditSettings, measured: Measured) -> dict[str, dict[str, Any]]:
    """Of the facts said in each kind of wording the intervals that hold all at once, by metric."""
    kinds = kinds_of(audit_metrics(settings).values(), known_readings(settings), "facts_said")
    found = together(kinds, measured)
    return {name: found.entry(name) for name in found.figures}


def _entry(
    metric: Metric, measured: Measured, margin: float, risks: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any] | None:
    """What the document says of one metric; None where it could not be computed.

    Args:
        risks: reading → what its figures are evidence of.
    """
    try:
        figures = metric.figures(measured)
    except ODD_VALUES as error:
        raise failed(metric, measured, error) from error
    if not figures:
        return None
    entry: dict[str, Any] = {
        "title": metric.title,
        "explanation": metric.explanation,
        "forgotten": metric.direction,
        "source": metric.source,
        "unit": metric.unit,
        "risk": metric.risk or (risks.get(metric.reading, "") if isinstance(metric, RecordMetric) else ""),
        "figures": {role: asdict(found) if isinstance(found, Figure) else found for role, found in figures.items()},
    }
    differences, records = metric.differences(measured), metric.records(measured)
    if differences:
        entry["against"] = {role: _comparison(found, role, margin) for role, found in differences.items()}
    if records:
        entry["records"] = records
    return entry


def failed(metric: Metric, measured: Measured, error: Exception) -> UserError:
    """What to say of a metric, one's own perhaps, that cannot be computed: where it fails, and what its rows hold.

    What the error says is not shown: it may quote an answer.
    """
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}, line {last.lineno}"
    message = f"the metric {metric.name} cannot be computed: {type(error).__name__} in {where}."
    if isinstance(metric, RecordMetric):
        rows = measured.of("audited", metric.reading)
        columns = sorted({name for row in rows.values() if isinstance(row, Mapping) for name in row})
        allowed = "0 or 1" if metric.flags else "from {:g} to {:g} (its bounds)".format(*metric.bounds)
        message += (
            f" It is made of the reading {metric.reading}, whose rows have {', '.join(columns)}. Its values must be "
            f"a dict of the rows' keys and a number each, {allowed}."
        )
    return UserError(message)


def _comparison(found: Figure, role: str, margin: float) -> dict[str, Any]:
    """A paired difference; to the control, whether it is shown to lie within the margin stated beforehand."""
    if role != "control":
        return asdict(found)
    return {**asdict(found), "margin": margin, "equivalent": equivalence(found, margin).established}


def _membership_note(measured: Measured) -> dict[str, Any] | None:
    """What membership is compared with, and whether text alone tells the two sets apart."""
    text = measured.text_auc
    if text is None:
        return None
    tells = membership.text_tells(text)
    reference, whose = reference_auc(measured, "loss")
    return {
        "text_auc": asdict(text),
        "interpretable": not tells,
        "note": TEXT_TELLS if tells else "",
        "reference": whose,
        "reference_auc": reference,
    }


def _membership_doubts(
    gates: Sequence[Mapping[str, Any]],
    note: Mapping[str, Any] | None,
    measured: Measured,
    metrics: Mapping[str, Metric],
) -> dict[tuple[str, float], str]:
    """(Name, limit) → why a gate on what is made of membership establishes nothing.

    No model that knows the records could miss its limit; or, of metrics without a reference, text alone tells the sets
    apart.
    """
    if note is None:
        return {}
    others = {
        role: {name: one for name, one in read.items() if name != "membership"}
        for role, read in measured.readings.items()
    }
    without = replace(measured, readings=others, _made={})
    found = {}
    for gate in gates:
        name, limit = gate["name"], gate["limit"]
        if gate["state"] == "not measured" or metrics[name].figures(without) == metrics[name].figures(measured):
            continue
        reference, _ = reference_auc(measured, name.removesuffix("_auc_distance"))
        if name.endswith("_auc_distance"):
            why = f"models that know the records are nearer than {limit:g} to its reference AUC of {reference:.2f}, too"
            blind = max(reference, 1 - reference) + limit > 1
        else:
            why = "it is made of membership, and text alone tells the forget and the holdout records apart"
            blind = not note["interpretable"]
        if blind:
            found[name, limit] = f"{name} establishes nothing: {why}. Give holdout records of the same kind"
    return found


def _unless_blind(gate: dict[str, Any], blind: Mapping[tuple[str, float], str]) -> dict[str, Any]:
    """A default gate that establishes nothing is none: the user did not ask for it. It can still fail."""
    no_gate = gate["default"] and gate["state"] != "failed" and (gate["name"], gate["limit"]) in blind
    return {**gate, "state": "not measured"} if no_gate else gate


def _unless_poor(gate: dict[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Nor is one that needs a control where that is a poor one: what many guess in 16 answers is no evidence."""
    no_gate = gate["default"] and gate["state"] != "failed" and gate["name"] in WITH_CONTROL and is_poor(gate, named)
    return {**gate, "state": "not measured"} if no_gate else gate


def _few_facts(task: Task) -> list[str]:
    """Why facts are no evidence that are the same few again: asked in thirty wordings, one fact is still one."""
    facts = [normal(fact) for record in task.asked for fact in task.facts.get(record.key, ())]
    different = len(set(facts))
    if len(facts) < FEWEST or different >= FEWEST:  # fewer hold no gate anyway
        return []
    return [
        f"of the {len(facts)} facts in the records only {different} {'is' if different == 1 else 'are'} different: "
        f"fewer than {FEWEST} establish nothing, however often they are asked for"
    ]


def _what_is_missing(gates: Sequence[Mapping[str, Any]], readings: Mapping[str, Any]) -> list[str]:
    """Why no verdict can be a pass: fluency and what was kept are part of every one."""
    if "original" not in readings:
        return [
            "without --original it is unknown whether the model is still fluent, what it has kept, and whether there "
            "was anything to forget"
        ]
    if any(gate["name"] in (f"{name}_kept" for name in KEPT) and gate["value"] is not None for gate in gates):
        return []
    return ["without records that should have been kept (--retain) it is unknown what else the model has lost"]


def _nothing_to_forget(in_force: Sequence[Gate], measured: Measured, settings: AuditSettings) -> list[str]:
    """Why gates establish nothing that the original keeps as well: it never knew the records, or they see nothing."""
    if "original" not in measured.readings:
        return []
    readings = {**measured.readings, "audited": measured.readings["original"]}
    as_audited = replace(measured, readings=readings, _made={})
    metrics = audit_metrics(settings)
    gates = [gate for gate in in_force if not about_what_was_kept(gate)]
    named = {gate.name: entry for gate in gates if (entry := _entry(metrics[gate.name], as_audited, settings.margin))}
    if any(judge(gate, named)["state"] == "failed" for gate in gates):
        return []
    known = metrics["probability"].figures(measured).get("original")
    said = f": its probability of them is {known.value:.3g}" if isinstance(known, Figure) else ""
    return [
        "nothing to forget: the original itself fails none of the gates on the records, so that keeping to them shows "
        f"nothing{said}. It does not know them, or the control does, or they are too few"
    ]


# Plain values


def _settings(settings: AuditSettings) -> dict[str, Any]:
    """As they were used, without whom it is about; redacted also without the names of files and folders."""
    found = asdict(settings)
    hidden = ["subject", "request", "note"]  # the form stands beside them
    if settings.redact:
        entries = ("attacks", "metric")  # FILE.py:NAME
        hidden += ["system_prompt"]
        hidden += [name for name, spec in specs(AuditSettings).items() if spec.takes_paths and name not in entries]
        for name in entries:
            found[name] = [given.rpartition(":")[2] for given in found[name]]
    return {name: value for name, value in found.items() if name not in hidden}


def _without(sources: Sequence[str], text: str) -> str:
    """A reason may name the model that it is about."""
    for source in sorted(filter(None, sources), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(source)}(?!\w)", REDACTED, text)  # not within words: a name may be "m"
    return text


def _cut(readings: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Of which readings answers were cut before their end, so that facts in them were not measured."""
    found = []
    for role, read in readings.items():
        for name, rows in read.items():
            answers = list(_cuts(rows))
            if any(answers):
                reason = f"{sum(answers)} of {len(answers)} answers were cut: what they do not say was not measured. "
                found.append({"name": f"{role}: {name}", "reason": f"{reason}Give more --max-new-tokens."})
    return found


def _cuts(rows: Any) -> Iterator[bool]:
    """Of each row, in tables at any depth, whether an answer in it was cut."""
    if not isinstance(rows, Mapping):
        return
    if isinstance(rows.get("cut"), bool):
        yield rows["cut"]
    else:
        for row in rows.values():
            yield from _cuts(row)


def _texts(task: Task, readings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All questions and generated texts. What a model generates is not to be trusted wherever it is shown."""
    records = {
        record.key: {
            "question": record.question,
            "answer": record.answer,
            "facts": list(task.facts.get(record.key, ())),
        }
        for record in (*task.asked, *task.reworded)
    }
    generated: dict[str, Any] = {}
    for role, read in readings.items():
        generated[role] = {name: kept for name, reading in read.items() if (kept := _generated(reading))}
    return {"prefixes": list(PREFIXES), "frames": dict(FRAMES), "records": records, "said": generated}


def _generated(reading: Any) -> Any:
    """What a reading holds of text: answers and completions, in its own shape."""
    if not isinstance(reading, dict):
        return None
    found = {}
    for key, value in reading.items():
        if key in ("answer", "answers", "completions") and isinstance(value, str | list):
            found[key] = value
        elif kept := _generated(value):
            found[key] = kept
    return found


def plain(value: Any) -> Any:
    """JSON's own types: tuples as lists, infinity as null. ValueError for NaN, which is no result."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float | np.floating):
        if math.isnan(value):
            raise ValueError("a figure is NaN")
        return float(value) if math.isfinite(value) else None
    return value
