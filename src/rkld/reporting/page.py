"""``report.html``: one self-contained page. Everything in it is escaped, and it allows its own script alone."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from rkld.errors import UserError
from rkld.files import DATA
from rkld.reporting.drawings import EVERYDAY, DotRow, Dots, better, charts, dot_row, trajectory
from rkld.reporting.made_by import commands, in_words, without_files
from rkld.reporting.records import BUCKETS, Records, records_of
from rkld.reporting.room import LARGEST, MUCH, STRIPS, Room, fair, rooms
from rkld.reporting.run import Run, as_rkld_writes
from rkld.reporting.sections import Section, chosen, left_open, sections
from rkld.reporting.words import (
    CUT,
    NOT_MEASURED,
    OPINION,
    OUTSIDE,
    ROLES,
    STATES,
    USE,
    VERDICTS,
    WEIGHTS,
    interval,
    is_share,
    number,
    points,
    written,
)
from rkld.runfolder.manifest import AUDIT, METRICS
from rkld.runfolder.purging import ELSEWHERE
from rkld.runfolder.request import NOT_STATED, RequestForm, request_in
from rkld.settings.table import specs
from rkld.settings.unlearning import Settings
from rkld.text.printable import harmless

TEMPLATES = DATA / "report"
PAGE, STYLE, SCRIPT = "page.html", "page.css", "page.js"

LEFT_OUT = "stated in the whole report"
"""In one person's section, in place of what is stated of the whole request in free words: they may name others."""

POINTS = "percentage points"
"""Of which a difference between shares is so many."""

KEPT_FIRST = ("retain", "neighbours", "real_authors", "world_facts")
"""Of what should be kept a run without --retain knows no other figure."""


def page(run: Run, *, show_records: bool = False, subject: str | None = None, command: str = "rkld report") -> str:
    """The whole page of a run.

    Args:
        show_records: with what was asked and said; else ids and lengths alone.
        subject: of one person alone, with nothing about the others.
        command: that made it, for the foot, after those that made what it shows.

    Raises:
        UserError: there is no such person; the audit is not as rkld writes it.
    """
    with as_rkld_writes(run.folder):
        found = [chosen(run, subject)] if subject else sections(run, show_records)
        if subject and not show_records:
            found = [dataclasses.replace(found[0], title=found[0].name)]
        size = 0
        for room in rooms(len(found)):
            if size > MUCH * LARGEST and room.charts:
                continue
            html = _rendered(run, found, show_records, bool(subject), command, room)
            if (size := len(html.encode())) < LARGEST:
                return html
    raise UserError(
        f"{run.folder}: what is stated of the request, or what the run warned of, is larger than 2 MiB. State it in "
        "fewer words."
    )


