"""What is read of each model: a reading is made once, takes long, and is kept; figures are made of readings.

A reading is a mapping of plain values, rows by the key of their record. It holds what the model said, so it can hold
personal data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rkld.auditing.attacks.prompts import PREFIXES, with_context
from rkld.auditing.attacks.quantisation import quantised
from rkld.auditing.attacks.relearning import relearn
from rkld.auditing.backends import LocalSpeaker, Speaker
from rkld.evaluation.fluency import answers_under
from rkld.evaluation.likelihood import answer_scores
from rkld.evaluation.membership import attack_scores
from rkld.evaluation.memorisation import answer_hits, blanks, exact_memorisation, extraction_strength, fill_in, filled
from rkld.evaluation.questions import question_losses
from rkld.evaluation.readings import gold_answer
from rkld.evaluation.tofu import rouge_l_recall
from rkld.records.probes import unnamed_questions
from rkld.text.facts import facts_said, repetition

if TYPE_CHECKING:
    from rkld.auditing.inputs import Task
    from rkld.models.language_model import LanguageModel
    from rkld.progress import Silent
    from rkld.records.encoding import Encoder
    from rkld.records.record import Record


CONTEXT = 3
"""Other answers about the person that are put before a question."""


Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Reader:
    """One model to be read: by its weights, or as a server answers for it (``lm`` is None then)."""

    role: str
    speaker: Speaker
    encoder: Encoder | None
    lm: LanguageModel | None
    task: Task
    progress: Silent

    def answers(self, title: str, records: Sequence[Record], starts: Sequence[str] | None = None) -> Rows:
        """Greedy answers: the text, its ROUGE-L recall, which facts of the record it says, and how it repeats."""
        with self.progress.bar(f"{self.role}: {title}", len(records)) as advance:
            said = self.speaker.answers(
                records, max_new_tokens=self.task.settings.max_new_tokens, starts=starts, progress=advance
            )
        return {
            record.key: {
                "answer": text,
                "rouge_l": rouge_l_recall(text, self.gold(record)),
                "facts": facts_said(self.facts(record), text),
                "repetition": repetition(text),
            }
            for record, text in zip(records, said, strict=True)
        }

    def gold(self, record: Record) -> str:
        return gold_answer(record, self.encoder)

    def facts(self, record: Record) -> list[str]:
        """What must not be said; of a text, what stands behind its prefix."""
        gold = self.gold(record)
        return [fact for fact in self.task.facts.get(record.key, ()) if facts_said([fact], gold)[0]]


@dataclass(frozen=True)
class Reading:
    """One thing to read.

    Attributes:
        name: of its file, and in the list of what was not run.
        read: reads it.
        lacks: why it cannot be read with this task, or None.
        weights: it needs the model itself, not just its answers.
        attack: it is made only where this attack is asked for.
        settings: what it depends on beside model, template and records: one made with others is made anew.
    """

    name: str
    read: Callable[[Reader], Mapping[str, Any]]
    lacks: Callable[[Task], str | None] = lambda task: None
    weights: bool = True
    attack: str | None = None
    settings: tuple[str, ...] = ()

    def not_run(self, task: Task, served: bool) -> str | None:
        """Why it is not made of this model, or None."""
        if self.attack and self.attack not in task.settings.chosen_attacks:
            return f"not asked for with --attacks {self.attack}"
        if served and self.weights:
            return "needs the model's weights, not only its answers"
        return self.lacks(task)


# The records themselves


def _likelihood(reader: Reader) -> Rows:
    """Mean loss per answer token; of a model at hand also how much of the answer is recited."""
    records = reader.task.forget
    if reader.lm is None:
        losses = reader.speaker.losses(records)
        if losses is None:
            return {}
        return {record.key: {"loss": float(found.mean())} for record, found in zip(records, losses, strict=True)}
    return likelihood_rows(reader.lm, reader.encoder, records)


def likelihood_rows(lm: LanguageModel, encoder: Encoder, records: Sequence[Record]) -> Rows:
    encoded = [encoder.encode(record) for record in records]
    scores = answer_scores(lm, encoded)
    hits = answer_hits(lm, encoded, scores)
    columns = {
        "loss": [found.losses.mean() for found in scores],
        "extraction_strength": extraction_strength(hits),
        "exact_memorisation": exact_memorisation(hits),
    }
    return by_key(records, columns)


def _contrast(reader: Reader) -> Rows:
    records = reader.task.contrasted
    return by_key(records, question_losses(reader.lm, reader.encoder, records))


def _membership(reader: Reader) -> dict[str, Rows]:
    sets = {"forget": reader.task.forget, "holdout": reader.task.holdout}
    return {name: by_key(records, attack_scores(reader.lm, reader.encoder, records)) for name, records in sets.items()}


def _fill_in(reader: Reader) -> Rows:
    given = [
        blank
        for record in reader.task.forget
        for blank in blanks(reader.encoder, record, reader.task.facts[record.key])
    ]
    if not given:
        return {}
    said = fill_in(reader.lm, given, reader.task.settings.top)
    rows: Rows = {}
    for blank, completions, leaks in zip(given, said, filled(given, said).tolist(), strict=True):
        row = rows.setdefault(blank.key, {"completions": [], "filled": []})
        row["completions"].append(list(completions))
        row["filled"].append(leaks)
    return rows


# Attacks that ask


def _samples(reader: Reader) -> Rows:
    settings = reader.task.settings
    records = [record for record in reader.task.forget if reader.facts(record)]
    with reader.progress.bar(f"{reader.role}: samples", len(records) * settings.samples) as advance:
        said = reader.speaker.samples(
            records, settings.samples, seed=settings.seed, max_new_tokens=settings.max_new_tokens, progress=advance
        )
    return {
        record.key: {"leaks": [any(facts_said(reader.facts(record), text)) for text in texts], "answers": texts}
        for record, texts in zip(records, said, strict=True)
    }


def _prefixes(reader: Reader) -> dict[str, Rows]:
    """By the number of the prefix in :data:`rkld.auditing.attacks.prompts.PREFIXES`."""
    records = reader.task.forget
    return {
        str(number): reader.answers(f"prefix {number}", records, [prefix] * len(records))
        for number, prefix in enumerate(PREFIXES, 1)
    }


# Attacks on the weights


def _quantised(bits: int) -> Callable[[Reader], dict[str, Rows]]:
    def read(reader: Reader) -> dict[str, Rows]:
        found = {}
        for adapter in ("merged", "base") if reader.lm.is_adapter else ("merged",):
            name = "" if adapter == "merged" else "base_"
            with quantised(reader.lm, bits, adapter=adapter) as lm:
                here = Reader(
                    f"{reader.role}, {bits}-bit", LocalSpeaker(lm, reader.encoder), reader.encoder, lm, reader.task,
                    reader.progress,
                )  # fmt: skip
                found[f"{name}likelihood"] = likelihood_rows(lm, reader.encoder, reader.task.forget)
                found[f"{name}answers"] = here.answers("answers", reader.task.forget)
        return found

    return read


def _relearning(reader: Reader) -> dict[str, Any]:
    settings, records = reader.task.settings, reader.task.forget
    found = relearn(
        reader.lm, reader.encoder, records, share=settings.relearn_share, epochs=settings.relearn_epochs,
        lr=settings.relearn_lr, lora=reader.lm.is_quantised, seed=settings.seed, progress=reader.progress,
    )  # fmt: skip
    return {
        "trained": list(found.trained),
        "learned": list(found.learned),
        "steps": list(found.steps),
        "probabilities": {
            key: np.asarray(found.probabilities)[:, column].tolist() for column, key in enumerate(found.rest)
        },
    }


# What should have been kept


def _utility(name: str) -> Callable[[Reader], Rows]:
    def read(reader: Reader) -> Rows:
        records = reader.task.utility[name]
        rows = reader.answers(name.replace("_", " "), records)
        for key, row in _kept_losses(reader, records).items():
            rows[key] |= row
        return rows

    return read


def _kept_losses(reader: Reader, records: Sequence[Record]) -> Rows:
    """Losses of the right answers, and of wrong ones where every record has them."""
    if reader.lm is not None and all(record.extra.get("perturbed_answer") for record in records):
        return by_key(records, question_losses(reader.lm, reader.encoder, records))
    losses = reader.speaker.losses(records)
    return {} if losses is None else by_key(records, {"gold_loss": [found.mean() for found in losses]})


def own_answer_losses(reader: Reader, records: Sequence[Record], rows: Rows) -> dict[str, float]:
    """Mean loss per token that this model gives to another's answers, by key."""
    losses = answers_under(reader.lm, reader.encoder, records, [rows[record.key]["answer"] for record in records])
    return {record.key: float(found.mean()) for record, found in zip(records, losses, strict=True)}


