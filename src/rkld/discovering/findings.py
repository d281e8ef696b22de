"""What was found, in three labels, with intervals; and as records to forget.

No label says whether a value is true: a false statement about an identifiable person is personal data too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rkld.evaluation.statistics import clopper_pearson

ASSOCIATED = "associated above chance"
COMMON = "common to similar names"
SAID = "said, not told apart"
"""From what is made up for other names."""
NOT_FOUND = "not found"
NOT_TESTED = "said, not tested"
"""Another value of the topic is likelier, or was said more often."""

RARE = "less than 2 % probable in every wording"
"""Of a value that was said all the same, and is not asked about (:data:`rkld.discovering.testing.RARELY`)."""

COMMONLY = 0.05
"""Share of similar names, at least, for which the model finds a value that is called common as probable."""


@dataclass(frozen=True)
class Share:
    """So many of so many, with the exact 95 % interval."""

    count: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper–Pearson; all there is where nothing was counted."""
        return clopper_pearson(self.count, self.of) if self.of else (0.0, 1.0)

    def row(self) -> dict[str, Any]:
        """Plain values."""
        return {"count": self.count, "of": self.of, "interval": [round(end, 4) for end in self.interval]}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.count} of {self.of} [{low:.2f}, {high:.2f}]"


@dataclass(frozen=True)
class Recognition:
    """Of how many similar names a model says what it says as surely as of the person."""

    as_sure: Share
    known: bool
    """Whether what it says of the person may be told from what it makes up for anybody."""


@dataclass(frozen=True)
class Finding:
    """One value that the model says of the person, or that a document does. Holds personal data."""

    topic: str
    value: str
    label: str
    """:data:`ASSOCIATED`, :data:`COMMON`, :data:`SAID`, or of what no answer said :data:`NOT_FOUND`; of what was said,
    and compared with nothing, :data:`NOT_TESTED`."""
    question: str
    answer: str
    """Holds the value, letter by letter."""
    identifier: str
    """By which it was asked for."""
    p: float
    score: float
    """s(v), in nats (:mod:`rkld.discovering.testing`)."""
    forms: int
    """K: wordings in which it was tested."""
    strong: Share
    """Of the similar names those that are as strong."""
    likely: Share
    """Of the similar names those for which this very value is as probable."""
    said: Share
    """Of the answers about the topic those that say it."""
    from_document: bool = False

    @property
    def beside_names(self) -> str:
        """How many similar names are as strong, with p; or why none were asked."""
        if self.label == NOT_TESTED:
            return "not tested: another value of the topic is likelier or said more often"
        if not self.strong.of:
            known_little = "the model does not know the name" if self.likely.of else RARE
            return f"not asked of names: {known_little}"
        return f"{self.strong}, p = {self.p:.3f}"

    def evidence(self) -> dict[str, Any]:
        """What a record holds beside its question and answer, for a person to judge it by."""
        if self.label == NOT_TESTED:
            about = {"label": self.label, "topic": self.topic, "asked_by": self.identifier}
            return {**about, "said": self.said.row(), "from_document": self.from_document}
        return {
            "label": self.label,
            "topic": self.topic,
            "asked_by": self.identifier,
            "p": round(self.p, 6),
            "s": round(self.score, 3),
            "wordings": self.forms,
            "as_strong": self.strong.row(),
            "as_likely": self.likely.row(),
            "said": self.said.row(),
            "from_document": self.from_document,
        }


