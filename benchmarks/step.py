"""One training step: RKLD as written down, plain fine-tuning, fine-tuning on answers, and ours.

    python -m benchmarks.step --data FOLDER [--model smollm2-135m] [--rounds 5] [--json FILE]

FOLDER holds the files of the data set ``locuslab/TOFU``. A step is 8 records of ``forget01`` in the model's chat format
without a system prompt, and with replay 8 records of ``retain90`` more (on all sides: as replayed answers, or as
records to fine-tune on). Every variant runs in a process of its own, on the same records in the same order, by the same
Trainer and optimizer: full fine-tuning, then LoRA of rank 16. Ours splits a step into micro-batches of like length, as
``rkld unlearn`` does by itself; its gradient is that of the whole step. The others take the step's records at once.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch
from torch import Tensor
from transformers import Trainer

from benchmarks.baselines import BaselineTrainer, NaiveRKLD, answer_only_sft, sft
from benchmarks.common import machine, write
from benchmarks.resource_usage import Measured, measure, paired, ratio
from benchmarks.tofu_models import TEMPLATE
from rkld.files import read_jsonl
from rkld.models.adapters import new_adapter
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.pipeline.arguments import micro_batches
from rkld.training.config import RKLDConfig, with_rate
from rkld.training.rkld_trainer import RKLDTrainer, build_teacher, encode_sets
from rkld.training.trainer import ObjectiveTrainer

BATCH_SIZE = 8
ALPHA, REPLAY_WEIGHT = 8.0, 5.0
KINDS = ("full", "full.replay", "lora", "lora.replay")
REPLAYED = 40
"""Records of retain90 that stand in for replayed answers: as many as there are to forget."""


@dataclass(frozen=True)
class Case:
    """What is trained, on what."""

    model: str
    data: Path
    lora: bool
    replay: bool
    teacher: Path
    """The folder of our teacher's cache; it is filled before anything is measured."""
    bf16: bool = False
    batch_size: int = BATCH_SIZE

    def load(self) -> LanguageModel:
        """The model, with an adapter where one is trained."""
        torch.manual_seed(0)
        lm = load_model(self.model, chat_template=str(TEMPLATE))
        return new_adapter(lm) if self.lora else lm

    def records(self) -> dict:
        sets = {"forget": read_jsonl(self.data / "forget01.json")}
        if self.replay:
            sets["replay"] = read_jsonl(self.data / "retain90.json")[:REPLAYED]
        return sets

    def args(self, parts: int = 1) -> RKLDConfig:
        """
        Args:
            parts: micro-batches of a step.
        """
        return RKLDConfig(
            output_dir=str(self.teacher / "unused"), num_train_epochs=5, alpha=ALPHA, replay_weight=REPLAY_WEIGHT,
            per_device_train_batch_size=self.batch_size // parts, gradient_accumulation_steps=parts, bf16=self.bf16,
            seed=0,
        )  # fmt: skip


def step_of(trainer: Trainer) -> Callable[[], Tensor]:
    """One optimizer step of the trainer's own parts, from reading the records to cleared gradients.

    Returns the loss, which a GPU may still be at work on: training does not wait for it either.
    """
    parts = trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    trainer.create_optimizer()

    def all_epochs() -> Iterator[dict]:
        for epoch in itertools.count():
            if isinstance(trainer, ObjectiveTrainer):  # a baseline's list holds all epochs
                trainer.batches.epoch = epoch
            yield from trainer.get_train_dataloader()

    batches = all_epochs()

    def step() -> Tensor:
        loss = sum(trainer.training_step(trainer.model, next(batches)) for _ in range(parts))
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.model.zero_grad()
        return loss

    return step


def ours(case: Case) -> Callable[[], Tensor]:
    lm, sets = case.load(), case.records()
    teacher = build(case, lm)
    trainer = RKLDTrainer(
        lm.model,
        case.args(micro_batches(case.batch_size)),
        teacher=teacher,
        train_dataset=sets["forget"],
        replay_dataset=sets.get("replay"),
        processing_class=lm.tokenizer,
    )
    return step_of(trainer)


def build(case: Case, lm: LanguageModel):
    """Our teacher; found finished, unless this is the first time. One epoch is enough to have one."""
    sets = case.records()
    return build_teacher(
        lm.model, sets["forget"], case.teacher, args=replace(case.args(), strengthen_epochs=1),
        replay_dataset=sets.get("replay"), processing_class=lm.tokenizer,
    )  # fmt: skip


def prepare_teacher(case: Case) -> Callable[[], None]:
    return lambda: build(case, case.load()) and None


def plain_sft(case: Case) -> Callable[[], Tensor]:
    return _baseline(case, case.load(), sft)


def sft_on_answers(case: Case) -> Callable[[], Tensor]:
    return _baseline(case, case.load(), answer_only_sft)


