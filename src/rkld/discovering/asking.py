"""Asking a model about names: questions as prompts, greedy and sampled answers, how likely a value is as an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from rkld.discovering.questions import STAND_IN, filled
from rkld.evaluation.generation import greedy
from rkld.evaluation.likelihood import answer_scores
from rkld.evaluation.sampling import sample
from rkld.records.encoding import Encoded
from rkld.records.record import Record, Turn

if TYPE_CHECKING:
    from rkld.evaluation.generation import Generated
    from rkld.models.language_model import LanguageModel
    from rkld.progress import Advance
    from rkld.records.encoding import Encoder

FREE, BEGUN = 20, 10
"""New tokens of an answer, and behind a begun one: most values stand early."""

LONGER = 24
"""More new tokens of an answer that was cut within a value or before one (:meth:`Asker.longer`)."""

ROOM = 4
"""Another name's value may have so many tokens more than the one that it is compared with: one that is cut short is
likelier than it would be whole."""

OPENING = "\"'“‘«„([*_"
"""Signs behind which a value stands without a space."""

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Wording:
    """One way to ask, without a name: a question, and how its answer may begin; or plain text."""

    question: str
    """"" for plain text."""
    begins: tuple[str, ...] = ("",)
    """F beginnings of the answer behind which the value stands, letter by letter as the model writes them; of plain
    text the text. "" where the value comes first."""


@dataclass(frozen=True)
class Answer:
    """What the model said of the person."""

    wording: Wording
    """Of a question as it was asked; of plain text its beginning."""
    text: str
    sampled: bool
    prompt: Ids = ()
    ids: Ids = ()
    """The new tokens."""
    cut: bool = False
    """Whether it would go on."""


@dataclass
class Asker:
    """A model that is asked about names."""

    lm: LanguageModel
    encoder: Encoder
    prompts: dict[tuple[str, str], Ids] = field(default_factory=dict)
    """A question, and the name in it → the ids that an answer is generated from."""
    texts: dict[str, str | None] = field(default_factory=dict)
    """A question → its prompt as text, about :data:`STAND_IN`; None where it is not to be had as text."""
    heard: dict[tuple[Ids, int], str] = field(default_factory=dict)
    """A prompt, and how many new tokens were allowed → what the model said (:meth:`said`)."""
    pieces: dict[tuple[str, str], Ids] = field(default_factory=dict)
    """A beginning, and what follows → the ids of what follows."""

    # Prompts

    def prompt(self, question: str, name: str) -> Ids:
        """The ids behind which the answer to a question comes; of plain text ("") what stands before any text.

        Raises:
            UserError: no room is left behind it.
        """
        if (question, name) not in self.prompts:
            self.prompts[question, name] = self._by_text(question, name) or self._written(question, name)
        return self.prompts[question, name]

    def _written(self, question: str, name: str) -> Ids:
        if question:
            return self.encoder.prompt(_asked(filled(question, name)))
        text = self.encoder.encode(Record("", "text", (Turn("text", STAND_IN),), where="a question")).ids
        own = self.ids(STAND_IN)
        return text[: len(text) - len(own)] if text[-len(own) :] == own else ()

    def _by_text(self, question: str, name: str) -> Ids | None:
        """The same for hundreds of names, by putting each into the text of another one's prompt.

        None where that text does not become the prompt's own ids again.
        """
        if not question:
            return None
        if question not in self.texts:
            ids = self._written(question, STAND_IN)
            text = self.lm.tokenizer.decode(ids)
            again = self.ids(text) == ids and text.count(STAND_IN) == question.count("{name}")
            again = again and filled(question, STAND_IN).count(STAND_IN) == question.count("{name}")
            self.texts[question] = text if again and "{last}" not in question and "{first}" not in question else None
        known = self.texts[question]
        return None if known is None else self.ids(known.replace(STAND_IN, name))

    def ids(self, text: str) -> Ids:
        """A text by itself as ids."""
        return tuple(self.lm.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()

    def _following(self, begin: str, text: str) -> Ids:
        """The ids of a text that stands behind another one."""
        if (begin, text) not in self.pieces:
            before, whole = self.ids(begin), self.ids(begin + text)
            apart = whole[: len(before)] != before or len(whole) == len(before)
            self.pieces[begin, text] = self.ids(text) if apart else whole[len(before) :]
        return self.pieces[begin, text]

    # Answers

    def answers(
        self, questions: Sequence[str], texts: Sequence[str], name: str, samples: int, seed: int, advance: Advance
    ) -> list[Answer]:
        """Greedy answers, in every mode of the template, and ``samples`` sampled ones at temperature 1.

        Args:
            questions, texts: without the name: questions, and beginnings of plain text.
        """
        asked = [(Wording(question), prompt) for question in questions for prompt in self._modes(question, name)]
        begun = [(Wording("", (text,)), self.prompt("", name) + self.ids(filled(text, name))) for text in texts]
        caps = [FREE] * len(asked) + [BEGUN] * len(begun)
        found = greedy(self.lm, [prompt for _, prompt in asked + begun], max_new_tokens=caps, progress=advance)
        said = [_answer(*put, one, sampled=False) for put, one in zip(asked + begun, found, strict=True)]
        if samples:
            once = [(Wording(question), self.prompt(question, name)) for question in questions] + begun
            caps = [BEGUN if wording.begins != ("",) else FREE for wording, _ in once]
            prompts = [prompt for _, prompt in once]
            drawn = sample(self.lm, prompts, samples, seed=seed, max_new_tokens=caps, progress=advance)
            said += [_answer(*put, one, sampled=True) for put, some in zip(once, drawn) for one in some]
        return said

    def longer(self, answers: Sequence[Answer]) -> list[Answer]:
        """The same answers, which go on by their most likely tokens."""
        caps = [len(answer.ids) + LONGER for answer in answers]
        starts = [answer.ids for answer in answers]
        found = greedy(self.lm, [answer.prompt for answer in answers], max_new_tokens=caps, starts=starts)
        return [replace(answer, text=one.text) for answer, one in zip(answers, found, strict=True)]

    def expected(self, questions: Sequence[str], texts: Sequence[str], name: str, samples: int) -> int:
        """How many answers :meth:`answers` will give."""
        modes = len(self._modes(questions[0], name)) if questions else 0
        return modes * len(questions) + len(texts) + samples * (len(questions) + len(texts))

    def _modes(self, question: str, name: str) -> tuple[Ids, ...]:
        return self.encoder.prompts(_asked(filled(question, name)))

    def said(self, asked: Sequence[tuple[Wording, str, str]]) -> list[str]:
        """What the model greedily answers about the name beside each wording; behind a plain text how it goes on.

        Args:
            asked: the third is a value, longer than which by :data:`ROOM` what is said may be.
        """
        wanted: list[tuple[Ids, int]] = []
        for wording, name, value in asked:
            text = () if wording.question else self.ids(filled(wording.begins[0], name))
            # A free answer says something before its value, about as much as is left of it.
            longest = max(BEGUN, len(self.ids(value)) + ROOM) + (FREE - BEGUN if wording.question else 0)
            wanted.append((self.prompt(wording.question, name) + text, longest))
        new = [one for one in dict.fromkeys(wanted) if one not in self.heard]
        found = greedy(self.lm, [prompt for prompt, _ in new], max_new_tokens=[longest for _, longest in new])
        self.heard.update(zip(new, (answer.text for answer in found), strict=True))
        return [self.heard[one] for one in wanted]

    # Likelihood

    def log_probabilities(self, asked: Sequence[tuple[Wording, str, str]]) -> np.ndarray:
        """log p(value | wording, name) in nats, (n,) float64: that the answer, begun in any way, says the value.

        log Σ_f p(f, value) − log Σ_f p(f) over the F beginnings f: which of them the model takes does not count.

        Args:
            asked: n wordings, each with a name and a value.
        """
        unique = {one: number for number, one in enumerate(dict.fromkeys(asked))}
        encoded: list[Encoded] = []
        parts: list[int] = []
        for wording, name, value in unique:
            prompt = self.prompt(wording.question, name)
            for begin in wording.begins:
                before = self.ids(filled(begin, name)) if begin.strip() else ()
                own = self._following(begin, _joined(begin, value)) if begin.strip() else self.ids(begin + value)
                scored = before if wording.question else ()
                ids = prompt + before + own
                mask = (False,) * (len(ids) - len(scored) - len(own)) + (True,) * (len(scored) + len(own))
                encoded.append(Encoded(str(len(encoded)), ids, mask, mask, len(prompt)))
                parts.append(len(scored))
        losses = iter(zip(answer_scores(self.lm, encoded), parts, strict=True))
        found = np.empty(len(unique))
        for (wording, _, _), number in unique.items():
            whole, begun = [], []
            for _ in wording.begins:
                scores, length = next(losses)
                whole.append(-scores.losses.sum())
                begun.append(-scores.losses[:length].sum())
            found[number] = np.logaddexp.reduce(whole) - np.logaddexp.reduce(begun)
        return found[[unique[one] for one in asked]]


def _answer(wording: Wording, prompt: Ids, said: Generated, *, sampled: bool) -> Answer:
    return Answer(wording, said.text, sampled, prompt, said.ids, not said.finished)


def _joined(begin: str, value: str) -> str:
    """The value as it stands behind a beginning: at once behind an opening quote or bracket, else behind a space."""
    return value if begin[-1] in OPENING else f" {value}"


def _asked(question: str) -> Record:
    return Record("", "chat", (Turn("user", question),), where="a question", unanswered=True)
