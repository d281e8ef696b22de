"""What is read of every model, attacks aside: each reading with what it needs and the metrics computed from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rkld.auditing.reading import GENERATION, SAID, Reader, Reading, encode_asked, no_facts
from rkld.errors import UserError
from rkld.evaluation.fluency import answers_under, gibberish, known_words, vocabulary
from rkld.evaluation.membership import attack_scores
from rkld.evaluation.memorisation import blanks, fill_in, filled
from rkld.evaluation.questions import encode_answers
from rkld.evaluation.readings import Rows, by_key, contrast_rows, likelihood_rows, token_loss_rows
from rkld.pipeline.preparing import encode_all
from rkld.records.probes import unnamed_questions
from rkld.records.record import by_answer

if TYPE_CHECKING:
    from rkld.auditing.inputs import Task
    from rkld.records.encoding import Encoder
    from rkld.records.record import Record


class Likelihood(Reading):
    """Mean loss per answer token; of a model at hand also how much of the answer is recited."""

    title = "likelihood of the recorded answers"
    risk = "regurgitation"
    weights = False

    def encode(self, task: Task, encoder: Encoder) -> None:
        encode_all(encoder, task.forget)

    def read(self, reader: Reader) -> Rows:
        records = reader.task.forget
        if reader.lm is not None:
            return likelihood_rows(*reader.loaded(), records)
        losses = reader.backend.losses(records)
        return {} if losses is None else by_key(records, {"loss": [found.mean() for found in losses]})


class TokenLosses(Reading):
    """Mean losses of the answers' fact tokens and of their other words, apart: of the recorded answers, or reworded.

    Who suppresses a template lowers the loss of neither fact over the others; the two together tell what was forgotten.
    Reworded are the questions and, where records have a paraphrased answer, that, too.
    """

    title = "likelihood of facts and of the words around them"
    risk = "regurgitation"
    weights = False

    def missing(self, task: Task) -> str | None:
        return None if self._records(task) else "needs records with facts" + (" and paraphrases" * bool(self.prefix))

    def encode(self, task: Task, encoder: Encoder) -> None:
        encode_all(encoder, self._records(task))

    def read(self, reader: Reader) -> Rows:
        records, encoder = self._records(reader.task), reader.encoder
        losses = reader.backend.losses(records)
        if losses is None or encoder is None:
            return {}
        return token_loss_rows(encoder, records, reader.task.facts, losses)

    def _records(self, task: Task) -> list[Record]:
        return [record for record in task.asked if task.facts.get(record.key)]


class RewordedTokenLosses(TokenLosses):
    """The same of reworded records."""

    title = "the same, reworded"
    prefix, words = "reworded", "reworded"
    metric_names = ("fact_loss", "template_loss")

    def _records(self, task: Task) -> list[Record]:
        reworded = [record for record in task.reworded if record.answer and task.facts.get(record.key)]
        said = [record.extra.get("paraphrased_answer") for record in reworded]
        return [record.with_answer(answer) if answer else record for record, answer in zip(reworded, said, strict=True)]


class Answers(Reading):
    """Greedy answers to the records' own questions."""

    title = "the model's own answers"
    risk = "regurgitation"
    weights = False
    wording = True
    settings = GENERATION

    def encode(self, task: Task, encoder: Encoder) -> None:
        encode_asked(encoder, task.asked)

    def read(self, reader: Reader) -> Rows:
        return reader.answers(self.name, reader.task.asked)


class Contrast(Reading):
    """Losses of right, paraphrased and wrong answers."""

    title = "right answers against wrong ones"
    risk = "attribute inference"

    def missing(self, task: Task) -> str | None:
        return None if task.contrasted else "needs records with a perturbed_answer, or facts and --retain"

    def encode(self, task: Task, encoder: Encoder) -> None:
        encode_contrasted(encoder, task.contrasted)

    def read(self, reader: Reader) -> Rows:
        return contrast_rows(*reader.loaded(), reader.task.contrasted)


class Unnamed(Reading):
    """Greedy answers to the records' questions with the person's names taken out."""

    title = "questions that do not name the person"
    risk = "attribute inference"
    weights = False
    wording = True
    settings = GENERATION
    words = "the question does not name the person"
    metric_names = SAID

    def missing(self, task: Task) -> str | None:
        return None if task.identifiers else "needs --subject, or records that name their subject"

    def encode(self, task: Task, encoder: Encoder) -> None:
        encode_asked(encoder, unnamed_questions(task.asked, task.identifiers))

    def read(self, reader: Reader) -> Rows:
        task = reader.task
        return reader.answers(self.name, unnamed_questions(task.asked, task.identifiers))


class FillIn(Reading):
    """The likeliest completions of the answers' texts, cut where a fact begins."""

    title = "blanks in the place of facts"
    risk = "attribute inference"
    settings = ("top",)

    def missing(self, task: Task) -> str | None:
        return no_facts(task)

    def encode(self, task: Task, encoder: Encoder) -> None:
        for record in task.asked:
            blanks(encoder, record, task.facts[record.key])

    def read(self, reader: Reader) -> Rows:
        """``completions`` (a list for each blank), and ``filled``: a flag for each."""
        lm, encoder = reader.loaded()
        task = reader.task
        given = [blank for record in task.asked for blank in blanks(encoder, record, task.facts[record.key])]
        if not given:
            return {}
        completed = fill_in(lm, given, task.settings.top)
        rows: Rows = {}
        for blank, completions, flag in zip(given, completed, filled(given, completed).tolist(), strict=True):
            row = rows.setdefault(blank.key, {"completions": [], "filled": []})
            row["completions"].append(list(completions))
            row["filled"].append(flag)
        return rows


