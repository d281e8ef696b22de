"""Readings of a model: what is measured on each record, as rows of plain values, made in one place.

Columns of each reading, and the function that makes them:

- ``likelihood`` (:func:`likelihood_rows`): ``loss``, mean nats per answer token; ``extraction_strength``,
  ``exact_memorisation``;
- ``token_losses`` (:func:`token_loss_rows`): ``fact_loss`` and ``template_loss``, mean nats per token;
- ``answers`` (:func:`answer_rows`): ``answer``, the greedy answer (``answers``, one per mode, where there are several);
  ``cut``; ``rouge_l``, its recall, ``rouge_l_f1`` (of plain texts ``continued_f1``, too), and ``tofu_rouge_l``, the
  recall by TOFU's definition; ``facts``, a flag for each fact of the record; ``parts``, for each fact the share of its
  words that is said; ``claims``, whether it names something that was not asked with; ``repetition``;
- ``contrast`` (:func:`contrast_rows`): ``loss``, ``paraphrase_loss``, and ``perturbed_loss`` (a list: one for each
  wrong answer).

Metrics (:mod:`rkld.evaluation.metrics`) are computed of these rows alone. Rows with answers hold personal data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rkld.evaluation import tofu
from rkld.evaluation.answering import was_cut
from rkld.evaluation.likelihood import answer_scores
from rkld.evaluation.memorisation import answer_hits, exact_memorisation, extraction_strength, fact_tokens
from rkld.evaluation.questions import mean_losses, question_scores
from rkld.evaluation.rouge import rouge_l_f1, rouge_l_recall
from rkld.text.facts import facts_said, repetition, shares_said
from rkld.text.wording import proper_nouns

if TYPE_CHECKING:
    from rkld.evaluation.generation import Generated
    from rkld.evaluation.likelihood import Scores
    from rkld.models.language_model import LanguageModel
    from rkld.records.encoding import Encoder
    from rkld.records.record import Record

Rows = dict[str, dict[str, Any]]
"""A record's key → column → value."""


def by_key(records: Sequence[Record], columns: Mapping[str, Any]) -> Rows:
    """Rows of plain numbers from columns (n, …). ValueError where two records have one key."""
    if len({record.key for record in records}) != len(records):
        raise ValueError("two records have the same key: their rows would be ambiguous")
    plain = {name: np.asarray(values, dtype=float).tolist() for name, values in columns.items()}
    return {record.key: {name: values[i] for name, values in plain.items()} for i, record in enumerate(records)}


def likelihood_rows(
    lm: LanguageModel,
    encoder: Encoder,
    records: Sequence[Record],
    *,
    scores: Sequence[Scores] | None = None,
    memorisation: bool = True,
) -> Rows:
    """How likely the records' answers are, and how much of them is recited.

    Args:
        scores: of the records' answers where :func:`rkld.evaluation.likelihood.answer_scores` has made them already.
        memorisation: with the columns that tell how much is recited.

    Raises:
        ValueError: a record without an answer token.
    """
    encoded = [encoder.encode(record) for record in records]
    scores = answer_scores(lm, encoded) if scores is None else scores
    for record, found in zip(records, scores, strict=True):
        if not found.losses.size:
            raise ValueError(f"record {record.key} has no answer token, so it has no probability")
    columns: dict[str, Any] = {"loss": [found.losses.mean() for found in scores]}
    if memorisation:
        hits = answer_hits(lm, encoded, scores)
        columns["extraction_strength"] = extraction_strength(hits)
        columns["exact_memorisation"] = exact_memorisation(hits)
    return by_key(records, columns)


TOKENS = {"fact_loss": 1, "template_loss": 0}
"""Column of :func:`token_loss_rows` → which tokens (:func:`rkld.evaluation.memorisation.fact_tokens`)."""


def token_loss_rows(
    encoder: Encoder, records: Sequence[Record], facts: Mapping[str, Sequence[str]], losses: Sequence[np.ndarray]
) -> Rows:
    """Mean losses of the answers' fact tokens and of their other words, apart; of what an answer has none is left out.

    Args:
        facts: a record's key → its facts.
        losses: of each record's answer tokens (:func:`rkld.evaluation.likelihood.answer_losses`).
    """
    rows: Rows = {}
    for record, found in zip(records, losses, strict=True):
        kinds = fact_tokens(encoder, record, facts[record.key])
        means = {name: float(found[kinds == kind].mean()) for name, kind in TOKENS.items() if (kinds == kind).any()}
        if means:
            rows[record.key] = means
    return rows


