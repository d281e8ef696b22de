"""The student's own answers to the forget questions, drawn anew while it is trained: what some methods learn from.

They are drawn at the beginning of an epoch, of the student as it is then, and take the place of the set's records
(:data:`rkld.losses.objective.OWN`). Each epoch's are written beside the checkpoints, so that a resumed training goes on
with the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rkld import processes
from rkld.evaluation.generation import greedy
from rkld.evaluation.rouge import rouge_l_recall
from rkld.evaluation.sampling import sample
from rkld.files import make_folder, read_jsonl, write_jsonl
from rkld.losses.objective import OWN, Objective
from rkld.methods.method import OwnAnswers
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded, Encoder, records_of
from rkld.records.record import Record
from rkld.records.replay import ANSWER_TOKENS

ANSWERS_ITSELF = "the method has the student answer while it is trained"

FOLDER = "own-answers"
"""Beside the checkpoints. It holds personal data."""


class DrawOwnAnswers(TrainerCallback):
    """Draws them at the beginning of every epoch."""

    def __init__(
        self, lm: LanguageModel, encoder: Encoder, objective: Objective, how: OwnAnswers, folder: Path, seed: int
    ):
        """
        Args:
            objective: whose set "forget_own" it replaces.
            folder: of the checkpoints.
        """
        self.lm, self.encoder, self.objective, self.how = lm, encoder, objective, how
        self.folder, self.seed = folder / FOLDER, seed
        self.questions = records_of(objective.sets["forget" + OWN])

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        processes.require_alone(args.world_size, ANSWERS_ITSELF)
        epoch = int((state.epoch or 0) + 1e-6)
        path = self.folder / f"{epoch}.jsonl"
        if not path.exists():
            make_folder(self.folder)
            write_jsonl(path, self._drawn(epoch))
        answers = [row["answer"] for row in read_jsonl(path)]
        records = [self._answered(record, answer) for record, answer in zip(self.questions, answers, strict=True)]
        own = self.objective.sets["forget" + OWN]
        assert isinstance(own, list)
        own[:] = self._encoded(records)

    def _drawn(self, epoch: int) -> list[dict[str, Any]]:
        """Of each question the answer that is taken, and by ``unlike`` how much it says of the original's own."""
        prompts = [self.encoder.prompt(record) for record in self.questions]
        drawn = sample(
            self.lm,
            prompts,
            self.how.samples,
            seed=self.seed + 1000 * epoch,
            temperature=self.how.temperature,
            top_p=self.how.top_p,
            max_new_tokens=ANSWER_TOKENS,
        )
        texts = [[one.text.strip() for one in some] for some in drawn]
        if not self.how.unlike:
            return [{"answer": some[0]} for some in texts]
        before = list(read_jsonl(self.folder / f"{epoch - 1}.jsonl")) if epoch else None
        if before is None:
            first = [said.text.strip() for said in greedy(self.lm, prompts, max_new_tokens=ANSWER_TOKENS)]
        else:
            first = [row["first"] for row in before]
        return [
            self._taken(original, some, before[i] if before else None)
            for i, (original, some) in enumerate(zip(first, texts, strict=True))
        ]

    @staticmethod
    def _taken(original: str, texts: Sequence[str], before: dict[str, Any] | None) -> dict[str, Any]:
        scores = [rouge_l_recall(text, original) for text in texts]
        best = min(range(len(texts)), key=scores.__getitem__)
        if before is not None and before["score"] < scores[best]:
            return before
        return {"answer": texts[best], "score": scores[best], "first": original}

    def _answered(self, record: Record, answer: str) -> Record:
        """Who says nothing has ended the answer at once: so the record keeps the one that it had."""
        return self.encoder.answered(record, answer) if answer else record

    def _encoded(self, records: Sequence[Record]) -> list[Encoded]:
        found = [self.encoder.encode(record, "answer") for record in records]
        return [replace(e, key=record.key) for e, record in zip(found, records, strict=True)]
