"""What the page asks of the two models: events, as plain values, in the order in which they come.

Every event names its side, but for the last. What models say is untrusted: it goes out as text, and nowhere as markup.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rkld.errors import UserError
from rkld.evaluation.sampling import sample
from rkld.evaluation.streaming import AnswerStream, next_token_probabilities
from rkld.records.record import Record
from rkld.side_by_side.pair import Pair, Side, asked, parts
from rkld.text.facts import facts_said

Say = Callable[[Mapping[str, Any]], None]
"""Takes an event; raises what ends the work where nobody listens any more."""

LONGEST = 1024
"""New tokens of an answer."""

LONGEST_QUESTION = 20_000
"""Characters."""

MOST = 100
"""Answers to one question, and tokens whose probability is shown."""


@dataclass(frozen=True)
class Asked:
    """One question with the settings of its answers, checked."""

    question: str
    number: int | None = None
    """Of the request's questions, where it is one of them."""
    begins: str = ""
    """What the answer begins with."""
    plain: bool = False
    """Without the chat template."""
    temperature: float = 0.0
    """0: the most likely token each time."""
    top_p: float = 1.0
    seed: int = 0
    max_new_tokens: int = 128
    n: int = 20
    """Answers to be counted, or tokens to be shown."""

    @classmethod
    def of(cls, values: Any, pair: Pair) -> Asked:
        """From what a browser sent.

        Raises:
            UserError: what is wrong with it.
        """
        if not isinstance(values, dict):
            raise UserError("A question is sent as a JSON object.")
        bounds: dict[str, tuple[type, float, float]] = {
            "temperature": (float, 0, 10), "top_p": (float, 0.01, 1), "seed": (int, 0, 2**32 - 1),
            "max_new_tokens": (int, 1, LONGEST), "n": (int, 1, MOST), "number": (int, 0, len(pair.records) - 1),
        }  # fmt: skip
        found: dict[str, Any] = {"question": ""}
        for name, (kind, low, high) in bounds.items():
            value: Any = values.get(name)
            if value is None:
                continue
            number = isinstance(value, int) or (kind is float and isinstance(value, float))
            if isinstance(value, bool) or not number or not low <= value <= high:
                raise UserError(f"'{name}' must be a number from {low} to {high}.")
            found[name] = kind(value)
        for name in ("question", "begins"):
            value = values.get(name, "")
            if not isinstance(value, str) or len(value) > LONGEST_QUESTION:
                raise UserError(f"'{name}' must be a text of at most {LONGEST_QUESTION} characters.")
            found[name] = value.encode("utf-8", errors="replace").decode()  # halves of surrogate pairs
        if not found["question"].strip() and "number" not in found:
            raise UserError("Write a question first.")
        return cls(**found, plain=values.get("plain") is True)

    def record(self, pair: Pair, side: Side) -> Record:
        """As the side is asked."""
        if self.number is not None:
            return pair.records[self.number]
        return asked(self.question, side.encoder, self.plain)

    def facts(self, pair: Pair) -> tuple[str, ...]:
        """What may be said in answer: nothing that the question, or the answer's beginning, says already."""
        of = pair.facts(None if self.number is None else pair.records[self.number])
        given = facts_said(of, f"{self.question}\n{self.begins}")
        return tuple(fact for fact, there in zip(of, given, strict=True) if not there)


def stream(pair: Pair, what: Asked, say: Say) -> None:
    """Both answers as they grow, a token of each in turn: {side, parts, done}, and why it ended with the last."""
    facts = what.facts(pair)
    how: dict[str, Any] = {"temperature": what.temperature, "top_p": what.top_p, "seed": what.seed}
    answers = [
        (side, AnswerStream(side.lm, _prompt(pair, what, side), **how, max_new_tokens=what.max_new_tokens))
        for side in pair.sides
    ]
    while growing := [(side, answer) for side, answer in answers if not answer.done]:
        for side, answer in growing:
            with side.active():
                answer.step()
            end = {"end": "finished" if answer.finished else "cut"} if answer.done else {}
            say({"side": side.name, "parts": list(parts(answer.text, facts)), "done": answer.done, **end})


def count(pair: Pair, what: Asked, say: Say) -> None:
    """Many answers of each: {side, made} as they come, {side, answers} at the end of each, then {facts}: how many of
    them say which fact. Of a question of the user's own, facts that nobody says are left out."""
    facts = what.facts(pair)
    said: dict[str, Counter[str]] = {}
    for side in pair.sides:
        made = 0

        def advance(n: int, of: str = side.name) -> None:
            nonlocal made
            made += n
            say({"side": of, "made": made, "n": what.n})

        with side.active():
            (answers,) = sample(
                side.lm, [_prompt(pair, what, side)], what.n, seed=what.seed, temperature=what.temperature or 1.0,
                top_p=what.top_p, max_new_tokens=what.max_new_tokens, progress=advance,
            )  # fmt: skip
        said[side.name] = Counter(
            fact for answer in answers for fact, there in zip(facts, facts_said(facts, answer.text)) if there
        )
        say({"side": side.name, "answers": [list(parts(answer.text, facts)) for answer in answers]})
    shown = [fact for fact in facts if what.number is not None or any(counts[fact] for counts in said.values())]
    say({"facts": [{"fact": fact, **{name: counts[fact] for name, counts in said.items()}} for fact in shown]})


def next_words(pair: Pair, what: Asked, say: Say) -> None:
    """The most likely next tokens of either model, with both probabilities: {tokens}, the likeliest first."""
    found: dict[str, dict[str, float | None]] = {}
    probabilities: dict[str, torch.Tensor] = {}
    for side in pair.sides:
        with side.active():
            probabilities[side.name] = next_token_probabilities(side.lm, _prompt(pair, what, side))
        top = probabilities[side.name].topk(min(what.n, len(probabilities[side.name]))).indices.tolist()
        for token in filter(None, side.lm.tokenizer.convert_ids_to_tokens(top)):  # rows beyond the vocabulary have none
            found.setdefault(token, {})
    for token, values in found.items():
        for side in pair.sides:
            values[side.name] = _of(side, token, probabilities[side.name])
    tokens = [{"token": _shown(token, pair.sides), **values} for token, values in found.items()]
    say({"tokens": sorted(tokens, key=lambda row: -max(row[side.name] or 0 for side in pair.sides))})


def _prompt(pair: Pair, what: Asked, side: Side) -> Sequence[int]:
    return side.prompt(what.record(pair, side), what.begins)


def _of(side: Side, token: str, probabilities: torch.Tensor) -> float | None:
    """A token's probability; None where the side's tokenizer does not know it."""
    number = side.lm.tokenizer.convert_tokens_to_ids(token)
    known = number is not None and side.lm.tokenizer.convert_ids_to_tokens(number) == token
    return float(probabilities[number]) if known else None


def _shown(token: str, sides: Sequence[Side]) -> str:
    """A token as text, by the first tokenizer that knows it."""
    for side in sides:
        tokenizer = side.lm.tokenizer
        number = tokenizer.convert_tokens_to_ids(token)
        if number is not None and tokenizer.convert_ids_to_tokens(number) == token:
            text: str = tokenizer.decode([number])
            return text
    return token
