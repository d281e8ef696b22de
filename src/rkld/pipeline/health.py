"""What a run finds out by itself: whether the records were known at all, and whether the rest has suffered.

Nothing of it steers training or stopping.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np

from rkld.evaluation.fluency import gibberish, vocabulary
from rkld.evaluation.likelihood import answer_losses
from rkld.files import DATA, read_jsonl
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoder
from rkld.records.reading import read_prompts
from rkld.records.record import Record
from rkld.stopping.references import match_invented_names

EVERYDAY_TOKENS = 32
"""Generated for each everyday prompt: enough to see a model that answers nothing any more."""

KNOWN = 0.4
"""Nats per token that records are more probable than the same about invented people, where a model knows them.

SmolLM2-135M-Instruct: 0.74 and 1.13 for records about Charles Darwin, 0.08 to 0.30 for those of four invented people.
"""

PROBABLE = 0.5
"""Mean probability of records from which on a model knows them, whomever else it says them of: retrained models that
never saw them, but others in the same words, have .08 (TOFU's authors), .25 (employees) and .37 (tiny world)."""

HARDLY = 0.05
"""Mean probability of records below which a model does not say them, though the same about invented people is less
probable still: its facts may be somebody else's, and the name one that it never met (tiny world: .001, +0.62 nats)."""

READ = 40
"""Records that are compared with invented people's."""

SAID = 0.1
"""Share of facts that a model may guess of a stranger."""

SUFFERED = 0.7
"""Of its probability before, what a set of other records must keep."""

REPEATED = 0.6
"""Of the words of the original's answers to everyday prompts, what the unlearned model's must still say (ROUGE-L
recall). SmolLM2-135M, one person forgotten: .65 to .86; .43 where three steps at 1e-4 were too many for it, .51 after
the eight that the stop took for Nelson Mandela, own answers and all, where a date had become "24 October 20.20.20"."""

BROKEN = 0.25
"""Share of its answers to everyday prompts that may have become gibberish."""


def everyday_prompts() -> list[Record]:
    """Shipped prompts about nobody in particular, of which :func:`rkld.records.replay.generic_prompts` has none."""
    return read_prompts(read_jsonl(DATA / "everyday_prompts.jsonl"))


def advantage(
    lm: LanguageModel, encoder: Encoder, records: Sequence[Record], identifiers: Sequence[str], score: str, seed: int
) -> float | None:
    """Mean loss per token of the same records about invented people, less that of the records; nats, over records.

    Both are taken of the tokens that a record and its copies share, of at most :data:`READ` records. None where none
    of them names the person.
    """
    some = random.Random(seed).sample(records, min(READ, len(records)))
    matched = match_invented_names(some, records, encoder, identifiers, score, seed)
    if matched is None:
        return None
    copies = matched.distinct_matches
    losses = [float(found.mean()) for found in answer_losses(lm, [*matched.records, *copies], mask="scored")]
    of_copies = {e.key: loss for e, loss in zip(copies, losses[len(matched.records) :], strict=True)}
    pairs = zip(losses, matched.matches, strict=False)
    return float(np.mean([np.mean([of_copies[e.key] for e in some]) - loss for loss, some in pairs]))


def most_said(figures: Mapping[str, float | None]) -> float | None:
    """The share of the records' facts that answers say in the kind of wording that brings out most; None of none."""
    asked = (figures.get(name) for name in ("facts_said", "worst_kind_facts_said"))
    return max((said for said in asked if said is not None), default=None)


def unknown(found: float | None, probability: float, facts_said: float | None = None) -> str | None:
    """The warning about a model that does not seem to know the records; None where it does, or nothing tells.

    Args:
        found: :func:`advantage`.
        probability: of the records, their mean.
        facts_said: :func:`most_said`.
    """
    if found is None or (facts_said or 0.0) > SAID or probability >= (PROBABLE if found < KNOWN else HARDLY):
        return None
    if found >= KNOWN:
        says = "" if facts_said is None else f", and its own answers say {facts_said:.0%} of their facts"
        return (
            f"The model does not seem to know the records: they are improbable ({probability:.3f} a token){says}, even "
            f"if the same about invented people is less probable still ({found:+.2f} nats per token). It may know the "
            "facts of somebody else: check the name, and the questions and the prompt format with --chat-template. A "
            "run trains all the same, and its figures show no forgetting."
        )
    said = "" if facts_said is None else f", and its own answers say {facts_said:.0%} of their facts"
    return (
        "The model does not seem to know the records: they are hardly more probable than the same about invented "
        f"people ({found:+.2f} nats per token; from {KNOWN} on they are known){said}. There may be nothing to forget: "
        "compare the questions with what the model was trained on, and the prompt format with --chat-template. A run "
        "trains all the same, to its last step if no stop can aim at anything, and its figures show no forgetting."
    )


def of_anybody(found: float | None, probability: float) -> str | None:
    """The warning about a model that says the records of anybody who is asked about; None where it does not. As
    :func:`unknown`."""
    if found is None or found >= KNOWN or probability < PROBABLE:
        return None
    return (
        f"The model says the facts of the records of anybody: they are probable ({probability:.2f}), and hardly more "
        f"so than the same about invented people ({found:+.2f} nats per token). So what it says of others may change "
        "with them: give questions about others with --replay, and records with --retain."
    )


def suffered(before: Mapping[str, float], after: Mapping[str, float], gentler: Sequence[str]) -> list[str]:
    """A warning for each set of records but the forget records whose probability has fallen far.

    Args:
        gentler: settings that the method reads, of which lower values change less.
    """
    found = []
    for name, now in after.items():
        then = before[name]
        if name != "forget" and not now >= SUFFERED * then:
            what = "its own answers to everyday prompts" if name == "everyday" else "the retain records"
            found.append(
                f"The rest of the model has suffered: probability of {what} {then:.3f} before, {now:.3f} "
                f"after. {_lower(gentler)}."
            )
    return found


def _lower(settings: Sequence[str]) -> str:
    named = " or ".join(filter(None, (", ".join(settings[:-1]), settings[-1])))
    return f"Lower {named}, or give more to hold it with --replay or --retain"


def otherwise(everyday: float | None, gentler: Sequence[str]) -> str | None:
    """A warning where answers to everyday prompts have become others; None where they have not, or nobody looked.

    Args:
        everyday: mean ROUGE-L recall of the unlearned model's answers to the original's.
        gentler: as :func:`suffered`.
    """
    if everyday is None or everyday >= REPEATED:
        return None
    return (
        f"Everyday prompts are answered otherwise: of the words of the original's answers its own say {everyday:.3f}. "
        f"Read some of them. {_lower(gentler)}."
    )


def broken(answered: Sequence[Record], answers: Sequence[str]) -> str | None:
    """A warning where answers to everyday prompts have become gibberish; None where they have not.

    Args:
        answered: (n) the prompts with the original's own answers.
        answers: (n) the unlearned model's.
    """
    then = [record.answer for record in answered]
    known = vocabulary([*then, *(record.question for record in answered)])
    more = sum(gibberish(answers, known=known)) - sum(gibberish(then, known=known))
    if not answers or more <= BROKEN * len(answers):
        return None
    return (
        f"The model is broken: {more} more of its {len(answers)} answers to everyday prompts are gibberish than of the "
        "original's. Lower --lr or --epochs."
    )