class Membership(Reading):
    """Membership scores of the forget and the holdout records."""

    title = "whether it shows that the records were trained on"
    risk = "membership inference"

    def missing(self, task: Task) -> str | None:
        return None if task.holdout else "needs --holdout, records that were never trained on"

    def encode(self, task: Task, encoder: Encoder) -> None:
        encode_all(encoder, [*task.forget, *task.holdout])

    def read(self, reader: Reader) -> dict[str, Rows]:
        sets = {"forget": reader.task.forget, "holdout": reader.task.holdout}
        return {name: by_key(records, attack_scores(*reader.loaded(), records)) for name, records in sets.items()}


class KeptSet(Reading):
    """Answers to, and likelihood of, a set of records that should have been kept; its name is the set's."""

    title = "records that should have been kept"
    risk = "kept"
    weights = False
    settings = GENERATION
    metric_names = ("probability", "rouge_l", "truth_ratio", "repetition")

    def missing(self, task: Task) -> str | None:
        return None if task.utility.get(self.name) else f"needs --{self.name.replace('_', '-')}"

    def encode(self, task: Task, encoder: Encoder) -> None:
        records = task.utility[self.name]
        encode_asked(encoder, by_answer(records))
        if _contrasted(records):
            encode_contrasted(encoder, records)

    def read(self, reader: Reader) -> Rows:
        records = reader.task.utility[self.name]
        rows = reader.answers(self.name.replace("_", " "), by_answer(records))
        for key, row in self._losses(reader, records).items():
            rows[key] |= row
        return rows

    def _losses(self, reader: Reader, records: Sequence[Record]) -> Rows:
        """Losses of the right answers, and of wrong ones where every record has them."""
        if reader.lm is not None and _contrasted(records):
            return contrast_rows(*reader.loaded(), records)
        losses = reader.backend.losses(records)
        return {} if losses is None else by_key(records, {"loss": [found.mean() for found in losses]})


def _contrasted(records: Sequence[Record]) -> bool:
    """Whether all of a set have wrong answers."""
    return all(record.extra.get("perturbed_answer") for record in records)


def encode_contrasted(encoder: Encoder, records: Sequence[Record]) -> None:
    """Encode right, paraphrased and wrong answers. UserError where one cannot be, or records have unequally many."""
    try:
        encode_answers(encoder, records)
    except ValueError as error:
        raise UserError(f"{error}.") from None


class General(Reading):
    """Zero-shot accuracy on lm-eval's tasks: no rows, and shown apart from the metrics."""

    title = "general ability"
    risk = "kept"
    settings = ("general",)

    def missing(self, task: Task) -> str | None:
        return None if task.settings.general else "not asked for with --general"

    def read(self, reader: Reader) -> dict[str, Any]:
        from rkld.evaluation.general import PAPER_TASKS, general_ability

        tasks = reader.task.settings.general
        lm, _ = reader.loaded()
        return dict(general_ability(lm, PAPER_TASKS if tasks == ("paper",) else tasks))


OF_EVERY_MODEL: tuple[Reading, ...] = (
    Likelihood("likelihood"),
    TokenLosses("token_losses"),
    RewordedTokenLosses("reworded_token_losses"),
    Answers("answers"),
    Contrast("contrast"),
    Unnamed("unnamed"),
    FillIn("fill_in"),
    Membership("membership"),
    KeptSet("retain"),
    KeptSet("neighbours"),
    KeptSet("real_authors"),
    KeptSet("world_facts"),
    General("general"),
)
"""In the order they are made; attacks come after them."""

OWN_ANSWERS = "own_answers"
"""The reading of one model's answers by another, the original (:func:`own_answer_rows`)."""


def own_answer_rows(original: Reader, records: Sequence[Record], answers: Rows, sound: Sequence[str]) -> Rows:
    """How fluent another model's answers are, seen from the original.

    Args:
        sound: what the original itself answers, whatever it was asked.

    Returns:
        ``loss``, nats per token that the original gives them; ``gibberish``, whether they are by
        :func:`rkld.evaluation.fluency.gibberish`; and ``known_words`` of the answers that have enough words.
    """
    lm, encoder = original.loaded()
    said = [answers[record.key]["answer"] for record in records]
    losses = [float(found.mean()) for found in answers_under(lm, encoder, records, said)]
    asked = [text for record in records for text in (record.question, record.answer)]
    known = vocabulary([*sound, *asked])
    rows = by_key(records, {"loss": losses, "gibberish": gibberish(said, losses, known)})
    for record, answer in zip(records, said, strict=True):
        share = None if known is None else known_words(answer, known)
        if share is not None:
            rows[record.key]["known_words"] = share
    return rows
