"""What an audit works on: records, the facts in them, paraphrased questions, and which person each is about."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import Any

from rkld.auditing.steering import SteeringRecords, find_steering_records
from rkld.auditing.trained_wordings import TrainedWordings, find_trained_wordings
from rkld.errors import UserError
from rkld.evaluation.metric import KEPT
from rkld.records.identity import (
    all_about_the_person,
    apart,
    check_disjoint,
    each_once,
    identifiers,
    naming,
    places,
)
from rkld.records.probes import Probe, as_probes, facts_of, make_probes, paraphrased_questions
from rkld.records.reading import read_records, read_subjects
from rkld.records.record import Record, by_answer
from rkld.settings.auditing import AuditSettings
from rkld.text.matching import Matcher, mentions
from rkld.text.normalising import normal, words
from rkld.text.wording import is_name

SERVED = SteeringRecords(notes=("the model is served, so whether records steered its stop is unknown",))


@dataclass(frozen=True)
class Task:
    """Records and the questions made from them. Holds personal data.

    Attributes:
        forget: the records that are audited, without those that steered.
        asked: the same, each answer of a conversation in its own context: what the model is asked.
        steering: which records steered the stop of the run that made the model, and what is unknown of it.
        holdout: never-trained records, without those that steered; maybe none.
        utility: the sets of :data:`rkld.evaluation.metric.KEPT` that were given.
        contrasted: records with wrong answers (and a paraphrased one): the forget records that have them, or probes.
        reworded: records whose question is a paraphrase that was not trained on: of the forget records, or probes.
        probed: whether the last two are probes that were made or given.
        facts: key of a record in any of these → what must not be said.
        of_others: what records of other people (retain, neighbours) mark as personal, and no forget record says.
        persons: key of a record about the forgotten → whose it is; None where it cannot be said.
        given: the forget records with those that steered.
        given_probes: whether probes were given, not made.
        notes: what a reader of the figures must know of the records.
    """

    settings: AuditSettings
    forget: list[Record]
    asked: list[Record]
    steering: SteeringRecords
    holdout: list[Record]
    utility: Mapping[str, list[Record]]
    identifiers: tuple[str, ...]
    contrasted: list[Record]
    reworded: list[Record]
    probed: bool
    facts: Mapping[str, tuple[str, ...]]
    persons: Mapping[str, Hashable]
    notes: tuple[str, ...] = ()
    of_others: tuple[str, ...] = ()
    given: Sequence[Record] = ()
    given_probes: bool = False

    def contents(self) -> dict[str, Any]:
        """Every set as plain values, to be hashed."""
        sets = {"forget": self.forget, "holdout": self.holdout, **self.utility}
        sets |= {"contrasted": self.contrasted, "reworded": self.reworded}
        return {name: [record.to_dict() for record in found] for name, found in sets.items() if found}

    def labels(self, keys: Sequence[str]) -> list[Hashable] | None:
        """Whose the records of these keys are; None, for independent records, where one is nobody's."""
        found = [self.persons.get(key) for key in keys]
        return None if None in found else found


