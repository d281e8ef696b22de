"""Sampling: what greedy decoding does not give away, one of many drawn answers may (leak@k, arXiv 2511.04934)."""

from __future__ import annotations

from rkld.auditing.inputs import Task
from rkld.auditing.reading import GENERATION, Attack, Reader, encode_asked, no_facts
from rkld.auditing.registry import ATTACKS
from rkld.evaluation.readings import Rows
from rkld.records.encoding import Encoder
from rkld.text.facts import facts_said


@ATTACKS.register("sampling")
class Sampling(Attack):
    """Answers drawn at temperature 1, and whether each gives a fact away: the metrics ``leak@1`` and ``leak@k``."""

    title = "many sampled answers to each question"
    standard = True
    weights = False
    settings = (*GENERATION, "samples", "seed")

    def missing(self, task: Task) -> str | None:
        return no_facts(task)

    def encode(self, task: Task, encoder: Encoder) -> None:
        encode_asked(encoder, task.forget)

    def read(self, reader: Reader) -> Rows:
        """``answers``, and ``leaks``: a flag for each of them."""
        settings = reader.task.settings
        records = [record for record in reader.task.forget if reader.facts(record)]
        with reader.progress.bar(f"{reader.role}: samples", len(records) * settings.samples) as advance:
            generated = reader.backend.samples(
                records, settings.samples, seed=settings.seed, max_new_tokens=settings.max_new_tokens, progress=advance
            )
        return {
            record.key: {"leaks": [any(facts_said(reader.facts(record), text)) for text in texts], "answers": texts}
            for record, texts in zip(records, generated, strict=True)
        }