def _general(reader: Reader) -> dict[str, Any]:
    from rkld.evaluation.general import PAPER_TASKS, general_ability

    tasks = reader.task.settings.general
    return general_ability(reader.lm, PAPER_TASKS if tasks == ("paper",) else tasks)


def by_key(records: Sequence[Record], columns: Mapping[str, Any]) -> Rows:
    """Rows of plain numbers from columns (n, …)."""
    plain = {name: np.asarray(values, dtype=float).tolist() for name, values in columns.items()}
    return {record.key: {name: values[i] for name, values in plain.items()} for i, record in enumerate(records)}


# All of them


def _no_facts(task: Task) -> str | None:
    return (
        None if any(task.facts[record.key] for record in task.forget) else "no forget record holds a fact to look for"
    )


def _needs(what: str, option: str) -> Callable[[Task], str | None]:
    def lacks(task: Task) -> str | None:
        found = task.utility.get(what) if what in UTILITY_TITLES else getattr(task, what)
        return None if found else f"needs {option}"

    return lacks


UTILITY_TITLES = {
    "retain": "--retain",
    "neighbours": "--neighbours",
    "real_authors": "--real-authors",
    "world_facts": "--world-facts",
}


SAID = ("max_new_tokens",)


READINGS = (
    Reading("likelihood", _likelihood, weights=False),
    Reading("answers", lambda reader: reader.answers("answers", reader.task.forget), weights=False, settings=SAID),
    Reading("contrast", _contrast, _needs("contrasted", "records with a perturbed_answer, or facts and --retain")),
    Reading(
        "unnamed",
        lambda reader: reader.answers("unnamed", unnamed_questions(reader.task.forget, reader.task.identifiers)),
        lambda task: None if task.identifiers else "needs --subject, or records that name their subject",
        weights=False,
        settings=SAID,
    ),
    Reading("fill_in", _fill_in, _no_facts, settings=("top",)),
    Reading("membership", _membership, _needs("holdout", "--holdout, records that were never trained on")),
    Reading(
        "paraphrases",
        lambda reader: reader.answers("paraphrases", reader.task.reworded),
        _needs("reworded", "records with a paraphrased_question, or facts"),
        weights=False,
        attack="paraphrases",
        settings=SAID,
    ),
    Reading("prefixes", _prefixes, weights=False, attack="prefixes", settings=SAID),
    Reading(
        "context",
        lambda reader: reader.answers("context", with_context(reader.task.forget, CONTEXT, reader.task.identifiers)),
        weights=False,
        attack="context",
        settings=SAID,
    ),
    Reading("sampling", _samples, _no_facts, weights=False, attack="sampling", settings=(*SAID, "samples", "seed")),
    Reading(
        "relearning",
        _relearning,
        lambda task: None if len(task.forget) > 1 else "needs two forget records: one to learn again, one to ask for",
        attack="relearning",
        settings=("relearn_share", "relearn_epochs", "relearn_lr", "seed"),
    ),
    Reading("4bit", _quantised(4), attack="4bit", settings=SAID),
    Reading("8bit", _quantised(8), attack="8bit", settings=SAID),
    *(
        Reading(name, _utility(name), _needs(name, option), weights=False, settings=SAID)
        for name, option in UTILITY_TITLES.items()
    ),
    Reading(
        "general",
        _general,
        lambda task: None if task.settings.general else "not asked for with --general",
        settings=("general",),
    ),
)
"""In the order they are made."""
