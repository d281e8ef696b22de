"""Fictitious people that a tiny model has learned: a seeded, offline counterpart of TOFU.

Each seed is another world of twenty people and another pair of them to forget; models are made in minutes on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rkld.benching.benchmark import Task, Workload
from rkld.benching.question_benchmark import QuestionBenchmark
from rkld.benching.question_figures import SETS
from rkld.benching.registry import BENCHMARKS
from rkld.benching.worlds.people import World, people
from rkld.benching.worlds.training import train_tiny
from rkld.models.language_model import LanguageModel
from rkld.progress import NoProgress
from rkld.settings.benching import QuestionSettings
from rkld.settings.specification import setting
from rkld.settings.table import of

TINY_BYTES = 10_000_000
"""Weights of the tiny model."""

TINY_CORE_SECONDS = 166.0
"""To train it, of one core: measured once (83 s on two)."""

RECORDS = 40
"""Of two people."""


@dataclass(frozen=True)
class PeopleSettings(QuestionSettings):
    """Which methods are compared on fictitious people, and how. Defaults are those of the tiny model."""

    out: str = of("out", default="runs/bench_people", help="Folder of models, cells and tables.")
    seeds: int = setting(3, "Seeds 0, 1, …; each is another world and pair.", low=1, affects="nothing")
    strengthen_epochs: int = of("strengthen_epochs", default=10, help="Passes while strengthening.")
    lr: float | None = of("lr", default=5e-4, help="Peak learning rate.")
    batch_size: int = of("batch_size", default=8, help="Forget records per step.")
    max_new_tokens: int = of(
        "max_new_tokens", default=32, help="Longest generated answer, in tokens.", affects="figures"
    )
    questions: int | None = of("questions", default=40, help="At most so many evaluated per set beside forget.")


@BENCHMARKS.register("people")
class People(QuestionBenchmark):
    """Forget two of twenty fictitious people by every method, with a tiny model."""

    settings: PeopleSettings
    settings_class = PeopleSettings
    examples = (
        "rkld bench people --methods rkld,rkld+replay,npo+rt --plan",
        "rkld bench people --methods all --tune --jobs 2",
    )

    def splits(self) -> list[str]:
        return ["people"]

    def tuning_place(self) -> tuple[str, int] | None:
        return ("people", self.settings.seeds) if self.settings.tune else None  # the first seed left

    def task(self, split: str, seed: int) -> Task:
        world = people(seed=seed)
        who = pair(seed, world)
        stay = [i for i in range(len(world.people)) if i not in who]
        prompts = [{"question": record["question"]} for record in world.forget(stay[::2])]  # of every other person
        # Whose answers a student rehearses is no measure of what it keeps.
        replayed = {row["question"] for row in prompts}
        measured = [record for record in world.retain(who) if record["question"] not in replayed]
        sources = (world.forget(who), measured, world.real_authors, world.world_facts)
        asked = self.asked({name: list(records) for name, records in zip(SETS, sources, strict=True)})
        return Task(
            without_extra(world.forget(who)),
            asked,
            without_extra(world.retain(who)),
            prompts,
            without_extra(world.holdout),
            self.settings.subject,
        )

    def model_place(self, role: str, split: str, seed: int) -> str:
        return f"seed{seed}"

    def model_identity(self, role: str, split: str, seed: int) -> dict[str, Any]:
        return {"benchmark": self.name}

    def train_model(self, role: str, split: str, seed: int, folder: Path, progress: NoProgress) -> LanguageModel:
        world = people(seed=seed)
        return train_tiny(world, folder, pair(seed, world) if role == "retrained" else ())

    def workload(self) -> Workload:
        answers = 6 * RECORDS + 7 * 3 * (self.settings.questions or 400)
        return Workload(RECORDS, answers, 32, TINY_BYTES, model_core_seconds=TINY_CORE_SECONDS)


def pair(seed: int, world: World) -> tuple[int, ...]:
    """Positions of the two people that a seed forgets."""
    n = len(world.people)
    return 2 * seed % n, (2 * seed + 1) % n


def without_extra(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What an erasure request holds: no paraphrases, wrong answers or spans."""
    return [{name: record[name] for name in ("question", "answer", "subject", "aliases")} for record in records]
