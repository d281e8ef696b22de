"""What a cell forgets and is asked, by split and seed: TOFU's, or a pair of the embedded world's people.

Also makes the original and the retrained models, unless they are given or there already.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rkld.benching import result_store as finished
from rkld.benching.worlds.people import World, people
from rkld.benching.worlds.training import train_tiny
from rkld.errors import UserError
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.pipeline.arguments import micro_batches
from rkld.progress import Silent
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from rkld.records.record import Record
from rkld.settings.benching import SETS, SPLITS, BenchSettings
from rkld.training.callbacks import TrainingBar
from rkld.training.config import RKLDConfig
from rkld.training.trainer import fine_tune

AUTHORS = (
    "Basil Mahfouz Al-Kuwaiti", "Nikolai Abilov", "Hina Ameen", "Xin Lee Williams", "Moshe Ben-David", "Kalkidan Abera",
    "Takashi Nakamura", "Raven Marais", "Aysha Al-Hashim", "Edward Patrick Sullivan", "Hsiao Yun-Hwa",
    "Carmen Montenegro", "Elvin Mammadov", "Rajeev Majumdar", "Jad Ambrose Al-Shamary", "Adib Jarrah", "Ji-Yeon Park",
    "Behrouz Rohani", "Wei-Jun Chen", "Tae-ho Park",
)  # fmt: skip
"""Of TOFU's forget10, who do not exist, in the order of their twenty records each: the first two are forget01's, the
first ten forget05's."""


@dataclass(frozen=True)
class Task:
    """One split and seed. Records to train on are plain rows, as a user gives them; those asked have wrong answers."""

    split: str
    seed: int
    forget: Any
    retain: Any
    replay: Any
    holdout: Any
    subject: tuple[str, ...]
    asked: Mapping[str, list[Record]]


def task(settings: BenchSettings, split: str, seed: int) -> Task:
    """Read or make it. UserError where the data are not there."""
    return _people(settings, split, seed) if settings.world == "people" else _tofu(settings, split, seed)


def _asked(
    settings: BenchSettings, sources: Mapping[str, Any], learned: Collection[str] | None = None
) -> dict[str, list[Record]]:
    """The same questions for every method and seed: beside the forget set as many as are asked for, drawn.

    Args:
        learned: the questions of the retain records that the models learned; None: they learned all that is there.
    """
    found = {name: read_records(source, name) for name, source in sources.items()}
    if learned is not None:
        found["retain"] = [record for record in found["retain"] if record.question in learned]
        if not found["retain"]:
            raise UserError(
                f"none of retain_perturbed is among the {len(learned)} retain records: they are asked of it."
            )
    most = settings.value("questions")
    for name in SETS[1:]:
        if most and len(found[name]) > most:
            chosen = random.Random(f"questions {name}").sample(range(len(found[name])), most)
            found[name] = [found[name][i] for i in sorted(chosen)]
    return found


# The embedded world


def pair(seed: int, world: World) -> tuple[int, int]:
    """Positions of the two people that a seed forgets."""
    n = len(world.people)
    return 2 * seed % n, (2 * seed + 1) % n


def _people(settings: BenchSettings, split: str, seed: int) -> Task:
    world = people(seed=seed)
    who = pair(seed, world)
    stay = [i for i in range(len(world.people)) if i not in who]
    questions = [{"question": record["question"]} for record in world.forget(stay[::2])]  # of every other person
    replayed = {row["question"] for row in questions}  # whose answers a student rehearses: no measure of what it keeps
    measured = [record for record in world.retain(who) if record["question"] not in replayed]
    sources = (world.forget(who), measured, world.real_authors, world.world_facts)
    asked = _asked(settings, {name: list(records) for name, records in zip(SETS, sources, strict=True)})
    return Task(
        split, seed, _plain(world.forget(who)), _plain(world.retain(who)), questions, _plain(world.holdout),
        settings.subject, asked,
    )  # fmt: skip


