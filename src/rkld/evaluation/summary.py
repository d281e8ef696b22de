"""One measurement of a model on records, to be set side by side before and after unlearning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rkld.evaluation.answering import MARGIN, greedy_answers
from rkld.evaluation.likelihood import answer_scores
from rkld.evaluation.metric import RecordMetric
from rkld.evaluation.readings import Rows, answer_rows, likelihood_rows
from rkld.evaluation.registry import METRICS
from rkld.records.record import by_answer

if TYPE_CHECKING:
    from rkld.evaluation.likelihood import Scores
    from rkld.evaluation.metric import Values
    from rkld.models.language_model import LanguageModel
    from rkld.records.encoding import Encoder
    from rkld.records.record import Record

SHOWN = ("probability", "rouge_l", "facts_said")
"""The metrics of :meth:`Measurement.values`."""


@dataclass(frozen=True)
class Measurement:
    """A model's metrics on ``n`` records, over all and one by one, in their order. Plain numbers and strings.

    Every answer of a conversation is asked for in its own context, so there may be more ``answers`` than records
    (:meth:`rkld.records.record.Record.by_answer`). They are what the model generated, so they can hold personal data;
    ``values()`` does not.
    """

    keys: tuple[str, ...]
    probabilities: tuple[float, ...]  # exp(−mean loss per answer token), end of turn included
    answers: tuple[str, ...] | None = None  # greedy; None where none were requested, likewise below
    cut: tuple[bool, ...] | None = None  # whether the answer was cut before its end
    rouge_l_recalls: tuple[float, ...] | None = None  # of a cut answer, up to there
    tofu_rouge_l_recalls: tuple[float, ...] | None = None
    facts: tuple[tuple[bool | None, ...], ...] | None = None  # for each span of an answer: is it said? None: not seen

    otherwise: Mapping[str, Sequence[bool | None]] | None = None  # kind of wording → its facts, as above

    @property
    def worst_kind_facts_said(self) -> float | None:
        """The share of the kind of wording that was asked in besides, and may have said most; None without any."""
        return _share(self._worst_kind) if self.otherwise else None

    @property
    def n(self) -> int:
        return len(self.keys)

    @property
    def probability(self) -> float:
        """Mean over records."""
        return float(np.mean(self.probabilities))

    @property
    def rouge_l(self) -> float | None:
        """ROUGE-L recall of the greedy against the gold answers, mean over answers."""
        return None if self.rouge_l_recalls is None else float(np.mean(self.rouge_l_recalls))

    @property
    def facts_said(self) -> float | None:
        """Share of all spans, over all answers, that these say up to where they were cut; None where there are none."""
        flags = [flag for some in self.facts or () for flag in some]
        return _share(flags) if flags else None

    @property
    def facts_unseen(self) -> int:
        """How many of the spans were not said by an answer that was cut, which might have said them."""
        return sum(map(_unseen, self.facts or ()))

    @property
    def _worst_kind(self) -> Sequence[bool | None]:
        """The facts of the kind of wording with the highest share, what was not seen counted as said; of equal ones the
        kind that said more."""
        kinds = (self.otherwise or {}).values()
        return max(kinds, key=lambda flags: (_share([flag is not False for flag in flags]), _share(flags)), default=())

    def values(self) -> dict[str, float | int | None]:
        """The metrics over all records, by their names in the registry, without any text."""
        besides: dict[str, float | int | None] = {}
        if self.otherwise is not None:
            besides["worst_kind_facts_said"] = self.worst_kind_facts_said
            besides["worst_kind_facts"] = len(self._worst_kind)
            besides["worst_kind_facts_unseen"] = _unseen(self._worst_kind)
        figures = {name: getattr(self, name) for name in SHOWN}
        facts = sum(map(len, self.facts or ()))
        return {"n": self.n, **figures, "facts": facts, "facts_unseen": self.facts_unseen, **besides}


def _share(flags: Sequence[bool | None]) -> float:
    return float(np.mean([bool(flag) for flag in flags]))


def _unseen(flags: Sequence[bool | None]) -> int:
    return sum(flag is None for flag in flags)


def measure(
    lm: LanguageModel,
    encoder: Encoder,
    records: Sequence[Record],
    *,
    answers: bool = True,
    max_new_tokens: int | None = None,
    scores: Sequence[Scores] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Measurement:
    """Probability of the records' answers and, if ``answers``, the model's own greedy ones beside them.

    It answers each question of a record, to be compared with the answer recorded to it; a text is continued from its
    prefix. ``max_new_tokens`` is the longest answer; by default as long as the recorded one and
    :data:`rkld.evaluation.answering.MARGIN` more. ``scores`` are those of the records' answers where answer_scores has
    made them already. ``progress`` is called with the number of answers just made. ValueError without records.
    """
    if not records:
        raise ValueError("there are no records to measure")
    if scores is None:
        scores = answer_scores(lm, [encoder.encode(record) for record in records])
    likelihood = likelihood_rows(lm, encoder, records, scores=scores, memorisation=False)
    keys, probabilities = tuple(record.key for record in records), tuple(_values("probability", likelihood).values())
    if not answers:
        return Measurement(keys, probabilities)
    asked = by_answer(records)
    generated = greedy_answers(
        lm,
        encoder,
        asked,
        max_new_tokens=max_new_tokens,
        at_least=MARGIN,
        scores=scores if len(asked) == len(records) else None,
        progress=progress,
    )
    rows = list(answer_rows(asked, generated, encoder=encoder).values())
    return Measurement(
        keys,
        probabilities,
        answers=tuple(row["answer"] for row in rows),
        cut=tuple(row["cut"] for row in rows),
        rouge_l_recalls=tuple(row["rouge_l"] for row in rows),
        tofu_rouge_l_recalls=tuple(row["tofu_rouge_l"] for row in rows),
        facts=tuple(tuple(row["facts"]) for row in rows),
    )


def _values(name: str, rows: Rows) -> Values:
    metric = METRICS.get(name)
    assert isinstance(metric, RecordMetric)
    return metric.values(rows)
