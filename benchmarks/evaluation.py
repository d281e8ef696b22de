"""Scoring and generation of TOFU forget01 with all its sets, against a plain evaluator.

    python -m benchmarks.evaluation --data FOLDER [--model FOLDER] [--unlearned FOLDER] [--json FILE]

Sets: forget01, the first 100 records of the retain set, real authors and world facts, each question with its right,
paraphrased and perturbed answers. The plain evaluator pads batches of 16 in the order given, reads the question again
with every answer, keeps the logits of whole sequences, and generates until the last of a batch has finished. Ours
generates from what scoring has found the greedy answers to begin with; "unaided" is the same without that. Paired
runs on the first questions of every set, the order turned round every time, and one run on all. The models are by
default those of benchmarks.tofu_models and benchmarks.tofu_forget01.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from transformers import GenerationConfig

from benchmarks.baselines import mask
from benchmarks.common import write
from benchmarks.tofu_models import TEMPLATE, train
from rkld.evaluation.generation import greedy, known_prefixes
from rkld.evaluation.likelihood import Scores, measuring
from rkld.evaluation.questions import question_scores
from rkld.models.hidden_states import pad
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.records.encoding import Encoded, Encoder
from rkld.records.reading import read_records
from rkld.records.record import Record

SETS = {
    "forget": ("forget01_perturbed.json", 40),
    "retain": ("retain_perturbed.json", 100),
    "real_authors": ("real_authors_perturbed.json", 100),
    "world_facts": ("world_facts_perturbed.json", 117),
}
"""Files and how many of their records are used."""
PLAIN_BATCH = 16
MAX_NEW_TOKENS = 200


class Plain:
    """What most evaluation scripts do."""

    def __init__(self, lm: LanguageModel, sets: Sequence[Sequence[Record]]):
        self.lm, encoder = lm, Encoder(lm.tokenizer)
        self.answers = [
            encoder.encode(record.with_answer(answer))
            for records in sets
            for record in records
            for answer in _answers(record)
        ]
        self.gold = [encoder.encode(record) for records in sets for record in records]

    def score(self) -> list[np.ndarray]:
        """Losses of all answers' tokens."""
        losses = []
        for batch in _batches(self.answers):
            ids = pad(batch)
            attention = mask(batch, ids)
            with measuring(self.lm.model):
                logits = self.lm.model(input_ids=ids, attention_mask=attention).logits  # (B, L, V)
            found = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
            for record, row in zip(batch, found.view(len(batch), -1).double().numpy(), strict=True):
                losses.append(row[: len(record.ids) - 1][np.array(record.answer[1:])])
        return losses

    def generate(self) -> list[tuple[int, ...]]:
        end = self.lm.tokenizer.eos_token_id
        config = GenerationConfig(max_new_tokens=MAX_NEW_TOKENS, eos_token_id=end, pad_token_id=end)
        said = []
        for batch in _batches(self.gold):
            prompts = [record.ids[: record.prompt_length] for record in batch]
            width = max(map(len, prompts))
            ids = torch.tensor([[end] * (width - len(p)) + list(p) for p in prompts])
            attention = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
            with measuring(self.lm.model):
                new = self.lm.model.generate(input_ids=ids, attention_mask=attention, generation_config=config)
            for row in new[:, width:].tolist():
                said.append(tuple(row[: row.index(end) + 1] if end in row else row))
        return said


class Ours:
    def __init__(self, lm: LanguageModel, sets: Sequence[Sequence[Record]]):
        self.lm, self.sets, self.encoder = lm, sets, Encoder(lm.tokenizer)
        self.gold = [self.encoder.encode(record) for records in sets for record in records]
        self.gold_scores: list[Scores] = []

    def score(self) -> list[np.ndarray]:
        scored = [s for records in self.sets for s in question_scores(self.lm, self.encoder, records)]
        self.gold_scores = [answers[0] for answers in scored]
        losses, records = [], (record for records in self.sets for record in records)
        for record, (gold, paraphrase, *perturbed) in zip(records, scored, strict=True):
            paraphrases = [paraphrase] if record.extra.get("paraphrased_answer") else []
            losses += [answer.losses for answer in (gold, *paraphrases, *perturbed)]
        return losses

    def generate(self) -> list[tuple[int, ...]]:
        """From what :meth:`score` has found."""
        return self._say(known_prefixes(self.lm, self.gold, self.gold_scores))

    def generate_unaided(self) -> list[tuple[int, ...]]:
        return self._say(None)

    def _say(self, starts: Sequence[Sequence[int]] | None) -> list[tuple[int, ...]]:
        prompts = [record.ids[: record.prompt_length] for record in self.gold]
        return [a.ids for a in greedy(self.lm, prompts, max_new_tokens=MAX_NEW_TOKENS, starts=starts)]


