"""``rkld.discover``: is the name known, ask, propose, test, label."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

from transformers import PreTrainedTokenizerBase

from rkld.discovering.asking import Answer, Asker, Wording
from rkld.discovering.documents import topics_of_documents
from rkld.discovering.findings import (
    ASSOCIATED,
    COMMON,
    COMMONLY,
    NOT_FOUND,
    NOT_TESTED,
    SAID,
    Discovery,
    Finding,
    Recognition,
    Share,
)
from rkld.discovering.names import similar_names
from rkld.discovering.proposing import Hypotheses, propose, proposing, runs_on, texts_of
from rkld.discovering.questions import Topic, filled, names_whom, read_topics, shipped_topics
from rkld.discovering.recognising import REFERENCES, names_needed, recognise
from rkld.discovering.testing import FIRST, RARELY, Case, Tested, Trial, associated, run_trials, together
from rkld.errors import UserError
from rkld.models.loading import bf16_saves_time, computes_fast_in_bf16
from rkld.pipeline.preparing import Model, load_with_encoder
from rkld.progress import NoProgress
from rkld.progress import chosen as chosen_progress
from rkld.records.identity import identifiers as each_identifier
from rkld.records.refusals import refuses
from rkld.settings.discovering import DiscoverSettings
from rkld.settings.specification import make
from rkld.settings.typed import DiscoverKeywords
from rkld.text.facts import facts_said
from rkld.text.normalising import normal


def discover(
    model: Model | None = None,
    subject: str = "",
    *,
    processing_class: PreTrainedTokenizerBase | None = None,
    progress: NoProgress | bool | None = None,
    **settings: Unpack[DiscoverKeywords],
) -> Discovery:
    """Find what a model associates with a person more than with other names of the same form.

    Nothing is written: :meth:`~rkld.discovering.findings.Discovery.records` are what ``rkld unlearn --forget`` takes.

    Args:
        model: folder, hub name, alias, adapter folder, or a loaded model.
        subject: the person's full name.
        processing_class: the tokenizer, where ``model`` is an object.
        progress: True, or an object that shows what is going on (:class:`rkld.progress.ProgressBars`).
        settings: everything else, by the names of :class:`rkld.settings.discovering.DiscoverSettings`.

    Raises:
        UserError: no subject; questions or documents that cannot be read; a model that cannot be loaded.
    """
    given: dict[str, Any] = {**settings, "subject": subject}
    if isinstance(model, str):
        given["model"] = model
    chosen = make(given, "rkld.discover", DiscoverSettings)
    known = people(chosen)
    topics = topics_for(chosen, known)
    asked = model if model is not None else chosen.model
    if isinstance(asked, str) and chosen.dtype == "auto" and computes_fast_in_bf16():
        chosen = replace(chosen, dtype="bfloat16")
    lm, encoder = load_with_encoder(chosen, asked, processing_class)
    found = _Discovering(chosen, known, Asker(lm, encoder), chosen_progress(progress)).run(topics)
    return replace(found, faster_in_bf16=bf16_saves_time(lm.head.weight.shape[1]))


def people(settings: DiscoverSettings) -> tuple[str, ...]:
    """The identifiers of the person, the subject first.

    Raises:
        UserError: one is missing or blank.
    """
    for name, text in (("--subject", settings.subject), *(("--alias", alias) for alias in settings.alias)):
        if not any(map(str.isalnum, text)):
            raise UserError(f"{name} is blank or missing: give the person's full name with --subject 'Jane Doe'.")
    subject = settings.subject.strip()
    others = each_identifier((), [subject, *(alias.strip() for alias in settings.alias)])
    return (subject, *(one for one in others if normal(one) != normal(subject)))


def topics_for(settings: DiscoverSettings, known: Sequence[str]) -> list[Topic]:
    """What is asked: shipped questions or the user's own, and what the user's documents say."""
    asked = read_topics(settings.questions, known) if settings.questions else shipped_topics(settings.kind)
    return asked + (topics_of_documents(settings.source, known) if settings.source else [])


RECOGNISED = 0.25
"""Of the rate of false values, the rate of names that are taken for known ones."""


@dataclass
class _Discovering:
    """One discovery."""

    settings: DiscoverSettings
    known: tuple[str, ...]
    asker: Asker
    progress: NoProgress
    left: list[Finding] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    spoken: Counter[str] = field(default_factory=Counter)

    def run(self, topics: Sequence[Topic]) -> Discovery:
        rate = self.settings.rate
        told = REFERENCES + names_needed(rate * RECOGNISED)[1]
        others = {one: self._similar(one, told) for one in self.known}
        _check_names(others.values(), rate)
        asked = [*topics, *(shipped_topics(self.settings.kind) if self.settings.questions else ())]
        recognised = {one: self._recognised(asked, one, others[one]) for one in self.known}
        known, made_up = list[Hypotheses](), list[Hypotheses]()
        for identifier in self.known:
            # Of a name that is not known samples would only say more of what is made up.
            for one in self._proposals(topics, identifier, self.settings.samples * recognised[identifier].known):
                (known if one.topic.given or recognised[identifier].known else made_up).append(one)
        names = max(self.settings.names, math.ceil(len(known) / rate) - 1)
        for identifier in dict.fromkeys(one.identifier for one in known):
            # Those asked already come last: of them the model was less sure, or the person would not be known.
            before = dict.fromkeys(others[identifier])
            fresh = [one for one in self._similar(identifier, names + len(before)) if one not in before]
            others[identifier] = [*fresh, *before][:names]

        def trials(some: Sequence[Hypotheses]) -> list[Trial]:
            return [Trial(_case(one, others[one.identifier]), names, self.settings.names) for one in some]

        testing, compared = trials(known), trials(made_up)
        with self.progress.bar("values", len(testing) + len(compared)) as advance:
            together(self.asker, [trial.compare() for trial in compared])
            advance(len(compared))
            run_trials(self.asker, testing, rate, advance)
        proposed = [*known, *made_up]
        accepted = [*associated([trial.tested.p for trial in testing], rate), *(False for _ in compared)]
        findings = [
            _finding(one, trial.tested, flag)
            for one, trial, flag in zip(proposed, [*testing, *compared], accepted, strict=True)
        ]
        for one, finding in zip(proposed, findings, strict=True):
            self.left += [_untested(one.topic, one.identifier, value, one.answers)
                          for value in one.values if value != finding.value]  # fmt: skip
        most = max((len(others[one.identifier]) for one in known), default=0)
        return Discovery(self.known[0], self.known[1:], tuple(_each_once(findings)), dict(self.asked), len(testing),
                         most, rate, dict(self.spoken), recognised, _not_among(self.left, findings),
                         len(self.left) + len(made_up))  # fmt: skip

    def _similar(self, identifier: str, names: int) -> list[str]:
        return similar_names(self.asker.lm, identifier, self.known, names, self.settings.seed)

    def _recognised(self, topics: Sequence[Topic], identifier: str, others: Sequence[str]) -> Recognition:
        rate = self.settings.rate * RECOGNISED
        with self.progress.bar("similar names", min(len(others) - REFERENCES, names_needed(rate)[1])) as advance:
            return recognise(self.asker, topics, identifier, others, rate, advance)

    def _proposals(self, topics: Sequence[Topic], identifier: str, samples: int) -> list[Hypotheses]:
        questions = list(dict.fromkeys(question for topic in topics for question in topic.questions))
        texts = list(dict.fromkeys(text for topic in topics for text in texts_of(topic)[:1]))
        total = self.asker.expected(questions, texts, identifier, samples)
        with self.progress.bar("answers", total) as advance:
            said = self.asker.answers(questions, texts, identifier, samples, self.settings.seed, advance)
        by_wording: dict[Wording, list[Answer]] = {}
        for answer in self._whole(topics, said):
            by_wording.setdefault(answer.wording, []).append(answer)
        found: list[Hypotheses] = []
        for topic in topics:
            wordings = [Wording(question) for question in topic.questions]
            wordings += [Wording("", (text,)) for text in texts_of(topic)[:1]]
            own = [answer for wording in wordings for answer in by_wording[wording]]
            self.asked[topic.name] += len(own)
            self.spoken[topic.name] += sum(
                bool(answer.text.strip()) and not refuses(answer.text) for answer in own if answer.wording.question
            )
            of_topic, left = propose(topic, identifier, self.known, own)
            found += of_topic
            self.left += [_untested(topic, identifier, value, own) for value in left]
        return found

    def _whole(self, topics: Sequence[Topic], said: Sequence[Answer]) -> list[Answer]:
        """The answers, of which those go on that were cut within a value of their topic, or before any came."""
        asked = [{*topic.questions, *texts_of(topic)[:1]} for topic in topics]
        open_ended = [
            number
            for number, answer in enumerate(said)
            if answer.cut
            and any(
                (answer.wording.question or answer.wording.begins[0]) in some and runs_on(topic, answer, self.known)
                for topic, some in zip(topics, asked, strict=True)
            )
        ]
        if not open_ended:
            return list(said)
        longer = dict(zip(open_ended, self.asker.longer([said[number] for number in open_ended]), strict=True))
        return [longer.get(number, answer) for number, answer in enumerate(said)]


def _case(one: Hypotheses, others: Sequence[str]) -> Case:
    return Case(one.identifier, one.wordings, one.values, proposing(one), others, bool(one.topic.given))


def _check_names(found: Iterable[Sequence[str]], rate: float) -> None:
    # With fewer nothing could be found, were every value the person's alone.
    fewest = max(FIRST, math.ceil(1 / rate) - 1, names_needed(rate * RECOGNISED)[0] + REFERENCES)
    for names in found:
        if len(names) < fewest:
            raise UserError(
                f"only {len(names)} other names of the form of an identifier could be made, and at --rate {rate:g} at "
                f"least {fewest} are needed to tell anything: give the person's full name as --subject, no --alias "
                "of one or two letters or digits, or with signs that no name has, or a higher --rate."
            )


def _finding(one: Hypotheses, result: Tested, accepted: bool) -> Finding:
    topic, value = one.topic, result.value
    # What is improbable for everybody, as much of a document is, is as probable for others, too, and said of nobody.
    hardly = result.log_probability < RARELY
    common = result.compared > 0 and result.likely >= COMMONLY * result.compared and not hardly
    said = _said(value, one.answers)
    return Finding(
        topic.name,
        value,
        ASSOCIATED if accepted else COMMON if common else SAID if said.count else NOT_FOUND,
        filled(topic.questions[0], one.identifier),
        _sentence(one.wordings[0].begins, topic, one.identifier, value),
        one.identifier,
        result.p,
        result.score,
        len(one.wordings),
        Share(result.strong, result.names),
        Share(result.likely, result.compared),
        said,
        bool(topic.given),
    )


def _untested(topic: Topic, identifier: str, value: str, answers: Sequence[Answer]) -> Finding:
    """What was said, less often or less surely than another value of its topic: nothing is known but that."""
    question, answer = filled(topic.questions[0], identifier), _sentence((), topic, identifier, value)
    nothing = Share(0, 0)
    return Finding(topic.name, value, NOT_TESTED, question, answer, identifier, 1.0, 0.0, 0, nothing, nothing,
                   _said(value, answers))  # fmt: skip


def _said(value: str, answers: Sequence[Answer]) -> Share:
    return Share(sum(facts_said([value], answer.text)[0] for answer in answers), len(answers))


def _sentence(begins: Sequence[str], topic: Topic, identifier: str, value: str) -> str:
    """An answer that says the value, letter by letter."""
    begin = next((begin for begin in (*begins, *topic.begins) if names_whom(begin)), "About {name}:")
    answer = f"{filled(begin, identifier).strip()} {value}"
    return answer if answer[-1] in ".!?" else f"{answer}."


def _not_among(left: Sequence[Finding], findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Each value of a topic once, the most said first; none of those that were tested."""
    found = {(one.topic, normal(one.value)): one for one in findings}
    more: dict[tuple[str, str], Finding] = {}
    for one in sorted(left, key=lambda one: -one.said.count):
        if (key := (one.topic, normal(one.value))) not in found:
            more.setdefault(key, one)
    return tuple(more.values())


def _each_once(findings: Sequence[Finding]) -> list[Finding]:
    """The strongest first; of a value that was found in several ways about one topic the strongest."""
    order = [ASSOCIATED, COMMON, SAID, NOT_FOUND]
    found: dict[tuple[str, str], Finding] = {}
    for finding in sorted(findings, key=lambda one: (order.index(one.label), one.p, -one.score)):
        found.setdefault((finding.topic, normal(finding.value)), finding)
    return list(found.values())