def answer_rows(
    records: Sequence[Record],
    answers: Sequence[Sequence[Generated]],
    facts: Mapping[str, Sequence[str]] | None = None,
    encoder: Encoder | None = None,
) -> Rows:
    """Generated answers beside the recorded ones.

    A record that was asked in several modes says what it says in any of them. What an answer that was cut
    (:func:`rkld.evaluation.answering.was_cut`) does not say was not measured: None.

    Args:
        answers: for each record one answer per mode, that to its own format first.
        facts: a record's key → what is looked for; by default its spans. Those that stand in the question or prefix,
            not in the recorded answer, are left out.
        encoder: needed for plain texts, whose prefix is no part of the answer.
    """
    rows: Rows = {}
    for record, given in zip(records, answers, strict=True):
        gold, texts = gold_answer(record, encoder), [answer.text for answer in given]
        expected = facts_in(record.spans if facts is None else facts.get(record.key, ()), gold)
        cut = [was_cut(record, answer) for answer in given]
        rows[record.key] = {
            "answer": texts[0],
            **({"answers": texts} if len(texts) > 1 else {}),
            "cut": any(cut),
            "rouge_l": max(rouge_l_recall(text, gold) for text in texts),
            "rouge_l_f1": (f1 := max(rouge_l_f1(text, gold) for text in texts)),
            **({"continued_f1": f1} if record.form == "text" else {}),
            "tofu_rouge_l": tofu.rouge_l_recall(texts[0], gold),
            "facts": worst([flags_said(expected, text, c) for text, c in zip(texts, cut)]),
            "parts": most([shares_said(expected, text, record.before) for text in texts]),
            "claims": any(claims(text, "" if record.form == "text" else record.before) for text in texts),
            "repetition": repetition(texts[0]),
        }
    return rows


def claims(answer: str, before: str) -> bool:
    """Whether an answer states a name, date or number that stands in nothing said ``before`` it, true or not."""
    named = proper_nouns(answer)
    return not all(facts_said(named, before))


def flags_said(facts: Sequence[str], answer: str, cut: bool) -> list[bool | None]:
    """For each fact whether an answer says it; None where that was not seen, as the answer was cut."""
    return [said or (None if cut else False) for said in facts_said(facts, answer)]


def worst(flags: Sequence[Sequence[bool | None]]) -> list[bool | None]:
    """Of several answers' flags (k, facts): true where one is, else None where one is; (facts,)."""
    return [True if True in found else None if None in found else False for found in zip(*flags, strict=True)]


def most(shares: Sequence[Sequence[float]]) -> list[float]:
    """Of several answers' shares (k, facts) the largest: (facts,)."""
    return [max(found) for found in zip(*shares, strict=True)]


def contrast_rows(lm: LanguageModel, encoder: Encoder, records: Sequence[Record]) -> Rows:
    """Losses of right, paraphrased and wrong answers; ValueError where a record has none of the last."""
    return by_key(records, loss_columns(question_scores(lm, encoder, records))) if records else {}


def loss_columns(scores: Sequence[Sequence[Scores]]) -> dict[str, np.ndarray]:
    """Columns of :func:`contrast_rows` (n,) or (n, k), of :func:`rkld.evaluation.questions.question_scores`."""
    losses = mean_losses(scores)
    return {"loss": losses.pop("gold_loss"), **losses}


def facts_in(facts: Sequence[str], text: str) -> list[str]:
    """Those that ``text`` says."""
    return [fact for fact, there in zip(facts, facts_said(facts, text), strict=True) if there]


def gold_answer(record: Record, encoder: Encoder | None) -> str:
    """What a generated answer is compared with: of a text, the part behind its prefix (all of it without encoder)."""
    if record.form != "text" or encoder is None:
        return record.answer
    encoded = encoder.encode(record)
    found: str = encoder.tokenizer.decode(encoded.ids[encoded.prompt_length :], skip_special_tokens=True)
    return found