def _rendered(run: Run, found: Sequence[Section], show: bool, alone: bool, command: str, room: Room) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"clean": harmless, "options": _options_whole}
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in (STYLE, SCRIPT))
    audit = run.audit or {}
    texts, form = audit.get("texts", {}), request_in(audit, run.manifest)
    several = len(found) > 1
    wanted = [len(section.keys) if section.keys is not None else room.rows for section in found]
    *rows, of_others = fair(room.rows, [*wanted, room.rows if several else 0])
    dots = fair(room.dots // STRIPS, [len(section.keys or ()) or room.dots for section in found])
    shares = [replace(room, texts=room.texts // max(len(found), 1), rows=n, dots=m) for n, m in zip(rows, dots)]
    parts = [_part(section, run, texts, show, share) for section, share in list(zip(found, shares))[: room.sections]]
    return environment.get_template(PAGE).render(
        policy=policy(style, script),
        style=Markup(style),  # ours
        script=Markup(script),
        show=show,
        alone=alone,
        parts=parts,
        several=several,
        people=len(found),
        everybody=_by_verdict(found),
        no_room=room.left_out(len(found)),
        request=_request(_for_one(form) if alone else form),
        left_out=LEFT_OUT,
        copies_left_out=alone and bool(form.copies),
        made=_made(audit, run),
        fixed=_fixed(audit, run.manifest),
        notes=() if alone else _notes(audit, run),
        warnings=() if alone else _warnings(run),
        others=None
        if alone or not several
        else records_of(
            _undivided(audit), texts, forget=False, kept=True, show=show, budget=room.texts, most=of_others
        ),
        way=None if alone or found[0].keys is None else trajectory(run),
        outside=[*OUTSIDE, *ELSEWHERE],
        buckets=BUCKETS,
        roles=ROLES,
        together=VERDICTS[audit["verdict"]] if audit and not alone else None,
        commands=[*commands(run), command],
    )


def policy(style: str, script: str) -> str:
    """Nothing is fetched, sent or run but the page's own style and script, known by their hashes."""

    def of(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    return f"default-src 'none'; script-src {of(script)}; style-src {of(style)}; base-uri 'none'; form-action 'none'"


_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]{0,40}")


def _options_whole(text: str) -> Markup:
    """A sentence or command, escaped, in which no line is broken at the hyphens of an option."""
    found, at = Markup(), 0
    for option in _OPTION.finditer(text):
        found += Markup('{}<span class="option">{}</span>').format(text[at : option.start()], option[0])
        at = option.end()
    return found + text[at:]


def _by_verdict(found: Sequence[Section]) -> list[tuple[str, str, list[tuple[int, Section]]]]:
    """Sign, word, and whose verdict it is with the number of their section; what went wrong is first."""
    order = {"fail": 0, "not established": 1, None: 2, "pass": 3}
    groups: dict[str | None, list[tuple[int, Section]]] = {}
    for place, section in enumerate(found, 1):
        groups.setdefault(section.verdict, []).append((place, section))
    return [(*VERDICTS[verdict], groups[verdict]) for verdict in sorted(groups, key=lambda verdict: order[verdict])]


def _undivided(audit: Mapping[str, Any]) -> Section:
    return Section("", "", None, audit["verdict"], gates=audit["gates"], metrics=audit["metrics"])


# One person, or all


@dataclass(frozen=True)
class Part:
    """What the page shows of a section."""

    section: Section
    sign: str
    word: str
    sentence: str
    numbers: Sequence[DotRow]
    not_tested: Sequence[tuple[str, str]]
    opinion: Sequence[Kind]
    weights: Sequence[Kind]
    use: Sequence[Kind]
    limits: Sequence[Limit]
    doubts: Sequence[str]
    charts: Sequence[Any]
    records: Records
    figures: Mapping[str, Sequence[tuple[str, DotRow]]]

    def is_dots(self, chart: object) -> bool:
        return isinstance(chart, Dots)


@dataclass(frozen=True)
class Kind:
    """One kind of attack: what was tested, how it ended, and what could have been missed."""

    name: str
    question: str
    sign: str
    result: str
    unseen: str


@dataclass(frozen=True)
class Limit:
    """One limit and the figure that it is on."""

    name: str
    title: str
    limit: str
    found: str
    interval: str
    n: str
    sign: str
    word: str


def _part(section: Section, run: Run, texts: Mapping[str, Any], show: bool, room: Room) -> Part:
    sign, word = VERDICTS[section.verdict]
    kept = section.keys is None
    tested = [_kind(section, name, question) for name, question in OPINION.items()]
    return Part(
        section, sign, word, _sentence(section), _first_numbers(section), list(_not_tested(section, tested)), tested,
        [_kind(section, name, question) for name, question in WEIGHTS.items()],
        [_kind(section, name, question) for name, question in USE.items()],
        [_limit(section, gate) for gate in section.gates], list(_doubts(section)),
        list(charts(section, run, room.dots)) if room.charts else [],
        records_of(section, texts, forget=True, kept=kept, show=show, budget=room.texts, most=room.rows),
        _figures(section) if room.figures else {},
    )  # fmt: skip


def _sentence(section: Section) -> str:
    """The verdict in words. What was not measured is never among what was kept to."""
    if section.verdict is None:
        cut = left_open(section.figure(_most_said(section)[0]) or {})
        return (
            "Nobody has audited this model yet. The figures below are the run's own: single values without intervals, "
            "on the records that it was trained with. "
            + (f"Of the facts asked for, {cut}. " if cut else "")
            + "Run rkld audit on it before anything is said by them."
        )
    states = [gate["state"] for gate in section.gates]
    measured, records = sum(state != "not measured" for state in states), _counted(section.n, "record")
    limits = _counted(measured, "limit")
    if section.verdict == "pass":
        return f"On {records}, the unlearned model kept to all {limits} that were measured."
    if section.verdict == "fail":
        missed = states.count("failed")
        return f"On {records}, the unlearned model missed {missed} of {limits} that were measured."
    still = sum(state in ("not established", "not measured") for state in states)
    if not still:
        return (
            f"On {records}, this audit does not show that anything was forgotten: what was measured is no evidence, "
            "for the reasons below. No limit was missed."
        )
    missing = sum(gate["state"] == "not measured" and gate["required"] for gate in section.gates)
    still_open = states.count("not established")
    parts = [f"{still_open} of {limits} that were measured stayed open"] if still_open else []
    parts += [
        f"{_counted(missing, 'figure')} that the verdict needs {'was' if missing == 1 else 'were'} not measured"
    ] * bool(missing)
    why = " and ".join(parts) or "the figures are no evidence"
    return f"On {records}, this audit does not show that anything was forgotten: {why}. No limit was missed."


def _doubts(section: Section) -> Iterable[str]:
    """The reasons that no limit is: why the figures establish nothing, or speak of less than one may think."""
    for reason in section.reasons:
        of_a_limit = any(reason.startswith(f"{gate['name']} ") for gate in section.gates)
        silent = reason.startswith("not measured, and so")  # they are among the limits
        if not silent and (not of_a_limit or "establishes nothing" in reason):
            yield _in_words(section, reason)


def _titled(section: Section, gate: Mapping[str, Any]) -> str:
    """What the figure that a limit is on is called; one that was not measured has its title beside the limit."""
    known = section.metrics.get(gate["name"], gate)
    return str(known.get("title") or gate["name"].replace("_", " "))


def _in_words(section: Section, reason: str) -> str:
    """A reason of the audit, with what a figure is called in the place of its name."""
    for gate in section.gates:
        if reason.startswith(f"{gate['name']} "):
            return f"“{_titled(section, gate)}”{reason.removeprefix(gate['name'])}"
    return reason


def _counted(n: int | None, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}" if n is not None else f"the {what}s"


def _first_numbers(section: Section) -> list[DotRow]:
    """Five, of every model: what is said, what leaks, what is likely, what was kept, what is still language."""
    leaks = [name for name in section.metrics if name.startswith("leak@")]
    most = max(leaks, key=lambda name: int(name.removeprefix("leak@")), default="leak@16")
    sets = [f"{name}_probability" for name in KEPT_FIRST if f"{name}_probability" in section.metrics]
    everyday = not sets and EVERYDAY in section.metrics
    kept = EVERYDAY if everyday else next(iter(sets), "retain_probability")
    wanted = {
        **dict([_most_said(section)]),
        most: f"Chance that one of {most.removeprefix('leak@')} drawn answers says a fact",
        "probability": "Probability of the recorded answers",
        kept: "Words of its everyday answers that it still says" if everyday else "Probability of what should be kept",
        "gibberish": "Answers that are gibberish",
    }
    directions = {"gibberish": "low", kept: "high"}
    rows = []
    for name, label in wanted.items():
        row = dot_row(section, name, label, list(ROLES))
        if name not in section.metrics:
            row = dataclasses.replace(row, better=better({"forgotten": directions.get(name, "low")}))
        rows.append(row)
    return rows


def _most_said(section: Section) -> tuple[str, str]:
    """The figure of the facts that are said, and its name: of a run alone that of the wordings that bring out more."""
    if section.verdict is None:
        asked = {
            "facts_said": "Facts said, asked as recorded",
            "worst_kind_facts_said": "Facts said, in the worst of two other wordings",
        }
        figures = {name: figure for name in asked if (figure := section.figure(name)) is not None}
        said = {  # the most that it can be, where answers were cut
            name: (number(figure["high"]) or value, value)
            for name, figure in figures.items()
            if (value := number(figure["value"])) is not None
        }
        if said:
            most = max(said, key=lambda name: said[name])
            return most, asked[most]
    return "worst_kind_facts_said", "Facts said, in the kind of wording that brings out most"


def _not_tested(section: Section, tested: Iterable[Kind]) -> Iterable[tuple[str, str]]:
    if section.verdict is None:
        yield "all attacks", "there was no audit"
        yield from _cut(section)
        return
    reasons: dict[str, list[str]] = {}
    for kind in tested:
        if kind.result == NOT_TESTED:
            reasons.setdefault("no test of this kind was made", []).append(kind.name)
    for entry in section.not_run:
        name, reason = str(entry["name"]).replace("_", " "), str(entry["reason"])
        reasons.setdefault(NOT_ASKED_FOR if reason.startswith(NOT_ASKED_FOR) else reason, []).append(name)
    yield from _cut(section)
    for reason, names in reasons.items():
        yield ", ".join(names), reason


def _cut(section: Section) -> Iterable[tuple[str, str]]:
    """What was asked for and not seen of the unlearned model: as the figure says it that leaves most open."""
    found = [
        figure
        for name, metric in section.metrics.items()
        if metric.get("forgotten") == "low" and (figure := section.figure(name)) is not None and left_open(figure)
    ]
    if found:
        most = max(found, key=_share_open)
        several = f" (so in the worst of {len(found)} figures)" if len(found) > 1 else ""
        yield CUT, f"{left_open(most)}{several}. Unseen is not forgotten."


def _share_open(figure: Mapping[str, Any]) -> float:
    """How much of a figure was not measured; all, where nobody counted."""
    of = figure.get("of", figure["n"])
    return figure["unmeasured"] / of if figure["unmeasured"] and of else 1.0


NOT_TESTED, NOT_ASKED_FOR = "not tested", "not asked for"


def _kind(section: Section, name: str, question: str) -> Kind:
    names = [
        metric
        for metric, entry in section.metrics.items()
        if entry.get("risk") == name and "audited" in entry["figures"]
    ]
    gates = [gate for gate in section.gates if gate["name"] in names and gate["state"] != "not measured"]
    if not names:
        return Kind(name, question, STATES["not measured"][0], NOT_TESTED, "–")
    if not gates:
        return Kind(name, question, STATES["not measured"][0], f"{_counted(len(names), 'figure')}, no limit set", "–")
    for state in ("failed", "not established", "held"):
        if count := sum(gate["state"] == state for gate in gates):
            break
    sign, word = STATES[state]
    result = f"{word}: {count} of {_counted(len(gates), 'limit')}"
    return Kind(name, question, sign, result, _unseen(section, gates))


def _unseen(section: Section, gates: Sequence[Mapping[str, Any]]) -> str:
    """The most that the figures leave open: the largest upper end of what should be low, else the least lower end."""
    ends = [
        (end, section.metrics[gate["name"]].get("unit", "share"), gate["against"])
        for gate in gates
        if gate["kind"] == "max" and (end := number(gate["high"])) is not None
    ]
    if ends:
        end, unit, against = max(ends, key=lambda found: found[0])
        most = _with_unit(end, unit)
        return f"up to {points(most, POINTS)} more than the {against}" if against else f"up to {most}"
    lows = [
        (end, section.metrics[gate["name"]].get("unit", "share"))
        for gate in gates
        if gate["kind"] == "min" and (end := number(gate["low"])) is not None
    ]
    return f"down to {_with_unit(*min(lows))}" if lows else "–"


def _with_unit(value: float, unit: str) -> str:
    return written(value, unit) + ("" if is_share(unit) else f" {unit}")


def _limit(section: Section, gate: Mapping[str, Any]) -> Limit:
    metric = section.metrics.get(gate["name"], {})
    unit = str(metric.get("unit", "share"))
    sign, word = STATES[gate["state"]]
    most = f"at {'most' if gate['kind'] == 'max' else 'least'} {written(gate['limit'], unit)}"
    value, ends = written(gate["value"], unit), interval(gate, unit)
    if against := gate["against"]:  # the figure is a difference: "0 %" would be taken for what the model says
        most = f"{points(most, POINTS)} more than the {against}"
        value, ends = f"{points(value)} more", points(ends)
    measured = gate["state"] != "not measured"
    return Limit(
        gate["name"],
        _titled(section, gate),
        most + ("" if gate["default"] else " (set for this audit)"),
        value if measured else NOT_MEASURED,
        ends if measured else "",
        str(gate["n"]) if measured else "",
        sign,
        word,
    )


def _figures(section: Section) -> dict[str, list[tuple[str, DotRow]]]:
    """Every figure, by what it is evidence of."""
    found: dict[str, list[tuple[str, DotRow]]] = {}
    for risk in (*OPINION, *WEIGHTS, *USE, ""):
        for name, metric in section.metrics.items():
            if metric.get("risk", "") == risk:
                found.setdefault(risk or "other figures", []).append((name, dot_row(section, name)))
    return found


# The request, and how the report was made


def _request(form: RequestForm) -> dict[str, Any]:
    fields = [
        (field.name, str(field.metadata["label"]), getattr(form, field.name))
        for field in dataclasses.fields(form)
        if field.name != "copies"
    ]
    stated = {name: (label, value or NOT_STATED) for name, label, value in fields}
    copies = [tuple(part or NOT_STATED for part in dataclasses.astuple(copy)) for copy in form.copies]
    return {"fields": stated, "copies": copies, "due": _due(form.received), "not_stated": NOT_STATED}


def _for_one(form: RequestForm) -> RequestForm:
    """What of a request about several people is shown to one of them: its number, and what is a date and no more."""
    kept = {"id", "received"}
    said: dict[str, Any] = {
        field.name: LEFT_OUT
        for field in dataclasses.fields(form)
        if field.name not in kept and (value := getattr(form, field.name)) and not _is_date(value)
    }
    return dataclasses.replace(form, **{**said, "copies": ()})


def _is_date(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value) is not None


def _due(received: str) -> str | None:
    """A month after the request, as article 12(3) counts it: the same day of the next month, or its last day."""
    try:
        day = datetime.date.fromisoformat(received)
    except ValueError:
        return None
    year, month = (day.year + 1, 1) if day.month == 12 else (day.year, day.month + 1)
    for last in range(day.day, 27, -1) if day.day > 27 else [day.day]:
        try:
            return datetime.date(year, month, last).isoformat()
        except ValueError:
            continue
    return None


def _made(audit: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Which models were compared, when, and with what; nothing of where they lie."""
    models = [
        (
            ROLES[role],
            str(model.get("dtype", "served elsewhere")),
            str(model.get("weights") or model.get("fingerprint") or "–"),
        )
        for role in ROLES
        if isinstance(model := audit.get("models", {}).get(role), Mapping)
    ]
    versions = audit.get("versions") or run.manifest.get("versions", {})
    settings = run.manifest.get("settings", {})
    chosen_settings = {
        name: in_words(specs(Settings)[name], settings[name])
        for name in ("method", "alpha", "epochs", "stop", "replay", "lora")
        if name in settings
    }
    return {
        "date": str(audit.get("created", ""))[:10],
        "models": models,
        "control": "control" in audit.get("models", {}),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "settings": ", ".join(f"{name} {value}" for name, value in chosen_settings.items()),
        "seed": audit.get("settings", {}).get("seed"),
    }


def _fixed(audit: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Whether the questions and limits stood before the run, as far as the fingerprints in the manifest tell."""
    found = audit.get("fixed", {})
    noted = {} if audit else manifest.get("fixed")
    noted = noted if isinstance(noted, Mapping) else {}
    said = {
        True: "yes: they were noted before the training and are the same, so nobody chose them by what came out",
        None: "not known: no run of rkld noted them beforehand, or what it noted was purged",
        False: "no: others were noted before the training, so these may have been chosen by what came out",
    }
    when = f" ({str(found['at'])[:10]})" if isinstance(found.get("at"), str) else ""
    rows = []
    for name in ("questions", "gates"):
        same = found.get(name)
        label = "Questions" if name == "questions" else "Limits"
        known = same if isinstance(same, bool) else None
        answer = said[known] + (when if known is not None else "")
        if noted.get(name):
            answer = (
                f"noted before the training ({str(noted.get('at'))[:10]}): an audit says whether its own are the same"
            )
        rows.append((f"{label} fixed before the run", answer))
    return rows


def _warnings(run: Run) -> list[str]:
    return [without_files(str(one), run.manifest.get("settings", {})) for one in run.manifest.get("warnings", ())]


def _notes(audit: Mapping[str, Any], run: Run) -> list[str]:
    """What must be known of the records and of the run."""
    left = audit.get("inputs", {}).get("left_out", ())
    steered = [f"{len(left)} records decided how far the run went, and are left out of the figures."] if left else []
    if not audit and (n := run.manifest.get("phases", {}).get("stop", {}).get("steering", {}).get("n")):
        steered = [f"{n} records decided how far the run went, so of them the figures are no evidence; an audit leaves "
                   "them out."]  # fmt: skip
    membership = (audit.get("membership") or {}).get("note") or ""
    changed = [f"{METRICS} is not as the run wrote it, so the way to the stop is not drawn."] if run.changed else []
    bare = [f"{AUDIT} holds no checksum, so whether it is as rkld wrote it is unknown."] if run.bare else []
    return [
        *filter(None, [run.apart]),
        *bare,
        *steered,
        *changed,
        *audit.get("inputs", {}).get("notes", ()),
        *filter(None, [membership]),
    ]


def command_line(*words: str) -> str:
    """The words as they are typed."""
    return shlex.join(words)
