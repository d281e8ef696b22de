"""The record: turns, whom it is about, and which parts are personal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

SYSTEM_ROLES = ("system", "developer")
"""Roles of turns that say how to answer, and are no part of the conversation."""

ANSWER_ROLES = ("assistant", "completion", "text")
"""Roles of what a model generates."""

TEMPLATE_ARGUMENTS = "chat_template_kwargs"
"""The field of a data set's row that holds variables of the chat template, as TRL names it."""

TEMPLATE_FIELDS = ("tools", "documents")
"""Fields beside messages that chat templates read."""

TOOL_ROLES = ("tool", "function", "environment", "ipython")
"""Roles of what tools return: neither a question nor an answer."""

REASONING = "reasoning_content"
"""The field of a turn that holds the thoughts before its content."""

TOOL_CALLS = "tool_calls"
"""The field of a turn that holds the tools it calls, with their arguments."""


REWORDINGS = "rewordings"
"""The field of a row that holds other wordings of its question and answer, to be forgotten with them."""

GIVEN = "given"
"""The kind of a rewording that the user gives."""


@dataclass(frozen=True)
class Turn:
    """One turn of a record."""

    role: str
    """Of a chat: ``system``, ``user``, ``assistant``, …; else ``prompt``, ``completion``, ``text``."""
    content: str
    """"" where a turn says all by other fields, such as tool calls."""
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What a chat's message holds beside: :data:`REASONING`, :data:`TOOL_CALLS`, ``name``, …; values of JSON."""

    @property
    def text(self) -> str:
        """All that it says, in lines, to be searched: thoughts, content, and every value of its other fields."""
        thoughts = self.fields.get(REASONING, "")
        others = (line for name, value in self.fields.items() if name != REASONING for line in _values(value))
        return "\n".join(filter(None, (thoughts, self.content, *others)))

    def message(self) -> dict[str, Any]:
        """As a row of a data set has it."""
        content = None if TOOL_CALLS in self.fields and not self.content else self.content
        return {"role": self.role, "content": content, **self.fields}

    def map_text(self, function: Callable[[str], str]) -> Turn:
        """``function`` applied to all that it says."""
        return Turn(self.role, function(self.content), _mapped(self.fields, function))