def read_task(settings: AuditSettings, data: Mapping[str, Any]) -> Task:
    """Read and check everything; no model has been touched.

    Args:
        data: sets given as objects, by the names of their settings, in place of files.

    Raises:
        UserError: anything that is wrong with them.
    """

    notes: list[str] = []

    def read(name: str) -> list[Record]:
        """Each record once: of two that say the same the second is no more evidence."""
        source, title = (
            data.get(name) if data.get(name) is not None else getattr(settings, name),
            name.replace("_", " "),
        )
        records, repeated = each_once(read_records(source, title) if source else [])
        if repeated:
            notes.append(f"{len(repeated)} {title} records say the same as one before them and count once")
        return records

    forget, holdout = read("forget"), read("holdout")
    if not forget:
        raise UserError("forget: no records are given: there is nothing to audit.")
    utility = {name: found for name in KEPT if (found := read(name)[: settings.questions])}
    for name, others in utility.items():
        check_disjoint(forget, others, ("forget", name))
        check_disjoint(others, holdout, (name, "holdout"))  # what was trained on is no stranger
    check_disjoint(forget, holdout, ("forget", "holdout"))
    subjects = read_subjects(settings.subject)
    known = identifiers(forget, subjects)
    utility = {name: _of_others(records, name, known, notes) for name, records in utility.items()}
    holdout = _of_others(holdout, "holdout", known, notes)
    notes += naming(forget, subjects)
    # Of all records: the first so many of them may be others than those that the run was given first.
    steering = SERVED if settings.endpoint else find_steering_records(settings.model, forget, holdout)
    audited = [record for record in forget if record.key not in steering.left_out][: settings.questions]
    holdout = [record for record in holdout if record.key not in steering.holdout][: settings.questions]
    asked = by_answer(audited)
    people = people_of(known, ([record.subject, *record.aliases] for record in forget if record.subject))
    if unasked := len({person_of(one, people) for one in forget} - {person_of(one, people) for one in audited}):
        doubt = f"of {unasked} of the people nothing was asked: their records steered the stop, or --questions cut them"
        steering = replace(steering, doubts=(*steering.doubts, doubt))
    notes += _unclear_people(forget, people)
    persons = {record.key: person_of(record, people) for record in asked}
    facts = {record.key: facts_of(record, known) for record in asked}

    contrasted = [record for record in audited if record.extra.get("perturbed_answer")]
    trained = TrainedWordings() if settings.endpoint else find_trained_wordings(settings.model)
    reworded, seen = trained.apart(paraphrased_questions(audited), "paraphrased questions")
    notes += [*trained.notes, *seen, *trained.answers(audited)]
    probed = not (contrasted and reworded)
    if probed:
        others = [record for records in (*utility.values(), holdout) for record in records]
        probes = _probes(settings, data, audited, others, known)
        facts |= {probe.record.key: (probe.fact,) for probe in probes}
        persons |= {probe.record.key: person_of(probe.record, people) for probe in probes}
        found = [probe.record for probe in probes if probe.kind != "prefix"]
        contrasted = contrasted or _equally_many([record for record in found if record.extra.get("perturbed_answer")])
        if not reworded:
            reworded, seen = trained.apart(paraphrased_questions(found), "probes")
            notes += seen
    return Task(
        settings, audited, asked, steering, holdout, utility, known, contrasted, reworded, probed, facts, persons,
        (*steering.notes, *notes),
        facts_of_others([record for name in PEOPLE for record in utility.get(name, ())], forget),
        forget, _given_probes(settings, data) is not None,
    )  # fmt: skip


PEOPLE = ("retain", "neighbours")
"""Sets to keep that are about other people; the world's facts are nobody's."""


def facts_of_others(others: Sequence[Record], forget: Sequence[Record]) -> tuple[str, ...]:
    """The spans of the others' answers that stand nowhere in the forget records: not those they have in common."""
    found = tuple(dict.fromkeys(span for record in by_answer(others) for span in facts_of_spans(record)))
    said = Matcher(found).said("\n".join(turn.text for record in forget for turn in record.turns))
    return tuple(fact for number, fact in enumerate(found) if number not in said)


def facts_of_spans(record: Record) -> tuple[str, ...]:
    """The facts of a record that has spans; none of another, whose names and numbers may be nobody's."""
    return facts_of(record) if record.spans else ()


def _of_others(records: list[Record], name: str, known: Sequence[str], notes: list[str]) -> list[Record]:
    """Those that do not mention the person: what should have been kept, or was never seen, is about others."""
    about, others = apart(records, known)
    if about and not others:
        raise all_about_the_person(len(records), name)
    if about:
        notes.append(
            f"{len(about)} of {len(records)} {name.replace('_', ' ')} records mention the person and are left out; if "
            "others are meant by the name, give the person's full name with --subject"
        )
    return others


