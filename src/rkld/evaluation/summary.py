"""One measurement of a model on records, to be set side by side before and after unlearning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rkld.evaluation.generation import greedy, known_starts
from rkld.evaluation.likelihood import answer_scores, probability
from rkld.evaluation.tofu import rouge_l_recall
from rkld.text.facts import facts_said

if TYPE_CHECKING:
    from rkld.evaluation.likelihood import Scores
    from rkld.models.language_model import LanguageModel
    from rkld.records.encoding import Encoder
    from rkld.records.record import Record


@dataclass(frozen=True)
class Measurement:
    """A model's figures on ``n`` records, over all and one by one, in their order. Plain numbers and strings.

    ``answers`` holds what the model said, so it can hold personal data; ``values()`` does not.
    """

    keys: tuple[str, ...]
    probabilities: tuple[float, ...]  # exp(−mean loss per answer token), end of turn included
    answers: tuple[str, ...] | None = None  # greedy; None where none were asked for, and so for what follows
    rouge_l_recalls: tuple[float, ...] | None = None
    facts: tuple[tuple[bool, ...], ...] | None = None  # for each span of the record's answer: was it said?

    @property
    def n(self) -> int:
        return len(self.keys)

    @property
    def probability(self) -> float:
        """Mean over records."""
        return float(np.mean(self.probabilities))

    @property
    def rouge_l(self) -> float | None:
        """ROUGE-L recall of the greedy against the gold answers, mean over records."""
        return None if self.rouge_l_recalls is None else float(np.mean(self.rouge_l_recalls))

    @property
    def facts_said(self) -> float | None:
        """Share of all spans, over all records, that the greedy answers say; None where there are none."""
        said = [one for some in self.facts or () for one in some]
        return float(np.mean(said)) if said else None

    def values(self) -> dict[str, float | int | None]:
        """The figures over all records, without any text."""
        return {
            "n": self.n,
            "probability": self.probability,
            "rouge_l": self.rouge_l,
            "facts_said": self.facts_said,
        }


def measure(
    lm: LanguageModel,
    encoder: Encoder,
    records: Sequence[Record],
    *,
    answers: bool = True,
    max_new_tokens: int = 200,
    scores: Sequence[Scores] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Measurement:
    """Probability of the records' answers and, if ``answers``, what the model says itself, greedily.

    It answers the record's last question, to be compared with the record's last answer; a text is continued
    from its prefix. ``scores`` are those of the records' answers where answer_scores has made them already.
    ``progress`` is called with the number of answers just made. ValueError without records.
    """
    if not records:
        raise ValueError("there are no records to measure")
    encoded = [encoder.encode(record) for record in records]
    keys = tuple(record.key for record in records)
    scores = answer_scores(lm, encoded) if scores is None else scores
    probabilities = tuple(probability(lm, encoded, scores=scores).tolist())
    if not answers:
        return Measurement(keys, probabilities)
    prompts = [e.ids[: e.prompt_length] for e in encoded]
    starts = known_starts(lm, encoded, scores)
    spoken = greedy(lm, prompts, max_new_tokens=max_new_tokens, starts=starts, progress=progress)
    said = [answer.text for answer in spoken]
    gold = [gold_answer(record, encoder) for record in records]
    return Measurement(
        keys,
        probabilities,
        tuple(said),
        tuple(rouge_l_recall(answer, right) for answer, right in zip(said, gold, strict=True)),
        tuple(_facts(*one) for one in zip(records, said, gold, strict=True)),
    )


def gold_answer(record: Record, encoder: Encoder | None) -> str:
    """What a generated answer is compared with: of a text, the part behind its prefix (all of it without encoder)."""
    if record.form != "text" or encoder is None:
        return record.answer
    encoded = encoder.encode(record)
    return encoder.tokenizer.decode(encoded.ids[encoded.prompt_length :], skip_special_tokens=True)


def _facts(record: Record, said: str, gold: str) -> tuple[bool, ...]:
    """Which spans of ``gold`` are in ``said`` too; those in a question or prefix need not be said again."""
    in_gold = facts_said(record.spans, gold)
    return tuple(facts_said([s for s, there in zip(record.spans, in_gold, strict=True) if there], said))
