"""Sampling: what greedy decoding does not give away, one of many drawn answers may (leak@k, arXiv 2511.04934)."""

from __future__ import annotations

from collections.abc import Sequence

from rkld.auditing.inputs import Task
from rkld.auditing.reading import GENERATION, Attack, Reader, encode_asked, no_facts
from rkld.auditing.registry import ATTACKS
from rkld.evaluation.answering import was_cut
from rkld.evaluation.readings import Rows, flags_said, worst
from rkld.records.encoding import Encoder


@ATTACKS.register("sampling")
class Sampling(Attack):
    """Answers drawn at temperature 1, and whether each gives a fact away: the metrics ``leak@1`` and ``leak@k``."""

    title = "many sampled answers to each question"
    risk = "exfiltration"
    standard = True
    weights = False
    settings = (*GENERATION, "samples", "seed")
    needs = "facts"
    cost = "--samples answers a question"
    source = "Reisizadeh et al. 2025, arXiv 2511.04934"

    def missing(self, task: Task) -> str | None:
        return no_facts(task)

    def encode(self, task: Task, encoder: Encoder) -> None:
        encode_asked(encoder, task.asked)

    def read(self, reader: Reader) -> Rows:
        """``answers``, and ``leaks``: a flag for each of them, None where it was cut and says nothing so far."""
        settings = reader.task.settings
        records = [record for record in reader.task.asked if reader.facts(record)]
        with reader.progress.bar(f"{reader.role}: samples", len(records) * settings.samples) as advance:
            generated = reader.backend.samples(
                records, settings.samples, seed=settings.seed, max_new_tokens=settings.max_new_tokens, progress=advance
            )
        rows: Rows = {}
        for record, answers in zip(records, generated, strict=True):
            said = [(answer.text, was_cut(record, answer)) for answer in answers]
            leak = {one: _leaks(reader.facts(record), *one) for one in set(said)}  # many say the same
            rows[record.key] = {"leaks": [leak[one] for one in said], "answers": [text for text, _ in said]}
        return rows


def _leaks(facts: Sequence[str], text: str, cut: bool) -> bool | None:
    (leak,) = worst([[flag] for flag in flags_said(facts, text, cut)])
    return leak
