"""The record: turns, whom it is about, and which parts are personal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

SYSTEM_ROLES = ("system", "developer")
"""Roles of turns that say how to answer, and are no part of the conversation."""

ANSWER_ROLES = ("assistant", "completion", "text")
"""Roles of what a model generates."""


@dataclass(frozen=True)
class Turn:
    """One turn of a record."""

    role: str
    """Of a chat: ``system``, ``user``, ``assistant``, …; else ``prompt``, ``completion``, ``text``."""
    content: str


@dataclass(frozen=True)
class Record:
    """One checked record; every span occurs in one of its turns."""

    key: str
    """Unique and stable within its set: the position in the source, from "0"."""
    form: str
    """``chat`` (rendered with the chat template), ``completion`` (plain strings, no template) or ``text``."""
    turns: tuple[Turn, ...]
    subject: str | None = None
    aliases: tuple[str, ...] = ()
    spans: tuple[str, ...] = ()
    """The personal parts, letter by letter as they stand in the record."""
    where: str = ""
    """For messages, such as "people.jsonl line 4"."""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """All other fields, such as ``paraphrased_answer`` and ``perturbed_answer``."""
    unanswered: bool = False
    """True for a prompt (``read_prompts``): the model is to answer its last turn."""

    @property
    def question(self) -> str:
        """The last turn before the answer that is neither an answer itself nor the system's; "" where there is none."""
        index = self._question_index()
        return "" if index is None else self.turns[index].content

    @property
    def answer(self) -> str:
        """The last assistant turn, the completion or the text; "" for a prompt."""
        index = self._answer_index()
        return "" if index is None else self.turns[index].content

    def with_answer(self, text: str) -> Record:
        """The same record with another last answer, a prompt with one. Spans no longer there are dropped."""
        index = self._answer_index()
        if index is None:
            role = "completion" if self.form == "completion" else "assistant"
            return replace(self, turns=(*self.turns, Turn(role, text)), unanswered=False)
        return self._with_turn(index, text)

    def with_question(self, text: str) -> Record:
        """The same record with another last question. Spans no longer there are dropped."""
        index = self._question_index()
        if index is None:
            raise ValueError(f"a record of form '{self.form}' without a question cannot get another one")
        return self._with_turn(index, text)

    def with_spans(self, spans: Iterable[str]) -> Record:
        """The same record with other personal parts, of those that occur in it."""
        return replace(self, spans=tuple(dict.fromkeys(occurring(spans, self.turns))))

    def as_prompt(self, key: str) -> Record:
        """The record up to what its last answers reply to, as a prompt of its own; spans go with the answer."""
        turns = self.turns[: self._answer_index()]
        while turns and turns[-1].role in ANSWER_ROLES:
            turns = turns[:-1]
        if not turns:
            raise ValueError(f"a record of form '{self.form}' without a question makes no prompt")
        return replace(self, key=key, turns=turns, spans=(), unanswered=True)

    def map_text(self, function: Callable[[str], str]) -> Record:
        """``function`` applied to every turn and every span. Spans no longer there are dropped."""
        turns = tuple(Turn(turn.role, function(turn.content)) for turn in self.turns)
        return replace(self, turns=turns, spans=occurring(map(function, self.spans), turns))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``from_dict`` makes the record again."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        """The record that ``to_dict`` wrote, also after a journey through JSON."""
        turns = tuple(Turn(**turn) for turn in values["turns"])
        tuples = {name: tuple(values[name]) for name in ("aliases", "spans")}
        return cls(**{**values, "turns": turns, **tuples})

    def _answer_index(self) -> int | None:
        if self.unanswered:
            return None
        return max((i for i, turn in enumerate(self.turns) if turn.role in ANSWER_ROLES), default=None)

    def _question_index(self) -> int | None:
        before = self.turns[: self._answer_index()]
        others = (*ANSWER_ROLES, *SYSTEM_ROLES)
        return max((i for i, turn in enumerate(before) if turn.role not in others), default=None)

    def _with_turn(self, index: int, text: str) -> Record:
        turns = (*self.turns[:index], Turn(self.turns[index].role, text), *self.turns[index + 1 :])
        return replace(self, turns=turns, spans=occurring(self.spans, turns))


def occurring(spans: Iterable[str], turns: Sequence[Turn]) -> tuple[str, ...]:
    return tuple(span for span in spans if any(span in turn.content for turn in turns))