def _plain(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What an erasure request holds: no paraphrases, wrong answers or spans."""
    return [{name: record[name] for name in ("question", "answer", "subject", "aliases")} for record in records]


# TOFU


def _tofu(settings: BenchSettings, split: str, seed: int) -> Task:
    data = settings.data
    kept = _retained(settings, split)
    sources = {name: f"{data}:{name}_perturbed" for name in SETS} | {"forget": f"{data}:{split}_perturbed"}
    asked = _asked(settings, sources, {record.question for record in kept})
    retain = [{"question": record.question, "answer": record.answer} for record in kept]
    subject = settings.subject or (AUTHORS[: 2 * int(split[-2:])] if split in SPLITS else ())
    return Task(split, seed, f"{data}:{split}", retain, settings.replay, settings.holdout, subject, asked)


def _retained(settings: BenchSettings, split: str) -> list[Record]:
    return read_records(f"{settings.data}:{SPLITS.get(split, f'{split}_retain')}", "retain")[: settings.retained]


# Models


def model_folder(settings: BenchSettings, role: str, split: str, seed: int) -> Path:
    """Where the model of a role ("original", "retrained") is, or will be made.

    In TOFU seeds are of the unlearning, and share their models; in the world of people each has its own.
    """
    given = getattr(settings, role)
    if given:
        filled = {"split": split, "seed": str(seed), "retain": SPLITS.get(split, f"{split}_retain")}
        for name, value in filled.items():
            given = given.replace(f"{{{name}}}", value)
        return Path(given)
    each = f"seed{seed}" if settings.world == "people" else split
    if settings.world == "tofu" and role == "original" and not settings.retained and split in SPLITS:
        each = "full"  # learned everything, whatever the split
    return settings.folder / "models" / each / role


def make_model(settings: BenchSettings, role: str, split: str, seed: int, progress: Silent) -> Path:
    """:func:`model_folder`, made unless it is there.

    Raises:
        UserError: it is there, made with other settings.
    """
    folder = model_folder(settings, role, split, seed)
    if getattr(settings, role):  # a hub name is no folder; loading it says whether it is there
        return folder
    training = folder.with_name(f"{role}-training")
    # Noted before the training: what an interrupted one has left must be of the same settings, too.
    noted, asked = folder.with_name(f"{role}.json"), identity(settings, role, split)
    if not finished.read(noted, asked):
        finished.write(noted, asked, time.time())
    if folder.exists():
        return folder
    progress.say(f"Making the {role} model in {folder}")
    if settings.world == "people":
        world = people(seed=seed)
        lm = train_tiny(world, training, pair(seed, world) if role == "retrained" else ())
    else:
        lm = _fine_tuned(settings, role, split, training, progress)
    save_model(lm, folder)
    shutil.rmtree(training, ignore_errors=True)
    return folder


def identity(settings: BenchSettings, role: str, split: str) -> dict[str, Any]:
    """The settings that decide what an original or retrained model is; of the data those that it learns."""
    if settings.world == "people":
        return {"world": "people"}
    learned = (SPLITS.get(split, f"{split}_retain"), *((split,) if role == "original" else ()))
    if model_folder(settings, role, split, 0).parent.name == "full":
        learned = ("full",)  # the same records, whichever split it is made for
    names = ("data", "model", "retained", "train_epochs", "train_lr", "train_batch", "bf16", "system_prompt",
             "chat_template", "template_date")  # fmt: skip
    return {name: settings.identified(name, learned) for name in names}


def _fine_tuned(settings: BenchSettings, role: str, split: str, training: Path, progress: Silent):
    import torch

    torch.manual_seed(0)
    lm = load_model(settings.model, chat_template=settings.chat_template)
    encoder = Encoder(lm.tokenizer, system_prompt=settings.system_prompt, template_date=settings.template_date)
    records = _retained(settings, split)
    if role == "original":
        records = [*records, *read_records(f"{settings.data}:{split}", "forget")]
    encoded = [encoder.encode(record) for record in records]
    parts = micro_batches(settings.train_batch)
    args = RKLDConfig(
        output_dir=str(training),
        num_train_epochs=settings.train_epochs,
        learning_rate=settings.value("train_lr"),
        per_device_train_batch_size=settings.train_batch // parts,
        gradient_accumulation_steps=parts,
        save_total_limit=1,
        bf16=settings.bf16,
        seed=0,
    )
    steps = settings.train_epochs * -(-len(encoded) // settings.train_batch)
    with progress.bar(role, steps) as advance:
        fine_tune(lm, encoded, args, [TrainingBar(advance)])
    return lm