@dataclass(frozen=True)
class Discovery:
    """Everything a model was found to associate with a person. Holds personal data."""

    subject: str
    aliases: tuple[str, ...]
    findings: tuple[Finding, ...]
    """The strongest first; those that are not found as well, where the model said something."""
    asked: Mapping[str, int]
    """Topic → N: answers that were asked for about it."""
    tested: int
    """Values that were tested, in all: none of an identifier that the model does not know, but of documents."""
    names: int
    """M: similar names that a value was tested against at most."""
    rate: float
    spoken: Mapping[str, int] = field(default_factory=dict)
    """Topic → how many of these answers said anything: are neither empty nor a refusal."""
    recognised: Mapping[str, Recognition] = field(default_factory=dict)
    """Identifier → whether the model knows it at all."""
    also_said: tuple[Finding, ...] = ()
    """What answers said less often or less surely than another value of the topic, so that it was not tested."""
    untested: int = 0
    """Values that were not: such ones, by each identifier, and those of a name that the model does not know."""
    faster_in_bf16: bool = False
    """Whether training the model on this machine takes half as long with ``--bf16``."""

    def labelled(self, label: str) -> list[Finding]:
        """The findings of one label."""
        return [finding for finding in self.findings if finding.label == label]

    @property
    def reviewed(self) -> tuple[Finding, ...]:
        """All that a person is shown: nothing that the model says is dropped because it may be made up."""
        return (*self.findings, *self.also_said)

    @property
    def not_found(self) -> dict[str, int]:
        """Topic → N, of those about which nothing was found, and nothing at all was said: the limit speaks of these."""
        found = {finding.topic for finding in self.findings if finding.label in (ASSOCIATED, COMMON)}
        return {topic: n for topic, n in self.asked.items() if topic not in found.union(self.undecided)}

    @property
    def undecided(self) -> list[str]:
        """Topics about which something was said, and nothing found: neither associated nor common, or no value that
        could be read from the answers and tested."""
        decided = {finding.topic for finding in self.findings if finding.label in (ASSOCIATED, COMMON)}
        said = [finding.topic for finding in self.findings if finding.label == SAID]
        said += [topic for topic, n in self.spoken.items() if n]
        return [topic for topic in dict.fromkeys(said) if topic not in decided]

    @property
    def questions(self) -> int:
        """N over all topics."""
        return sum(self.asked.values())

    def limit(self) -> str:
        """The sentence for a person about whom nothing was found."""
        n, spoken = self.questions, sum(self.spoken.values())
        found = (
            f"nothing found, limit {limit_of(n)}: 3/N at N = {n} answers, none found to say what is this name's alone"
        )
        if not spoken:
            return f"{found}."
        return f"{found}. {spoken} of them say something, which this test cannot tell from what is made up for anybody."

    def records(self) -> list[dict[str, Any]]:
        """What is associated above chance, in the form that ``rkld unlearn --forget`` reads."""
        return [self.record(finding) for finding in self.labelled(ASSOCIATED)]

    def record(self, finding: Finding) -> dict[str, Any]:
        """One finding in that form."""
        return as_record(
            self.subject, self.aliases, finding.question, finding.answer, finding.value, finding.evidence()
        )

    def described(self) -> list[str]:
        """What must be known of the figures. No personal data."""
        named = enumerate((self.subject, *self.aliases))
        lines = [_of_the_name(number, self.recognised[one]) for number, one in named if one in self.recognised]
        if self.tested:
            lines.append(
                f"{self.tested} values, each against up to {self.names} similar names; of those that are called "
                f"associated about {self.rate:.0%} are to be expected to be so by chance."
            )
        if self.untested:
            lines.append(
                f"{self.untested} values were not tested: others of their topic are likelier, or the name is not known."
            )
        return lines


def _of_the_name(number: int, one: Recognition) -> str:
    which = f"alias {number}" if number else "the subject"
    beside = f"of the similar names, of nobody, {one.as_sure} get answers as sure"
    if one.known:
        return f"The model seems to know {which}: {beside}."
    return f"The model does not know {which} from other names: {beside}. Nothing is told from what it makes up."


def as_record(
    subject: str, aliases: Sequence[str], question: str, answer: str, value: str, evidence: Mapping[str, Any]
) -> dict[str, Any]:
    """A record to forget."""
    about = {"subject": subject, "aliases": list(aliases), "spans": [value]}
    return {"question": question, "answer": answer, **about, "evidence": dict(evidence)}


def limit_of(n: int) -> str:
    """The rule of three: what was not said in n answers is said in no more of them than this, with 95 % confidence."""
    return f"{min(1.0, 3 / n):.3g}" if n else "1"