def people_of(names: Sequence[str], tied: Iterable[Sequence[str]] = ()) -> list[list[str]]:
    """Identifiers grouped by person, as far as they tell.

    Two that share a word ("Marie Curie", "Curie") are one's, and so are those that a record ties to each other. What is
    no name, such as a number, is the only person's, or nobody's.

    Args:
        tied: names of one person each: a record's subject with its aliases.
    """
    groups = [[name] for name in names]
    own = {name: words(name) for name in names}
    for word in dict.fromkeys(word for found in own.values() for word in found):
        groups = _joined(groups, {word}, own.__getitem__)
    for some in tied:
        groups = _joined(groups, set(map(normal, some)), lambda name: [normal(name)])
    groups = sorted((sorted(group, key=names.index) for group in groups), key=lambda group: names.index(group[0]))
    named = [group for group in groups if any(map(is_name, group))]
    others = [one for group in groups if group not in named for one in group]
    return [[*named[0], *others]] if len(named) == 1 else named or [others][: len(others)]


def _joined(groups: list[list[str]], wanted: set[str], of: Callable[[str], list[str]]) -> list[list[str]]:
    """Those as one that hold an identifier of which something is wanted."""
    same = [group for group in groups if any(wanted & set(of(name)) for name in group)]
    return [
        *(group for group in groups if group not in same),
        *([[one for group in same for one in group]] if same else []),
    ]


def person_of(record: Record, people: Sequence[Sequence[str]]) -> Hashable:
    """Whose a record is, as a name: its own word for it, or the only known person, or the only one it mentions.

    A subject is one person however it is spelled; "Zoe" and "Zoe O'Brien" may be two, and are where records say both.
    """
    if record.subject:
        own = normal(record.subject)
        return next((one for names in people for one in names if normal(one) == own), record.subject)
    if len(people) == 1:
        return people[0][0]
    named = [names[0] for names in people if any(mentions(turn.text, names) for turn in record.turns)]
    return named[0] if len(named) == 1 else None


def _unclear_people(records: Sequence[Record], people: Sequence[Sequence[str]]) -> Iterator[str]:
    """What is to be said where there is one verdict for people who might have one each, or the other way round."""
    unmarked = [record for record in records if not record.subject]
    unclear = [record for record in unmarked if person_of(record, people) is None]
    if len(people) > 1 and unclear:
        yield (
            f"of {len(unclear)} of {len(records)} forget records ({places(unclear)}) it cannot be said whose they are. "
            "If the names that were given are several people's, give each record its 'subject': without that there is "
            "one verdict for all"
        )
    if unmarked and any(_conflict(one, other) for names in people for one, other in combinations(names, 2)):
        yield (
            "names that share a word are taken for one person's; if they are several people's, give each record its "
            "'subject', and each of them has a verdict"
        )
    subjects = {person_of(record, people): set(words(record.subject)) for record in records if record.subject}
    if any(one < other for one, other in permutations(subjects.values(), 2)):
        yield (
            "of the names in the records' 'subject' one holds all words of another, and they count as two people: if "
            "they are one, give all records the same"
        )


def _conflict(one: str, other: str) -> bool:
    """Whether two names have a last name in common and first names that are not each other's initial."""
    pair = [words(name) for name in (one, other) if is_name(name)]
    if len(pair) < 2 or min(map(len, pair)) < 2 or pair[0][-1] != pair[1][-1]:
        return False
    first, second = (found[0] for found in pair)
    return first != second and not (min(len(first), len(second)) == 1 and first[0] == second[0])


def _given_probes(settings: AuditSettings, data: Mapping[str, Any]) -> Any:
    return data.get("probes") if data.get("probes") is not None else settings.probes


def _probes(
    settings: AuditSettings,
    data: Mapping[str, Any],
    forget: Sequence[Record],
    others: Sequence[Record],
    known: Sequence[str],
) -> list[Probe]:
    """Those given; else made from the records, none where these hold no fact."""
    source = _given_probes(settings, data)
    if source:
        given = as_probes(read_records(source, "probes"))
        return [
            dataclasses.replace(p, record=dataclasses.replace(p.record, key=f"probe {p.record.key}")) for p in given
        ]
    try:
        return make_probes(forget, others, known, settings.seed)
    except UserError:
        return []


def _equally_many(records: Sequence[Record]) -> list[Record]:
    """Those with as many wrong answers as most have: a truth ratio is over the same number everywhere."""
    counts = [len(record.extra["perturbed_answer"]) for record in records]
    most = max(set(counts), key=counts.count, default=0)
    return [record for record, n in zip(records, counts, strict=True) if n == most]
