"""What a reading and an attack are: what they read of a model, what they need, and the metrics computed from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rkld.errors import UserError
from rkld.evaluation.answering import was_cut
from rkld.evaluation.metric import Metric, RecordMetric, Risk
from rkld.evaluation.prefilling import generation_prompts
from rkld.evaluation.readings import Rows, answer_rows, facts_in, gold_answer
from rkld.evaluation.registry import METRICS
from rkld.pipeline.preparing import encode_all
from rkld.text.matching import Matcher

if TYPE_CHECKING:
    from rkld.auditing.inputs import Task
    from rkld.evaluation.backends import GenerationBackend
    from rkld.evaluation.generation import Generated
    from rkld.models.language_model import LanguageModel
    from rkld.progress import NoProgress
    from rkld.records.encoding import Encoder
    from rkld.records.record import Record

SAID = ("facts_said", "facts_in_part")
"""The two figures of what an answer says: whole facts, and the words of each."""

GENERATION = ("max_new_tokens",)
"""Settings that every generated answer depends on."""


@dataclass(frozen=True)
class Reader:
    """One model to be read: by its weights, or as a server answers for it (``lm`` is None then).

    Attributes:
        beside: opens another model of the audit, by its role, for attacks that name it in :attr:`Attack.beside`.
    """

    role: str
    backend: GenerationBackend
    encoder: Encoder | None
    lm: LanguageModel | None
    task: Task
    progress: NoProgress
    beside: Callable[[str], LanguageModel] | None = None

    def loaded(self) -> tuple[LanguageModel, Encoder]:
        """The model and its encoder, for readings that need the weights: others never come here."""
        if self.lm is None or self.encoder is None:
            raise ValueError("the model is served elsewhere, so its weights cannot be read")
        return self.lm, self.encoder

    def other(self, role: str) -> LanguageModel:
        """Another model of the audit; this one where it has that role.

        Raises:
            UserError: it cannot be loaded, or has other logits than this one.
        """
        lm, _ = self.loaded()
        if role == self.role:
            return lm
        if self.beside is None:
            raise ValueError("no other model can be opened here")
        found = self.beside(role)
        if found.vocab_rows != lm.vocab_rows:
            raise UserError(
                f"the {role} has {found.vocab_rows} rows of logits and this model {lm.vocab_rows}: no pair to combine"
            )
        return found

    def answers(self, title: str, records: Sequence[Record], prefills: Sequence[str] | None = None) -> Rows:
        """Greedy answers as :func:`rkld.evaluation.readings.answer_rows` has them, with the task's facts."""
        with self.progress.bar(f"{self.role}: {title}", len(records)) as advance:
            generated = self.backend.answers(
                records, max_new_tokens=self.task.settings.max_new_tokens, prefills=prefills, progress=advance
            )
        rows = answer_rows(records, generated, self.task.facts, self.encoder)
        if self.task.of_others:
            for record, said in zip(records, generated, strict=True):
                rows[record.key]["borrowed"] = borrows(self.task.of_others, record, said)
        return rows

    def continuations(self, title: str, prompts: Sequence[Sequence[int]], caps: Sequence[int]) -> list[str]:
        """What the model says behind each prompt (token ids), at most so many new tokens."""
        with self.progress.bar(f"{self.role}: {title}", len(prompts)) as advance:
            return [said.text for said in self.backend.continuations(prompts, caps, progress=advance)]

    def facts(self, record: Record) -> list[str]:
        """What its answer must not say; of a text, what stands behind its prefix."""
        return facts_in(self.task.facts.get(record.key, ()), gold_answer(record, self.encoder))


def borrows(of_others: Sequence[str], record: Record, answers: Sequence[Generated]) -> bool | None:
    """Whether one of the answers to a record states what is recorded of somebody else; None where one was cut first.

    What the question says is not borrowed.
    """
    others = Matcher.of(of_others)
    given = others.said(record.before) if record.form != "text" else frozenset()
    if any(others.said(answer.text) - given for answer in answers):
        return True
    return None if any(was_cut(record, answer) for answer in answers) else False