@dataclass(frozen=True)
class Rewording:
    """A record's question and answer in other words."""

    question: str
    """"" for running text, which nobody asks for."""
    answer: str
    kind: str = GIVEN
    """:data:`GIVEN`, "written" by a model, or of a rule (:mod:`rkld.records.rewording_rules`)."""


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
    template_variables: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What the chat template is given beside the turns, by its own names: ``tools``, ``enable_thinking``, …"""
    cut: bool = False
    """Whether the last answer was cut before its end: it is written without an end of turn."""
    rewordings: tuple[Rewording, ...] = ()
    """Other wordings of its last question and answer, to be forgotten with it."""
    source: str = ""
    """The key of the record that this one says in other words; "" for one that is as it was given."""
    kind: str = ""
    """In what kind of other words; "" as it was given."""

    @property
    def question(self) -> str:
        """The last turn before the answer that is no answer, system's or tool's; "" where there is none."""
        index = self._question_index()
        return "" if index is None else self.turns[index].content

    @property
    def before(self) -> str:
        """All that is said before the answer, in lines."""
        return "\n".join(turn.text for turn in self.turns[: self.answer_index])

    @property
    def answer(self) -> str:
        """All that the last assistant turn says; the completion or the text; "" for a prompt."""
        index = self.answer_index
        return "" if index is None else self.turns[index].text

    @property
    def answer_index(self) -> int | None:
        """The place of the last answer among the turns; None for a prompt."""
        if self.unanswered:
            return None
        return max((i for i, turn in enumerate(self.turns) if turn.role in ANSWER_ROLES), default=None)

    @property
    def answer_content(self) -> str:
        """The content alone of the last answer."""
        index = self.answer_index
        return "" if index is None else self.turns[index].content

    def with_answer(self, text: str, thoughts: str = "", *, cut: bool = False) -> Record:
        """The same record with another last answer, a prompt with one. Spans no longer there are dropped.

        Args:
            thoughts: of a model that thinks first, and whose chat template has a place for that.
            cut: the answer goes on where ``text`` ends.
        """
        index, fields = self.answer_index, {REASONING: thoughts} if thoughts else {}
        if index is None:
            turn = Turn("completion" if self.form == "completion" else "assistant", text, fields)
            return replace(self, turns=(*self.turns, turn), unanswered=False, cut=cut)
        return replace(self._with_turn(index, Turn(self.turns[index].role, text, fields)), cut=cut)

    def by_answer(self) -> tuple[Record, ...]:
        """A conversation cut behind each of its answers, the whole one last: each asks for its last answer in context.

        Other fields are about the last answer and stay with it. Records of other forms, and prompts, are one.
        """
        last = self.answer_index
        if self.form != "chat" or last is None:
            return (self,)
        earlier = [i for i in range(1, last) if self.turns[i].role in ANSWER_ROLES]
        cuts = [
            replace(self, key=f"{self.key} answer {n}", turns=self.turns[: i + 1], extra={}, cut=False, rewordings=())
            for n, i in enumerate(earlier, 1)
        ]
        return (*(cut.with_spans(cut.spans) for cut in cuts), self)

    def with_question(self, text: str) -> Record:
        """The same record with another last question. Spans no longer there are dropped."""
        index = self._question_index()
        if index is None:
            raise ValueError(f"a record of form '{self.form}' without a question cannot get another one")
        return self._with_turn(index, replace(self.turns[index], content=text))

    def with_spans(self, spans: Iterable[str]) -> Record:
        """The same record with other personal parts, of those that occur in it."""
        return replace(self, spans=tuple(dict.fromkeys(occurring(spans, self.turns))))

    def as_prompt(self, key: str) -> Record:
        """The record up to what its last answers reply to, as a prompt of its own; spans go with the answer."""
        turns = self.turns[: self.answer_index]
        while turns and turns[-1].role in ANSWER_ROLES:
            turns = turns[:-1]
        if not turns:
            raise ValueError(f"a record of form '{self.form}' without a question makes no prompt")
        return replace(self, key=key, turns=turns, spans=(), unanswered=True, cut=False, rewordings=())

    def map_text(self, function: Callable[[str], str]) -> Record:
        """``function`` applied to every turn and every span. Spans no longer there are dropped."""
        turns = tuple(turn.map_text(function) for turn in self.turns)
        return replace(self, turns=turns, spans=occurring(map(function, self.spans), turns))

    def row(self) -> dict[str, Any]:
        """As :func:`rkld.records.reading.read_records` takes it; a question and its answer alone under these names."""
        turns = [turn.message() for turn in self.turns]
        named: dict[str, Any] = {"messages": turns}
        if self.form != "chat":
            named = {turn["role"]: turn["content"] for turn in turns}
        elif [turn.role for turn in self.turns] == ["user", "assistant"] and not any(t.fields for t in self.turns):
            named = {"question": self.question, "answer": self.answer}
        about = {"subject": self.subject, "aliases": list(self.aliases), "spans": list(self.spans)}
        given = {TEMPLATE_ARGUMENTS: dict(self.template_variables)} if self.template_variables else {}
        reworded = {REWORDINGS: [asdict(one) for one in self.rewordings]} if self.rewordings else {}
        return {**self.extra, **named, **about, **given, **reworded}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``from_dict`` makes the record again."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        """The record that ``to_dict`` wrote, also after a journey through JSON."""
        turns = tuple(Turn(**turn) for turn in values["turns"])
        tuples = {name: tuple(values[name]) for name in ("aliases", "spans")}
        rewordings = tuple(Rewording(**one) for one in values.get("rewordings", ()))
        return cls(**{**values, "turns": turns, "rewordings": rewordings, **tuples})

    def _question_index(self) -> int | None:
        before = self.turns[: self.answer_index]
        others = (*ANSWER_ROLES, *SYSTEM_ROLES, *TOOL_ROLES)
        return max((i for i, turn in enumerate(before) if turn.role not in others), default=None)

    def _with_turn(self, index: int, turn: Turn) -> Record:
        turns = (*self.turns[:index], turn, *self.turns[index + 1 :])
        return replace(self, turns=turns, spans=occurring(self.spans, turns))


def by_answer(records: Iterable[Record]) -> list[Record]:
    """:meth:`Record.by_answer` of all of them: every answer of every conversation is asked for in its own context."""
    return [cut for record in records for cut in record.by_answer()]


def occurring(spans: Iterable[str], turns: Sequence[Turn]) -> tuple[str, ...]:
    return tuple(span for span in spans if any(span in turn.text for turn in turns))


def _values(value: Any) -> Iterator[str]:
    """The strings and numbers in a value of JSON."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _values(item)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _mapped(value: Any, function: Callable[[str], str]) -> Any:
    """``function`` applied to the strings in a value of JSON."""
    if isinstance(value, Mapping):
        return {name: _mapped(item, function) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, function) for item in value]
    return function(value) if isinstance(value, str) else value
