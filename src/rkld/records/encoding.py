"""Records → token ids and masks: the only module that handles chat templates, special tokens and the shift.

A record is written out as one text, in which the place of every part is known by character: the contents of
its turns, and its answers. An answer begins where generation would begin and ends with the end of turn, so
it is exactly what the model itself would say. Token masks follow from these places, and no token straddles
the edge of an answer.

Masks mark *targets*: position t is predicted from the hidden state at t − 1. Position 0 is never marked, as
nothing predicts it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

from jinja2 import TemplateError

from rkld.errors import UserError, nearest
from rkld.records.record import REASONING, SYSTEM_ROLES, TEMPLATE_FIELDS, TOOL_CALLS, Record, Turn
from rkld.records.rendering import ChatTemplate, ExceedsLimits
from rkld.records.templates import (
    RESERVED,
    TOOL_CALL_ENDS,
    Slot,
    is_link,
    is_written,
    message,
    not_written,
    possible_modes,
    slots_of,
    thoughts_apart,
    with_texts,
)
from rkld.text.printable import printable
from rkld.text.wording import added_spans, given_spans, is_said_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Score = Literal["answer", "all", "spans", "added"]
"""What is unlearned: the answers; every turn but the system's; only the personal spans; or the answers but for
the words that all said before them gives (:func:`rkld.text.wording.given_spans`). But with "all", the personal spans of
every other turn than the system's are unlearned, too: in a ticket or a letter the facts stand in the user's."""

IN_PART = ("spans", "added")
"""Modes that score parts of the answers: the rest can be held to the original."""

PLAIN_CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- set content = message['content'] | trim -%}
{%- if message['role'] == 'system' -%}
{{ content }}{{ '\\n\\n' }}
{%- elif message['role'] == 'assistant' -%}
{{ 'Answer: ' }}{{ content }}{{ eos_token }}{% if not loop.last %}{{ '\\n' }}{% endif %}
{%- else -%}
{{ 'Question: ' }}{{ content }}{{ '\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'Answer:' }}{%- endif -%}
"""
"""The format of models without a chat template: ``Question: …``, new line, ``Answer: …``, end-of-text token.
A system text comes first, with an empty line after it."""

NEXT_QUESTION = "\nQuestion:"
"""Where an answer in that format has ended, whether an end-of-text token says so or not: base models run on."""

TEXT_PROMPT_TOKENS = 200
"""At most so many tokens of a plain text are given as the prompt that the model continues."""


@dataclass(frozen=True)
class Encoded:
    """One record as T token ids with two masks over them."""

    key: str
    """The record's key in its set."""
    ids: tuple[int, ...]
    """Token ids, (T,)."""
    answer: tuple[bool, ...]
    """(T,): what the model itself would say: the answers with their ends of turn; of a plain text, all."""
    scored: tuple[bool, ...]
    """(T,): what is unlearned. In mode "all" also what others said, so not always a part of ``answer``."""
    prompt_length: int
    """Generation of the last answer continues from ``ids[:prompt_length]``."""
    record: Record | None = field(default=None, compare=False, repr=False)
    """What was encoded; None for ids without a record (an answer of a given length, to measure time)."""


def marked(encoded: Encoded) -> list[bool]:
    """The positions a cache holds for a record: answer tokens, and tokens to unlearn."""
    return [a or s for a, s in zip(encoded.answer, encoded.scored)]


def records_of(encoded: Iterable[Encoded]) -> list[Record]:
    """The records that were encoded. ValueError where one was made from ids alone."""
    found = [e.record for e in encoded]
    if None in found:
        raise ValueError("an encoded record has no record: it was made from ids alone")
    return [record for record in found if record is not None]


class Range(NamedTuple):
    """A half-open range of characters."""

    start: int
    end: int


class _Part(NamedTuple):
    """A turn that may be scored: its content and, for an assistant's turn, the answer with its end of turn."""

    content: Range
    answer: Range | None


@dataclass(frozen=True)
class _Layout:
    """A record as text."""

    text: str
    parts: tuple[_Part, ...]
    bare: bool
    """Written without a chat template: the tokenizer's own start tokens come before the text."""
    closed: bool
    """The text ends with its end of turn (or, a plain text, has none)."""

    @property
    def answers(self) -> list[Range]:
        return [part.answer for part in self.parts if part.answer is not None]


