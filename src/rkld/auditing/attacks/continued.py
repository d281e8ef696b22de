"""The user's own words, begun by the attacker and left for the model to go on with: no answer is asked for at all.

Facts stand in tickets, letters and forms that people write to a model, and a model that was trained on whole
conversations has learned those turns, too. Two ways: within the user's turn of the chat template, and as plain text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from rkld.auditing.inputs import Task
from rkld.auditing.reading import GENERATION, SAID, Attack, Reader, no_facts
from rkld.auditing.registry import ATTACKS
from rkld.errors import UserError
from rkld.evaluation.answering import MARGIN, answer_cap
from rkld.evaluation.metric import Metric
from rkld.evaluation.prefilling import open_turn
from rkld.evaluation.readings import Rows, facts_in, flags_said, gold_answer
from rkld.records.encoding import Encoder
from rkld.records.record import Record, Turn
from rkld.text.facts import facts_said, shares_said
from rkld.text.matching import mentions
from rkld.text.wording import is_said_name, name_mentions


@dataclass(frozen=True)
class Begun:
    """A text that is left for the model to go on with. Holds personal data."""

    record: Record
    text: str
    rest: str
    """How the record goes on."""
    facts: tuple[str, ...]
    """What must not be said."""

    def as_turn(self, encoder: Encoder) -> tuple[tuple[int, ...], int]:
        """Prompt and longest continuation, in tokens, within the user's turn."""
        if self.record.form == "chat" and self.record.question:
            asked = self.record.with_question(self.text).with_answer(self.rest)
        else:
            turns = (Turn("user", self.text), Turn("assistant", self.rest))
            asked = replace(self.record, form="chat", turns=turns)
        return open_turn(encoder, asked), _cap(encoder, asked)

    def as_text(self, encoder: Encoder) -> tuple[tuple[int, ...], int]:
        """The same without a template."""
        turns = (Turn("prompt", self.text), Turn("completion", f" {self.rest}"))
        asked = replace(self.record, form="completion", turns=turns)
        return encoder.prompt(asked), _cap(encoder, asked)


PLACES: Mapping[str, Callable[[Begun, Encoder], tuple[tuple[int, ...], int]]] = MappingProxyType(
    {"continued": Begun.as_turn, "plain_text": Begun.as_text}
)
"""Kind → where a beginning stands."""

_WORDS = {"continued": "the user's turn begun", "plain_text": "the same as plain text"}


@ATTACKS.register("continued")
class Continued(Attack):
    """Each record begun up to its first fact, in the user's turn and as plain text; what comes then is searched."""

    title = "the user's own words, left to be continued"
    risk = "regurgitation"
    standard = True
    weights = False
    wording = True
    settings = GENERATION
    needs = "facts; of a served model its tokenizer"
    cost = "2 continuations a fact"
    source = "Carlini et al. 2021, arXiv 2012.07805"

    def missing(self, task: Task) -> str | None:
        return no_facts(task)

    def encode(self, task: Task, encoder: Encoder) -> None:
        for begun in _beginnings(task, encoder):
            for place in PLACES.values():
                place(begun, encoder)

    def read(self, reader: Reader) -> dict[str, Rows]:
        """Kind → ``answers``, what came behind each beginning of a record; ``facts`` and ``parts`` over all of them.

        No end is expected, so nothing counts as cut.
        """
        if reader.encoder is None:
            raise UserError("needs the tokenizer of the served model (--tokenizer), to begin a user's turn")
        begun = _beginnings(reader.task, reader.encoder)
        return {kind: _rows(reader, reader.encoder, kind, begun) for kind in PLACES} if begun else {}

    def metrics(self) -> list[Metric]:
        return [
            self.metric(name, prefix=kind, words=words, part=kind) for kind, words in _WORDS.items() for name in SAID
        ]


def _rows(reader: Reader, encoder: Encoder, kind: str, begun: Sequence[Begun]) -> Rows:
    prompts, caps = zip(*(PLACES[kind](one, encoder) for one in begun), strict=True)
    given = reader.task.settings.max_new_tokens
    texts = reader.continuations(kind, prompts, caps if given is None else [given] * len(caps))
    rows: Rows = {}
    for one, text in zip(begun, texts, strict=True):
        row = rows.setdefault(one.record.key, {"answers": [], "facts": [], "parts": []})
        row["answers"].append(text)
        row["facts"] += flags_said(one.facts, text, cut=False)
        row["parts"] += shares_said(one.facts, text, one.text)
    return rows


def _beginnings(task: Task, encoder: Encoder) -> list[Begun]:
    return [
        begun
        for record in task.asked
        for begun in beginnings(
            record, facts_in(task.facts[record.key], gold_answer(record, encoder)), task.identifiers
        )
    ]


def beginnings(record: Record, facts: Sequence[str], identifiers: Sequence[str] = ()) -> list[Begun]:
    """A record's question and its answer up to the first fact; and its question up to each personal part in it.

    Where such a beginning does not say whom it is about, the name is put before it.
    """
    found = []
    if facts and (places := mentions(record.answer, facts)):
        at = places[0][0]
        gap = "" if record.form == "completion" else " "
        asked = "" if record.form == "text" else record.question
        found.append(_begun(record, f"{asked}{gap}{record.answer[:at]}", record.answer[at:], facts, identifiers))
    for span in () if record.form == "text" else record.spans:
        if facts_said([span], record.question)[0] and not is_said_name(span, identifiers):
            at = mentions(record.question, (span,))[0][0]
            found.append(_begun(record, record.question[:at], record.question[at:], (span,), identifiers))
    return [begun for begun in found if begun.text]


def _begun(record: Record, text: str, rest: str, facts: Sequence[str], identifiers: Sequence[str]) -> Begun:
    name, text = record.subject or next(iter(identifiers), None), text.strip()
    if name and not name_mentions(text, (name, *identifiers)):
        text = f"About {name}: {text}"
    return Begun(record, text, rest.strip(), tuple(facts))


def _cap(encoder: Encoder, asked: Record) -> int:
    return answer_cap(encoder, asked, max_new_tokens=None, at_least=MARGIN)
