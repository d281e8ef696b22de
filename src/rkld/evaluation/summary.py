"""One measurement of a model on records, to be set side by side before and after unlearning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rkld.evaluation.likelihood import answer_scores
from rkld.evaluation.metric import RecordMetric
from rkld.evaluation.readings import Rows, answer_rows, greedy_answers, likelihood_rows
from rkld.evaluation.registry import METRICS

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

    ``answers`` holds what the model generated, so it can hold personal data; ``values()`` does not.
    """

    keys: tuple[str, ...]
    probabilities: tuple[float, ...]  # exp(−mean loss per answer token), end of turn included
    answers: tuple[str, ...] | None = None  # greedy; None where none were requested, likewise below
    rouge_l_recalls: tuple[float, ...] | None = None
    facts: tuple[tuple[bool, ...], ...] | None = None  # for each span of the record's answer: does the answer say it?

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
        flags = [flag for some in self.facts or () for flag in some]
        return float(np.mean(flags)) if flags else None

    def values(self) -> dict[str, float | int | None]:
        """The metrics over all records, by their names in the registry, without any text."""
        return {"n": self.n, **{name: getattr(self, name) for name in SHOWN}}


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
    """Probability of the records' answers and, if ``answers``, the model's own greedy ones beside them.

    It answers the record's last question, to be compared with the record's last answer; a text is continued
    from its prefix. ``scores`` are those of the records' answers where answer_scores has made them already.
    ``progress`` is called with the number of answers just made. ValueError without records.
    """
    if not records:
        raise ValueError("there are no records to measure")
    if scores is None:
        scores = answer_scores(lm, [encoder.encode(record) for record in records])
    likelihood = likelihood_rows(lm, encoder, records, scores=scores, memorisation=False)
    keys, probabilities = tuple(record.key for record in records), tuple(_values("probability", likelihood).values())
    if not answers:
        return Measurement(keys, probabilities)
    generated = greedy_answers(lm, encoder, records, max_new_tokens=max_new_tokens, scores=scores, progress=progress)
    rows = answer_rows(records, generated, encoder=encoder)
    flags: dict[str, list[bool]] = {key: [] for key in keys}
    for name, flag in _values("facts_said", rows).items():
        flags[name.rpartition("/")[0]].append(bool(flag))
    return Measurement(
        keys,
        probabilities,
        tuple(generated),
        tuple(_values("rouge_l", rows).values()),
        tuple(map(tuple, flags.values())),
    )


def _values(name: str, rows: Rows) -> Values:
    metric = METRICS.get(name)
    assert isinstance(metric, RecordMetric)
    return metric.values(rows)
