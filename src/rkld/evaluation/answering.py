"""How records are asked for their last answers: in every mode that the template has, with room for the right answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rkld.evaluation.generation import Generated, followed, greedy, known_prefixes
from rkld.evaluation.likelihood import answer_scores

if TYPE_CHECKING:
    from rkld.evaluation.likelihood import Scores
    from rkld.models.language_model import LanguageModel
    from rkld.records.encoding import Encoder
    from rkld.records.record import Record

MARGIN = 64
"""New tokens beyond those of the recorded answer, as the model may word it otherwise."""

THOUGHTS = 1024
"""New tokens more for a model that may think before it answers (its template has several modes)."""

SHORTEST = 200
"""New tokens that every answer may have at least, as in TOFU."""


def answer_cap(
    encoder: Encoder, record: Record, *, max_new_tokens: int | None, at_least: int = SHORTEST, modes: int = 1
) -> int:
    """How many new tokens an answer to this record may have: the recorded answer's and more, so that it can be said.

    Args:
        max_new_tokens: the user's own bound, which counts alone.
        at_least: the smallest that is chosen without it.
        modes: in which the record is asked.
    """
    if max_new_tokens is not None:
        return max_new_tokens
    gold = 0
    if record.answer:
        encoded = encoder.encode(record)
        gold = len(encoded.ids) - encoded.prompt_length
    return max(at_least, gold + MARGIN) + (THOUGHTS if modes > 1 else 0)


def greedy_answers(
    lm: LanguageModel,
    encoder: Encoder,
    records: Sequence[Record],
    *,
    max_new_tokens: int | None = None,
    at_least: int = SHORTEST,
    prompts: Sequence[Sequence[Sequence[int]]] | None = None,
    scores: Sequence[Scores] | None = None,
    follow: bool = False,
    progress: Callable[[int], object] | None = None,
) -> list[list[Generated]]:
    """For each record the greedy answers to its last question (of a text, its continuation), one for each mode.

    Args:
        max_new_tokens, at_least: as in :func:`answer_cap`.
        prompts: for each record those it is asked with; by default :meth:`rkld.records.encoding.Encoder.prompts`.
        scores: of the records' answers, where :func:`rkld.evaluation.likelihood.answer_scores` has made them already:
            what the model would generate of the right answer in any case is taken from them.
        follow: whether answers that repeat themselves are followed to see if they ever end
            (:func:`rkld.evaluation.generation.followed`), unless ``max_new_tokens`` is given.
        progress: called with the number of records just answered in their own format.
    """
    known: Sequence[Sequence[int]] | None = None
    if prompts is None:
        prompts = [encoder.prompts(record) for record in records]
        if all(record.answer for record in records):
            encoded = [encoder.encode(record) for record in records]
            scores = answer_scores(lm, encoded) if scores is None else scores
            known = known_prefixes(lm, encoded, scores)
    caps = [
        answer_cap(encoder, record, max_new_tokens=max_new_tokens, at_least=at_least, modes=len(own))
        for record, own in zip(records, prompts, strict=True)
    ]
    first = greedy(lm, [own[0] for own in prompts], max_new_tokens=caps, starts=known, progress=progress)
    others = [(i, prompt) for i, own in enumerate(prompts) for prompt in own[1:]]
    more = greedy(lm, [prompt for _, prompt in others], max_new_tokens=[caps[i] for i, _ in others])
    if follow and max_new_tokens is None:
        first = followed(lm, [own[0] for own in prompts], first)
        more = followed(lm, [prompt for _, prompt in others], more)
    found = [[answer] for answer in first]
    for (i, _), answer in zip(others, more, strict=True):
        found[i].append(answer)
    return found


def was_cut(record: Record, answer: Generated) -> bool:
    """Whether an answer was cut before its end. Plain text has none: there the last token counts as the end."""
    return record.form != "text" and not (answer.finished or answer.endless)