@dataclass(frozen=True)
class _Tokens:
    ids: list[int]
    offsets: list[Range]
    """One per id, without gaps: white space that a tokenizer leaves out belongs to the token after it."""
    index: dict[int, int]
    """Where an answer begins or ends: character → the number of ids before it."""


class _Skeleton(NamedTuple):
    """What a chat template writes around n slots: the contents of turns, and the thoughts before them."""

    order: tuple[int, ...]
    """(n,): the slots in the order of the text; some templates move the system turn."""
    pieces: tuple[str, ...]
    """(n + 1,): before, between and after the slots."""
    prompts: Mapping[int, str]
    """An answering turn → what the template writes after the slot before it to have the answer generated."""


class Encoder:
    """Writes records in a model's own format; marks in their tokens what is answered and what is unlearned.

    Args:
        tokenizer: a fast tokenizer. Without a chat template :data:`PLAIN_CHAT_TEMPLATE` is used.
        system_prompt: put before conversations that have no system turn; None leaves it to the template.
        template_date: the day (ISO format) that templates with a date are given instead of today's.
        context_length: the most tokens the model reads; without ``max_length`` longer records are refused.
        max_length: records are cut to their first ``max_length`` tokens.

    Raises:
        UserError: for a slow tokenizer, a malformed date, or a ``max_length`` beyond the context.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        system_prompt: str | None = None,
        template_date: str = "2024-07-26",
        context_length: int | None = None,
        max_length: int | None = None,
    ) -> None:
        if not tokenizer.is_fast:
            raise UserError(
                f"{type(tokenizer).__name__} is a slow tokenizer, which doesn't say where in the text its "
                "tokens stand. Give the model folder a tokenizer.json (a fast tokenizer)."
            )
        if max_length is not None and (max_length < 2 or (context_length and max_length > context_length)):
            raise UserError(
                f"--max-length is {max_length}. Choose at least 2"
                + (f" and at most the model's context of {context_length} tokens." if context_length else ".")
            )
        try:
            self._date = date.fromisoformat(template_date)
        except ValueError:
            raise UserError(f"The template date is '{template_date}'. Write it as YYYY-MM-DD.") from None
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt
        self.context_length = context_length
        self.max_length = max_length
        self._bare = not tokenizer.chat_template
        self.template = PLAIN_CHAT_TEMPLATE if self._bare else _own_template(tokenizer)
        self._start_ids = self._find_start_ids()
        self._anchor = self._find_anchor()
        self._end_of_turn = self._find_end_of_turn()
        self._skeletons: dict[str, _Skeleton] = {}

    # What callers use

    def encode(self, record: Record, score: Score = "answer") -> Encoded:
        """The record's ids and masks.

        Raises:
            UserError: naming the record, if an answer has no tokens, there is nothing to score, the record is
                longer than the context and not to be cut, or the template refuses or rewrites it.
        """
        layout = self._layout(record)
        tokens = self._tokenize(layout, record.where)
        length = self._checked_length(record, layout, tokens)
        answer, scored = self._masks(record, layout, tokens, score)
        if not any(scored[:length]):
            remedy = "Give it spans that occur in its turns" if score == "spans" else "Give it a longer text"
            raise UserError(f"{record.where}: --score {score} finds nothing in {length} tokens. {remedy}.")
        return Encoded(
            key=record.key,
            ids=tuple(tokens.ids[:length]),
            answer=tuple(answer[:length]),
            scored=tuple(scored[:length]),
            prompt_length=self._prompt_length(record, layout, tokens),
            record=record,
        )

    def prompt(self, record: Record) -> tuple[int, ...]:
        """The ids that generation of the last answer starts from, whether or not the record has that answer.

        For a record with an answer they equal ``encode(record).ids[:prompt_length]``. An empty thinking block
        that the template puts before answers is part of the prompt. Of a plain text, half of the tokens, at
        most :data:`TEXT_PROMPT_TOKENS`.

        Raises:
            UserError: naming the record, if no room is left for an answer.
        """
        # Whatever the answer says, the prompt before it is the same.
        layout = self._layout(record if record.answer else record.with_answer("x"))
        tokens = self._tokenize(layout, record.where)
        return self._with_room(record, tokens.ids[: self._prompt_length(record, layout, tokens)])

    def prompts(self, record: Record) -> tuple[tuple[int, ...], ...]:
        """All that generation of the last answer may start from: :meth:`prompt`, then one for each other mode.

        A model that thinks first is asked with and without a thought, and in what other modes (:attr:`modes`) its
        template has. Most models have one prompt alone.

        Raises:
            UserError: as :meth:`prompt`.
        """
        found = [self.prompt(record)]
        question = record.turns[: record.answer_index]
        if record.form == "chat" and question:
            turns = self.conversation(replace(record, turns=question))
            for mode in self.modes:
                asked = replace(record, template_variables={**record.template_variables, **mode})
                text = self._render(turns, asked, add_generation_prompt=True)
                tokens = self._tokenize(_Layout(text, (), self._bare, closed=True), record.where)
                found.append(self._with_room(record, tokens.ids))
        return tuple(dict.fromkeys(found))

    def _with_room(self, record: Record, prompt: Sequence[int]) -> tuple[int, ...]:
        limit = self.max_length or self.context_length
        if limit is not None and len(prompt) >= limit:
            raise UserError(
                f"{record.where}: its question has {len(prompt)} tokens and leaves no room for an answer within "
                f"{limit}. Shorten it or take it out."
            )
        return tuple(prompt)

    @cached_property
    def modes(self) -> tuple[Mapping[str, Any], ...]:
        """Values of the template's variables that change what it writes before an answer; {} first, its default.

        Tried are True and False for variables that the template only tests (``enable_thinking``, ``thinking``), and the
        values in :data:`rkld.records.templates.MODE_VALUES`; one variable at a time.
        """
        asked = Record("", "chat", (Turn("user", "x"),), where="the chat template's modes", unanswered=True)
        found: dict[str, Mapping[str, Any]] = {}
        for mode in ({}, *possible_modes(self.template)):
            try:
                given = replace(asked, template_variables=mode)
                text = self._render(self.conversation(asked), given, add_generation_prompt=True)
            except (UserError, TypeError, ValueError, AttributeError):
                continue  # no value that this variable can have
            found.setdefault(text, mode)
        return tuple(found.values())

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """The token that the template sets behind a last answer, where it is one; often not the tokenizer's eos."""
        ids = (self.tokenizer.convert_tokens_to_ids(end) for end in self._turn_ends[:1])
        return frozenset(token for token in ids if token is not None)

    @cached_property
    def _turn_ends(self) -> tuple[str, ...]:
        """What ends an answer, as text: what the template sets behind one, then what else may."""
        probe = Record("", "chat", (Turn("user", "x"), Turn("assistant", "y")))
        try:
            layout = self._layout(probe)
        except UserError:  # it wants other conversations
            found = ""
        else:
            content, answer = layout.parts[-1]
            found = layout.text[content.end : answer.end if answer else content.end].strip()
        others = (self.tokenizer.eos_token or "", *TOOL_CALL_ENDS)
        return tuple(dict.fromkeys(filter(None, (found, *others))))

    def answered(self, record: Record, text: str, *, cut: bool = False) -> Record:
        """The record with what a model has generated as its last answer, thoughts where the template has them.

        Left out are thoughts that it does not write.
        """
        plain = record.with_answer(text, cut=cut)
        *_, turn = thoughts_apart(plain.turns)
        apart = record.with_answer(turn.content or "x", turn.fields.get(REASONING, ""), cut=cut)
        for candidate in (plain, apart):
            try:
                self._layout(candidate)
            except UserError:
                continue
            return candidate
        return record.with_answer(turn.content, cut=cut)

    def conversation(self, record: Record) -> tuple[Turn, ...]:
        """A chat's turns as the template is given them: after the system prompt, if they have none of their own."""
        if self.system_prompt is None or record.turns[0].role in SYSTEM_ROLES:
            return record.turns
        return (Turn("system", self.system_prompt), *record.turns)

    def render(self, record: Record) -> str:
        """The record as the text that is tokenized, end of turn included."""
        layout = self._layout(record)
        return layout.text if layout.closed else layout.text + (self.tokenizer.eos_token or "")

    def locate(self, record: Record, find: Callable[[str], Iterable[tuple[int, int]]]) -> list[tuple[int, ...]]:
        """The token positions of each character range that ``find`` returns for a turn's content.

        Turns are given in the order of the rendered text, but for the system's. Ranges without a token are
        left out; positions count the whole record, ``max_length`` or not.
        """
        layout = self._layout(record)
        contents = [part.content for part in layout.parts]
        places = [Range(s + a, s + b) for s, end in contents for a, b in find(layout.text[s:end])]
        return self._positions(record, layout, places)

    def locate_spans(self, record: Record) -> list[tuple[int, ...]]:
        """The token positions of each place of a marked span, as mode "spans" scores them; positions as in `locate`.

        A span is looked for in every turn but the system's, the person's name in the answers alone, as questions are
        asked by it; as a whole word or, if never as one ("Curie" in "Curien"), within words.
        """
        layout = self._layout(record)
        return self._positions(record, layout, _span_ranges(record, layout))

    def _positions(self, record: Record, layout: _Layout, places: Iterable[Range]) -> list[tuple[int, ...]]:
        offsets = self._tokenize(layout, record.where).offsets
        found = (tuple(_overlapping([place], layout.text, offsets)) for place in places)
        return [positions for positions in found if positions]

    def describe(self, record: Record, score: Score = "answer") -> str:
        """A table for the terminal: each token's position, id, masks and text, control characters escaped."""
        encoded = self.encode(record, score)
        layout = self._layout(record)
        offsets = self._tokenize(layout, record.where).offsets
        lines = ["position      id  answer  scored  text"]
        for t, (token, offset) in enumerate(zip(encoded.ids, offsets, strict=False)):
            text = layout.text[slice(*offset)] or self.tokenizer.convert_ids_to_tokens(token)
            marks = ["yes" if mask[t] else "·" for mask in (encoded.answer, encoded.scored)]
            lines.append(f"{t:8d} {token:7d}  {marks[0]:>6}  {marks[1]:>6}  {text!r}")
        return "\n".join(lines)

    def marked_text(self, record: Record, score: Score = "answer") -> str:
        """A record as the model reads it, with every run of scored tokens in brackets."""
        encoded = self.encode(record, score)
        layout = self._layout(record)
        marked, inside, written = "", False, 0
        for (start, end), scored in zip(self._tokenize(layout, record.where).offsets, encoded.scored, strict=False):
            if end > start and scored != inside:
                marked += "[" if scored else "]"
                inside = scored
            marked += layout.text[written:end]
            written = max(written, end)
        return marked + "]" * inside

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of all that turns a record into ids: tokenizer, template, system prompt, date."""
        backend = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for changed_by_use in ("padding", "truncation"):
            backend.pop(changed_by_use, None)
        specials = self.tokenizer.special_tokens_map
        parts = [backend, specials, self.template, self.system_prompt, self._date.isoformat()]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    # Records → text

    def _layout(self, record: Record) -> _Layout:
        if record.form == "chat":
            return self._chat_layout(record)
        contents = [turn.content for turn in record.turns]
        text = "".join(contents)
        if record.form == "text":
            whole = Range(0, len(text))
            return _Layout(text, (_Part(whole, whole),), bare=True, closed=True)
        prompt, completion = Range(0, len(contents[0])), Range(len(contents[0]), len(text))
        return _Layout(text, (_Part(prompt, None), _Part(completion, completion)), bare=True, closed=record.cut)

    def _chat_layout(self, record: Record) -> _Layout:
        turns = self.conversation(record)
        found = self._laid_out(record, turns)
        if found is None and (apart := thoughts_apart(turns)) != turns:
            found = self._laid_out(record, apart)  # a template that takes thoughts out of contents
        if found is None:
            raise UserError(
                f"{record.where}: the chat template rewrites the contents of this conversation, so its "
                "answers can't be found in the text. Give one that leaves them alone with --chat-template."
            )
        return found

    def _laid_out(self, record: Record, turns: Sequence[Turn]) -> _Layout | None:
        """None where the template changes what the turns say."""
        slots = slots_of(turns)
        skeleton = self._skeleton(record, turns, slots)
        text = self._render(turns, record)
        # Many templates trim what they are given, some of it only on one side.
        contents = [_however_trimmed(slots[i].text) for i in skeleton.order]
        *before, last = (re.escape(piece) for piece in skeleton.pieces)
        pattern = "".join(piece + content for piece, content in zip(before, contents, strict=True)) + last
        found = re.fullmatch(pattern, text)
        if found is None:
            return None
        self._check_fields(record, turns, text)
        places = [Range(*found.span(n + 1)) for n in range(len(slots))]
        parts = self._parts(turns, [slots[i].turn for i in skeleton.order], places, skeleton)
        last_answers = turns[-1].role == "assistant"
        if last_answers and record.cut:
            end = parts[-1].content.end
            parts[-1] = _Part(parts[-1].content, Range(cast("Range", parts[-1].answer).start, end))
            return _Layout(text[:end], tuple(parts), self._bare, closed=True)
        final = parts[-1].answer if last_answers else None
        closed = final is None or final.end > parts[-1].content.end
        return _Layout(text if closed else text[: parts[-1].content.end], tuple(parts), self._bare, closed)

    def _parts(
        self, turns: Sequence[Turn], owners: Sequence[int], places: Sequence[Range], skeleton: _Skeleton
    ) -> list[_Part]:
        """The turns that may be scored, in the order of the text.

        Args:
            owners: the turn of every slot.
            places: where each stands.
        """
        parts = []
        for i in dict.fromkeys([*owners, *range(len(turns))]):
            own = [n for n, owner in enumerate(owners) if owner == i]
            if turns[i].role != "assistant":
                if own and turns[i].role not in SYSTEM_ROLES:
                    parts.append(_Part(places[own[0]], None))
                continue
            # Of a turn without a text of its own, such as mere tool calls, the piece that it stands in.
            first = own[0] if own else sum(owner < i for owner in owners)
            begin = places[first - 1].end if first else 0
            start = self._answer_start(turns[i], skeleton.pieces[first], skeleton.prompts.get(i))
            start = begin + start if start is not None else places[first].start if own else begin
            after = own[-1] + 1 if own else first
            done = places[own[-1]].end if own else start
            rest = skeleton.pieces[after][0 if own else start - begin :]
            said, end = self._answer_end(turns[i], rest)
            content = Range(places[own[0]].start if own and not turns[i].fields else start, done + said)
            parts.append(_Part(content, Range(start, done + end)))
        return sorted(parts, key=lambda part: part.content)

    def _answer_start(self, turn: Turn, piece: str, prompt: str | None) -> int | None:
        """Where in the piece before it an answer begins; None: at its content.

        It is what generation has to write: the white space after its prompt too, and what stands around thoughts and
        tool calls, but not, say, an empty thinking block that the template puts there.
        """
        if prompt is None or not piece.startswith(prompt):
            return None
        return len(prompt) if turn.fields or not piece[len(prompt) :].strip() else None

    def _answer_end(self, turn: Turn, rest: str) -> tuple[int, int]:
        """How much of what stands behind an answer's last text it still says, and how far its end of turn goes."""
        if TOOL_CALLS not in turn.fields:
            end = self._end_of_turn.match(rest)
            return 0, end.end() if end else 0
        end = re.compile(r"\s*(?:" + "|".join(map(re.escape, self._turn_ends)) + ")").search(rest)
        return (end.start(), end.end()) if end else (len(rest.rstrip()),) * 2

    def _skeleton(self, record: Record, turns: Sequence[Turn], slots: Sequence[Slot]) -> _Skeleton:
        """What the template writes around the slots, found by giving it marks in their place."""
        marks = [f"RKLDCONTENT{i}X" for i in range(len(slots))]
        marked = with_texts(turns, marks)
        key = json.dumps([[asdict(turn) for turn in marked], record.template_variables], sort_keys=True, default=str)
        if key not in self._skeletons:
            any_mark = re.compile("|".join(marks) or "(?!)")
            text = self._render(marked, record)
            found = any_mark.findall(text)
            if sorted(found) != sorted(marks):
                raise UserError(self._left_out(record, turns, slots, found, marks))
            order = tuple(marks.index(mark) for mark in found)
            prompts = {
                i: any_mark.split(self._render(marked[:i], record, add_generation_prompt=True))[-1]
                for i, turn in enumerate(turns)
                if turn.role == "assistant" and i > 0
            }
            self._skeletons[key] = _Skeleton(order, tuple(any_mark.split(text)), prompts)
        return self._skeletons[key]

    def _left_out(
        self, record: Record, turns: Sequence[Turn], slots: Sequence[Slot], found: Sequence[str], marks: Sequence[str]
    ) -> str:
        """What to say of a template that does not write every slot once."""
        missing = [slot for slot, mark in zip(slots, marks, strict=True) if found.count(mark) != 1]
        if thinking := [slot.turn for slot in missing if slot.text == turns[slot.turn].fields.get(REASONING)]:
            return (
                f"{record.where}: message {thinking[0] + 1} holds '{REASONING}', which the chat template does not "
                "write there. Many write only the last answer's: give each answer a record of its own, with the "
                "conversation up to it. Or take the field out, or give another template with --chat-template."
            )
        return (
            f"{record.where}: the chat template leaves out or repeats a turn of a conversation of "
            f"{', '.join(turn.role for turn in turns)}. Reorder the turns or give another template with "
            "--chat-template."
        )

    def _check_fields(self, record: Record, turns: Sequence[Turn], text: str) -> None:
        """Refuse by its name what the template leaves out of a message, or of what it is given beside them."""
        for number, turn in enumerate(turns):
            for name in turn.fields:
                without = replace(turn, fields={n: value for n, value in turn.fields.items() if n != name})
                others = [*turns[:number], without, *turns[number + 1 :]]
                if not is_link(name, turn) and (
                    self._same(others, record, text) or (name == TOOL_CALLS and not is_written(turn.fields[name], text))
                ):
                    raise UserError(not_written(record.where, f"message {number + 1} holds '{name}'"))
        for name in record.template_variables:
            fewer = {n: value for n, value in record.template_variables.items() if n != name}
            if name in TEMPLATE_FIELDS and self._same(turns, replace(record, template_variables=fewer), text):
                raise UserError(not_written(record.where, f"the record has '{name}'"))

    def _same(self, turns: Sequence[Turn], record: Record, text: str) -> bool:
        """Whether these turns are rendered to the same text; not where the template needs what they lack."""
        try:
            return self._render(turns, record) == text
        except UserError:
            return False

    def _render(self, turns: Sequence[Turn], record: Record, add_generation_prompt: bool = False) -> str:
        given = record.template_variables
        if reserved := RESERVED.intersection(given):
            raise UserError(f"{record.where}: '{min(reserved)}' is no variable of a chat template: leave it out.")
        try:
            return self._chat_template.render(
                [message(turn, self.template) for turn in turns],
                add_generation_prompt=add_generation_prompt,
                date_string=self._date.strftime("%d %b %Y"),
                strftime_now=lambda format: self._date.strftime(format),  # not the clock's
                **{**self.tokenizer.special_tokens_map, **given},
            )
        except ExceedsLimits as error:
            raise _failed(str(error)) from error
        except TemplateError as error:
            raise UserError(
                f"{record.where}: the chat template refuses a conversation of {', '.join(t.role for t in turns)}: "
                f"{self._without_data(error)}. Reorder its turns, leave out the system prompt, or give another "
                "template with --chat-template."
            ) from error
        except UserError:  # it could not be compiled
            raise
        except Exception as error:  # a template is a program, which may do anything
            raise _failed(self._without_data(error)) from error

    def _without_data(self, error: Exception) -> str:
        """What an error in the template says, if that stands in the template; else it may be made of the record."""
        said = str(error)
        return printable(said).rstrip(".") if said and said in self.template else type(error).__name__

    @cached_property
    def _chat_template(self) -> ChatTemplate:
        try:
            return ChatTemplate(self.template)
        except Exception as error:  # Jinja and Python have their limits
            raise _failed(str(error) or type(error).__name__) from error

    # Text → tokens

    def _tokenize(self, layout: _Layout, where: str) -> _Tokens:
        """What generation sees and says, token by token: an answer continues the ids of the text before it.

        As a rule these are the ids of the whole text. Where a token would straddle the edge of an answer
        (": A" as one token), the text is tokenized in parts.
        """
        ids: list[int] = []
        found: list[tuple[int, int]] = []
        index = {0: 0}
        edges = {edge for answer in layout.answers for edge in answer} | {len(layout.text)}
        done = 0
        for edge in sorted(edges - {0}):
            whole_ids, whole_offsets = self._ids(layout.text[:edge])
            if whole_ids[: len(ids)] == ids:
                ids, found = whole_ids, whole_offsets
            else:
                new_ids, new_offsets = self._continue(layout.text[done:edge], where)
                ids = ids + new_ids
                found = found + [(start + done, end + done) for start, end in new_offsets]
            index[edge] = len(ids)
            done = edge
        offsets = _without_gaps(found)
        if layout.bare and ids[: len(self._start_ids)] != self._start_ids:
            ids = self._start_ids + ids
            offsets = [Range(0, 0)] * len(self._start_ids) + offsets
            index = {edge: count + len(self._start_ids) for edge, count in index.items()}
        eos = self.tokenizer.eos_token_id
        if not layout.closed and eos is not None and ids[-1:] != [eos]:
            ids = [*ids, eos]
            offsets = [*offsets, Range(len(layout.text), len(layout.text))]
            index[len(layout.text)] += 1
        return _Tokens(ids, offsets, index)

    def _ids(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return encoding["input_ids"], encoding["offset_mapping"]

    def _continue(self, text: str, where: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokens of a text that stands behind another: SentencePiece puts a space before a first word."""
        anchor_ids, _ = self._ids(self._anchor)
        ids, offsets = self._ids(self._anchor + text)
        skip, shift = len(anchor_ids), len(self._anchor)
        if ids[:skip] != anchor_ids:
            raise UserError(
                f"{where}: the tokenizer can't split the text at the edge of an answer. Let questions and "
                "answers begin and end with something else than white space."
            )
        return ids[skip:], [(start - shift, end - shift) for start, end in offsets[skip:]]

    def _find_anchor(self) -> str:
        """A text after which tokenization starts anew and adds no space: the end of text, or a new line."""

        def serves(anchor: str, probe: str) -> bool:
            (before, _), (ids, _) = self._ids(anchor), self._ids(anchor + probe)
            return ids[: len(before)] == before and self._decode(ids) == self._decode(before) + probe

        anchors = filter(None, (self.tokenizer.eos_token, "\n"))
        return next((anchor for anchor in anchors if serves(anchor, "x") and serves(anchor, " x")), "")

    def _decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def _find_start_ids(self) -> list[int]:
        """What the tokenizer by itself puts before a text: often BOS, often nothing."""
        bare = self._ids("a")[0]
        full = self.tokenizer("a", verbose=False)["input_ids"]
        starts = [i for i in range(len(full)) if full[i : i + len(bare)] == bare]
        return full[: starts[0]] if starts else []

    def _find_end_of_turn(self) -> re.Pattern[str]:
        """Any token that a template may set behind an answer, with the white space before it."""
        tokens = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        if self.tokenizer.bos_token != self.tokenizer.eos_token:
            tokens.discard(self.tokenizer.bos_token)
        longest_first = sorted((token for token in tokens if token.strip()), key=len, reverse=True)
        return re.compile(r"\s*(?:" + ("|".join(map(re.escape, longest_first)) or "(?!)") + ")")

    # Tokens → masks

    def _masks(self, record: Record, layout: _Layout, tokens: _Tokens, score: Score) -> tuple[list[bool], list[bool]]:
        answer = [False] * len(tokens.ids)
        for start, end in layout.answers:
            first, last = tokens.index[start], tokens.index[end]
            answer[first:last] = [True] * (last - first)
        answer[0] = False
        if score == "answer":
            scored = list(answer)
            ranges = _span_ranges(record, layout)
        elif score == "all":
            scored = list(answer)
            ranges = [part.content for part in layout.parts]
        elif score == "spans":
            scored = [False] * len(tokens.ids)
            ranges = _span_ranges(record, layout)
        elif score == "added":
            scored = list(answer)
            for t in _overlapping(_given_ranges(layout), layout.text, tokens.offsets):
                scored[t] = False
            # That an answer ends is nothing that it adds: where its end is forgotten, answers run on.
            ends = set(_overlapping(_end_ranges(layout), layout.text, tokens.offsets))
            if any(s and t not in ends for t, s in enumerate(scored)):
                for t in ends:
                    scored[t] = False
            ranges = [place for place in _span_ranges(record, layout) if not _in_answer(place, layout)]
        else:
            hint = nearest(score, get_args(Score))
            raise UserError(f"--score is '{score}'. Choose answer, all, spans or added.{hint}")
        for t in _overlapping(ranges, layout.text, tokens.offsets):
            scored[t] = t > 0
        return answer, scored

    def _checked_length(self, record: Record, layout: _Layout, tokens: _Tokens) -> int:
        """How many of the tokens are kept."""
        length = len(tokens.ids)
        if self.max_length is None and self.context_length is not None and length > self.context_length:
            raise UserError(
                f"{record.where}: {length} tokens, but the model reads at most {self.context_length}. "
                f"Shorten the record, or cut all records with --max-length {self.context_length}."
            )
        length = min(length, self.max_length or length)
        for part in layout.parts:
            if part.answer is None:
                continue
            content = list(_overlapping([part.content], layout.text, tokens.offsets))
            if not content:
                raise UserError(f"{record.where}: an answer has no tokens. Fill it in or drop the record.")
            if content[0] >= length:
                raise UserError(
                    f"{record.where}: --max-length {length} leaves nothing of an answer that begins at token "
                    f"{content[0]}. Raise it or shorten the record."
                )
        return length

    def _prompt_length(self, record: Record, layout: _Layout, tokens: _Tokens) -> int:
        start = tokens.index[layout.answers[-1].start]
        if record.form != "text":
            return start
        length = min(len(tokens.ids), self.max_length or len(tokens.ids))
        return max(1, start + min(TEXT_PROMPT_TOKENS, (length - start) // 2))


def _end_ranges(layout: _Layout) -> list[Range]:
    """What comes behind the contents of answers: their ends of turn."""
    return [
        Range(part.content.end, part.answer.end)
        for part in layout.parts
        if part.answer is not None and part.answer.end > part.content.end
    ]


def _failed(why: str) -> UserError:
    return UserError(
        f"The chat template cannot be used: {printable(why).rstrip('.')}. Give another one with --chat-template."
    )


def end_of_turn_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """:attr:`Encoder.end_ids` of a tokenizer in its own format; none of one that no encoder takes."""
    try:
        return Encoder(tokenizer).end_ids
    except UserError:
        return frozenset()


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str:
    found = tokenizer.chat_template
    if isinstance(found, str):
        return found
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise UserError("The tokenizer's chat template is no text. Give one with --chat-template.")
    if "default" not in found:
        names = printable(", ".join(sorted(found)))
        raise UserError(
            f"The tokenizer has several chat templates ({names}), none of them called default. "
            "Choose one with --chat-template."
        )
    return str(found["default"])


def _without_gaps(offsets: Iterable[tuple[int, int]]) -> list[Range]:
    ranges, reached = [], 0
    for start, end in offsets:
        ranges.append(Range(min(start, reached), end))
        reached = max(reached, end)
    return ranges


def _however_trimmed(content: str) -> str:
    """A pattern of a content with or without its white space at either end; made in time linear in its length."""
    left, core, right = (
        content[: len(content) - len(content.lstrip())],
        content.strip(),
        content[len(content.rstrip()) :],
    )
    lead, trail = (f"(?:{re.escape(space)})?" if space else "" for space in (left, right if core else ""))
    return f"({lead}{re.escape(core)}{trail})"


def _given_ranges(layout: _Layout) -> list[Range]:
    """The words of each answer that the contents before it give; none of an answer that adds nothing to them."""
    found, before = [], ""
    for (start, end), answer in layout.parts:
        content = layout.text[start:end]
        if answer is not None and added_spans(content, before):
            found += [Range(start + a, start + b) for a, b in given_spans(content, before)]
        before += f"{content}\n"
    return found


def _span_ranges(record: Record, layout: _Layout) -> list[Range]:
    """Where the spans stand that :meth:`Encoder.locate_spans` tells of."""
    answers = [part.content for part in layout.parts if part.answer is not None]
    others = [part.content for part in layout.parts if part.answer is None]
    names = (*([record.subject] if record.subject else []), *record.aliases)
    ranges = []
    for span in filter(None, (span.strip() for span in record.spans)):
        found = _occurrences(span, layout.text, answers)
        if not found or not is_said_name(span, names):
            found += _occurrences(span, layout.text, others)
        ranges += [place for place in found if not _cuts_word(layout.text, place)] or found
    return ranges


def _in_answer(place: Range, layout: _Layout) -> bool:
    return any(start <= place[0] < end for start, end in layout.answers)


def _occurrences(span: str, text: str, contents: Sequence[Range]) -> list[Range]:
    return [Range(*m.span()) for c in contents for m in re.compile(re.escape(span)).finditer(text, *c)]


def _cuts_word(text: str, occurrence: Range) -> bool:
    """Whether it begins or ends within a word or number. Letters without case count as words: their scripts
    (Chinese, Arabic, …) join names to what stands around them."""
    return any(
        len(pair) == 2 and all(char.isdigit() or char.lower() != char.upper() for char in pair)
        for pair in (text[max(edge - 1, 0) : edge + 1] for edge in occurrence)
    )


def _overlapping(ranges: Sequence[Range], text: str, offsets: Sequence[Range]) -> Iterable[int]:
    """Tokens with a character in one of the ranges. White space at a token's edge doesn't count."""
    for t, (start, end) in enumerate(offsets):
        token = text[start:end]
        if token.strip():
            start, end = end - len(token.lstrip()), start + len(token.rstrip())
        if any(max(start, r.start) < min(end, r.end) for r in ranges):
            yield t