def naive(case: Case) -> Callable[[], Tensor]:
    """Three models in memory, whether all of the student is trained or an adapter."""
    student, original, strengthened = (case.load() for _ in range(3))
    return _baseline(case, student, _naive(case, logits_of(original.model), logits_of(strengthened.model)))


def toggled(case: Case) -> Callable[[], Tensor]:
    """LoRA on one base: its adapter switched off for the original, another one switched on for the strengthened."""
    lm = case.load()
    lm.model.add_adapter("strengthened", lm.model.peft_config["default"])

    def original(ids, attention):
        with lm.model.disable_adapter():
            return logits_of(lm.model)(ids, attention)

    def strengthened(ids, attention):
        lm.model.set_adapter("strengthened")
        try:
            return logits_of(lm.model)(ids, attention)
        finally:
            lm.model.set_adapter("default")

    return _baseline(case, lm, _naive(case, original, strengthened))


def _naive(case: Case, original, strengthened) -> NaiveRKLD:
    return NaiveRKLD(original, strengthened, ALPHA, REPLAY_WEIGHT)


def logits_of(model):
    return lambda ids, attention: model(ids, attention_mask=attention).logits


def _baseline(case: Case, lm: LanguageModel, loss) -> Callable[[], Tensor]:
    found = case.records()
    sets = encode_sets(lm, case.args(), found["forget"], found.get("replay"))
    return step_of(BaselineTrainer(lm.model, with_rate(case.args(), lm), sets, loss))


VARIANTS = {"naive": naive, "sft": plain_sft, "answer_only_sft": sft_on_answers}


def compare(case: Case, rounds: int) -> dict[str, list[dict[str, Measured]]]:
    """Rounds of every other variant and ours, two processes at a time."""
    chosen = {**VARIANTS, "toggled": toggled} if case.lora else VARIANTS
    return {
        name: paired({name: (prepare, case), "ours": (ours, case)}, rounds, warm_up=1, together=True)
        for name, prepare in chosen.items()
    }


WHAT = {"time": "seconds", "memory": "peak_bytes"}


def ratios(rounds: list[dict[str, Measured]], kind: str, other: str) -> dict[str, float]:
    """Medians of ours over the other variant, time and peak memory of the whole process."""
    return {f"{kind}.{what}.vs_{other}": round(ratio(rounds, "ours", other, name), 4) for what, name in WHAT.items()}


@click.command(help=__doc__.split("\n")[0])
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of locuslab/TOFU.")
@click.option("--model", default="smollm2-135m", show_default=True)
@click.option("--rounds", default=5, show_default=True, help="Paired runs; medians are reported.")
@click.option("--only", type=click.Choice(KINDS), multiple=True,
              help="Part of it; the rest stays as --json has it.")  # fmt: skip
@click.option("--bf16", is_flag=True, help="Compute in bfloat16 (a GPU).")
@click.option("--json", "results", type=click.Path(path_type=Path), default="benchmarks/results/step.json",
              show_default=True)  # fmt: skip
def main(data: Path, model: str, rounds: int, only: tuple[str, ...], bf16: bool, results: Path) -> None:
    found: dict = {"ratios": {}, "measured": {}, "machines": {}}
    if only and results.exists():
        before = json.loads(results.read_text())
        found |= {"ratios": before["ratios"], **before["results"]}
    for kind in only or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            case = Case(model, data, "lora" in kind, "replay" in kind, Path(folder), bf16)
            measure(prepare_teacher, case)
            done = compare(case, rounds)
        rows = {}
        for name, pairs in done.items():
            found["ratios"] |= ratios(pairs, kind, name)
            rows[name] = [{n: (m.seconds, m.peak_bytes, m.value.item()) for n, m in r.items()} for r in pairs]
        found["measured"][kind] = rows
        found["machines"][kind] = machine()  # parts may be measured apart
        body = table(found)
        print(body, flush=True)
        write(results.parent, results.stem, "One training step, SmolLM2-135M, TOFU forget01, batch 8",
              "python -m benchmarks.step --data FOLDER", found, body)  # fmt: skip


def table(found: dict) -> str:
    lines = ["| case | against | its seconds | ours | time: ours / it | its peak MB | ours | memory: ours / it |",
             "|---" * 8 + "|"]  # fmt: skip
    for kind, others in found["measured"].items():
        for name, pairs in others.items():
            cells = []
            for i, (what, unit, digits) in enumerate((("time", 1, 2), ("memory", 1e6, 0))):
                cells += [f"{statistics.median(r[n][i] for r in pairs) / unit:.{digits}f}" for n in (name, "ours")]
                cells.append(f"**{found['ratios'][f'{kind}.{what}.vs_{name}']:.3f}**")
            lines.append(f"| {kind} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