def compare(lm: LanguageModel, sets: Sequence[Sequence[Record]], turned: bool) -> dict[str, float]:
    """Seconds of every job, the largest difference of a token's loss, and the share of answers said alike."""
    plain, ours = Plain(lm, sets), Ours(lm, sets)
    jobs: dict[str, Callable[[], list]] = {
        "scoring.plain": plain.score,
        "scoring.ours": ours.score,
        "generation.plain": plain.generate,
        "generation.ours": ours.generate,
        "generation.unaided": ours.generate_unaided,
    }
    results, found = {}, {}
    # Generation starts from what scoring has found, so only the jobs within each of the two can be turned round.
    names = list(jobs)
    for name in [*names[1::-1], *names[:1:-1]] if turned else names:
        started = time.perf_counter()
        results[name] = jobs[name]()
        found[name] = time.perf_counter() - started
    pairs = list(zip(results["scoring.plain"], results["scoring.ours"], strict=True))
    found["max_abs_delta_nll_per_token"] = max(float(np.abs(a - b).max()) for a, b in pairs)
    for name in ("ours", "unaided"):
        alike = [a == b for a, b in zip(results["generation.plain"], results[f"generation.{name}"], strict=True)]
        found[f"generation.{name}.alike"] = statistics.mean(alike)
    return found


def ratios(rounds: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Medians of ours over plain; ``rounds`` by model."""

    def median(models: Sequence[str], ours: str, plain: str) -> float:
        return round(statistics.median(r[ours] / r[plain] for model in models for r in rounds[model]), 4)

    found = {"scoring.time.vs_plain": median(list(rounds), "scoring.ours", "scoring.plain")}
    found["scoring.speedup"] = round(1 / found["scoring.time.vs_plain"], 4)
    for model in rounds:
        found[f"scoring.{model}.time.vs_plain"] = median([model], "scoring.ours", "scoring.plain")
        found[f"generation.{model}.time.vs_plain"] = median([model], "generation.ours", "generation.plain")
        found[f"generation.{model}.unaided.time.vs_plain"] = median([model], "generation.unaided", "generation.plain")
    return found


def _answers(record: Record) -> list[str]:
    """The right, the paraphrased (if there is one) and the perturbed."""
    paraphrase = record.extra.get("paraphrased_answer")
    return [record.answer, *([paraphrase] if paraphrase else []), *record.extra["perturbed_answer"]]


def _batches(records: Sequence[Encoded]) -> Iterator[Sequence[Encoded]]:
    return (records[at : at + PLAIN_BATCH] for at in range(0, len(records), PLAIN_BATCH))


@click.command(help=__doc__.split("\n")[0])
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of locuslab/TOFU.")
@click.option("--model", type=click.Path(exists=True, path_type=Path), help="Knows forget01; by default made in --out.")
@click.option("--unlearned", type=click.Path(exists=True, path_type=Path), help="By default --out/replay/model.")
@click.option("--out", type=click.Path(path_type=Path), default="runs/tofu", show_default=True)
@click.option("--questions", default=8, show_default=True, help="Of every set in the paired runs.")
@click.option("--rounds", default=5, show_default=True, help="Paired runs; medians are reported.")
@click.option("--full/--no-full", default=True, show_default=True, help="One run on all questions.")
@click.option("--json", "results", type=click.Path(path_type=Path), default="benchmarks/results/evaluation.json",
              show_default=True)  # fmt: skip
def main(data: Path, model: Path | None, unlearned: Path | None, out: Path, questions: int, rounds: int, full: bool,
         results: Path) -> None:  # fmt: skip
    folders = {"original": model or train("original", data, out), "unlearned": unlearned or out / "replay" / "model"}
    sets = [read_records(data / file, name)[:n] for name, (file, n) in SETS.items()]
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in folders}
    whole: dict[str, list[dict[str, float]]] = {}
    for name, folder in folders.items():
        lm = load_model(folder, chat_template=str(TEMPLATE))
        compare(lm, [records[:1] for records in sets], turned=False)  # warm-up
        for number in range(rounds):
            measured[name].append(compare(lm, [records[:questions] for records in sets], turned=number % 2 == 1))
            print(name, measured[name][-1], flush=True)
        if full:
            whole[name] = [compare(lm, sets, turned=False)]
            print(name, "all", whole[name][-1], flush=True)
        counts = {"paired": questions * len(sets), "full": sum(map(len, sets))}
        report(results, {n: found for n, found in measured.items() if found}, whole, counts)


def report(
    results: Path, measured: dict[str, list[dict[str, float]]], whole: dict[str, list[dict[str, float]]],
    questions: dict[str, int],
) -> None:  # fmt: skip
    """Write what there is of both models; a full run takes long, and a machine can be taken away."""
    runs = [run for kind in (measured, whole) for found in kind.values() for run in found]
    found = {
        "ratios": {
            **ratios(measured),
            **({f"full.{name}": value for name, value in ratios(whole).items()} if whole else {}),
            "max_abs_delta_nll_per_token": max(float(run["max_abs_delta_nll_per_token"]) for run in runs),
        },
        "questions": questions,
        "measured": {"paired": measured, "full": whole},
    }
    lines = ["| ratio | value |", "|---|---|"]
    lines += [f"| {name} | {value:.3g} |" for name, value in found["ratios"].items()]
    write(results.parent, results.stem, "Scoring and generation, SmolLM2-135M, TOFU forget01 with all its sets",
          "python -m benchmarks.evaluation --data FOLDER", found, "\n".join(lines))  # fmt: skip


if __name__ == "__main__":
    main()