class Reading(ABC):
    """One way of querying a model; its output is computed once and stored.

    Attributes:
        name: of its file, and in the list of what was not run.
        title: what it is, in one line.
        weights: it needs the model itself, not just its answers.
        wording: it asks for the facts in a kind of wording, so that its facts_said is one of those that are judged
            together (:mod:`rkld.auditing.kinds`).
        settings: what it depends on beside model, template and records: one made with others is made anew, one made
            with the same is not. Of a reading of answers at least :data:`GENERATION`.
        prefix: what its metrics' names begin with; by default its name.
        words: what is added to their titles.
        metric_names: metrics of :data:`rkld.evaluation.registry.METRICS` that are computed of its rows, under names of
            their own (prefix_metric). Those registered for a reading of this name need not be listed.
        risk: what its figures are evidence of.
        version: of what makes it, where that can change without its name: a hash of the user's file.
    """

    title: ClassVar[str] = ""
    weights: ClassVar[bool] = True
    wording: ClassVar[bool] = False
    settings: ClassVar[tuple[str, ...]] = ()
    prefix: ClassVar[str] = ""
    words: ClassVar[str] = ""
    metric_names: ClassVar[tuple[str, ...]] = ()
    risk: ClassVar[Risk] = ""

    def __init__(self, name: str, version: str = "") -> None:
        self.name, self.version = name, version

    def missing(self, task: Task) -> str | None:
        """A sentence that says what it needs and this task lacks, or None."""
        return None

    def not_run(self, task: Task, served: bool) -> str | None:
        """Why it is not made of this model, or None."""
        if served and self.weights:
            return "needs the model's weights, not only its answers"
        return self.missing(task)

    def why_not_applicable(self, lm: LanguageModel) -> str | None:
        """Why it cannot be made of this loaded model, known without asking it; None where it can."""
        return None

    def encode(self, task: Task, encoder: Encoder) -> None:  # noqa: B027 - some ask nothing beside the records
        """Encode all that :meth:`read` will ask, before the model answers anything.

        Raises:
            UserError: of the encoder, naming the record: the audit is refused.
        """

    @abstractmethod
    def read(self, reader: Reader) -> Mapping[str, Any]:
        """Ask the model. Plain values, rows by the key of their record; {} where nothing applies."""

    def metrics(self) -> list[Metric]:
        """The metrics that are made of it, beside those registered for it."""
        return [self.metric(name) for name in self.metric_names]

    def metric(self, name: str, prefix: str = "", words: str = "", part: str = "") -> RecordMetric:
        """The registered metric of this name, of this reading's rows (:meth:`RecordMetric.on`)."""
        try:
            found = METRICS.get(name)
        except UserError as error:
            raise UserError(f"metric_names of {self.name}, a tuple of names: {error}") from None
        if not isinstance(found, RecordMetric):
            raise UserError(f"metric_names of {self.name} holds '{name}', which is no mean over records.")
        prefix = prefix or self.prefix or self.name
        return found.on(prefix, words or self.words, reading=self.name, part=part)


class Attack(Reading):
    """A reading that is made only where it is asked for with ``--attacks``.

    Attributes:
        standard: it belongs to the standard set: those that ask only, and cost little.
        judged: where it was run, its facts_said has a default gate.
        beside: roles of other models of the audit that it opens, such as "original".
        needs: what it needs beside the forget records, in a few words. docs/reference/attacks.md shows it, and the
            next two.
        cost: what it takes for each model.
        source: the paper.
    """

    standard: ClassVar[bool] = False
    judged: ClassVar[bool] = False
    beside: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[str] = ""
    cost: ClassVar[str] = ""
    source: ClassVar[str] = ""

    def not_run(self, task: Task, served: bool) -> str | None:
        """See :meth:`Reading.not_run`; also where a model that it opens was not given."""
        lacking = [f"--{role}" for role in self.beside if not getattr(task.settings, role)]
        return super().not_run(task, served) or (f"needs {', '.join(lacking)}" if lacking else None)


def encode_asked(encoder: Encoder, records: Sequence[Record], prefills: Sequence[str] | None = None) -> None:
    """Encode records whose answers are scored, and the prompts from which these are generated (with ``prefills``).

    Raises:
        UserError: at the first that cannot be encoded.
    """
    encode_all(encoder, [record for record in records if record.answer])
    if prefills is not None:
        generation_prompts(encoder, records, prefills)
    for record in records if prefills is None else ():
        encoder.prompts(record)


def no_facts(task: Task) -> str | None:
    """Why nothing can be looked for in answers, or None."""
    if any(task.facts[record.key] for record in task.asked):
        return None
    return "no forget record holds a fact to look for"
