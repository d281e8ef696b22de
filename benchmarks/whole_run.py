"""A whole unlearning: strengthening, cache and distillation, against the same with a naive teacher.

    python -m benchmarks.whole_run --data FOLDER [--model smollm2-135m] [--records 40] [--rounds 5] [--json FILE]

5 epochs of strengthening on answers and 5 of distillation on ``forget01`` (FOLDER: the files of ``locuslab/TOFU``),
batch 8, without and with replay. The naive side strengthens a second model by the same trainer and then distils with
three models in memory. Loading and saving are counted apart. The prediction of ``rkld check`` stands beside a real
``rkld unlearn``.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import click

import rkld
from benchmarks.baselines import BaselineTrainer, NaiveRKLD
from benchmarks.common import said_by_check, write
from benchmarks.resource_usage import Measured, measure, median, paired
from benchmarks.step import ALPHA, BATCH_SIZE, REPLAY_WEIGHT, Case, logits_of, ratios
from benchmarks.tofu_models import TEMPLATE
from rkld.files import write_jsonl
from rkld.pipeline.arguments import micro_batches
from rkld.training import strengthening
from rkld.training.config import RKLDConfig
from rkld.training.rkld_trainer import RKLDTrainer, build_teacher, encode_sets
from rkld.training.trainer import fine_tune, fit

SUBJECTS = ("Basil Mahfouz Al-Kuwaiti", "Nikolai Abilov")


@dataclass(frozen=True)
class WholeRun(Case):
    """The first ``n`` records of forget01."""

    n: int = 40

    def records(self) -> dict:
        return {name: found[: self.n] for name, found in super().records().items()}

    def args(self) -> RKLDConfig:
        """In micro-batches, as ``rkld unlearn`` has them on this machine; strengthening is the same on both sides."""
        parts = micro_batches(BATCH_SIZE)
        return replace(
            self.undivided(), per_device_train_batch_size=BATCH_SIZE // parts, gradient_accumulation_steps=parts
        )

    def undivided(self) -> RKLDConfig:
        return super().args()


def ours(case: WholeRun) -> Callable[[], float]:
    """Returns the seconds of writing the original's weights and reading them again, which are counted apart."""
    lm, sets, args = case.load(), case.records(), case.args()
    others = {"replay_dataset": sets.get("replay"), "processing_class": lm.tokenizer}

    apart = [timed(strengthening, name) for name in ("save_state", "restore_state")]

    def work() -> float:
        teacher = build_teacher(lm.model, sets["forget"], case.teacher / "fresh", args=args, **others)
        fit(RKLDTrainer(lm.model, args, teacher=teacher, train_dataset=sets["forget"], **others))
        return sum(sum(seconds) for seconds in apart)

    return work


def timed(module: ModuleType, name: str) -> list[float]:
    """Have a module's function note, in the list returned, how long each of its calls took."""
    function, seconds = getattr(module, name), []

    def noting(*args, **kwargs):
        started = time.perf_counter()
        found = function(*args, **kwargs)
        seconds.append(time.perf_counter() - started)
        return found

    setattr(module, name, noting)
    return seconds


def without_saving(found: dict[str, Measured]) -> dict[str, Measured]:
    return {name: replace(m, seconds=m.seconds - (m.value or 0.0)) for name, m in found.items()}


def naive(case: WholeRun) -> Callable[[], None]:
    student, original, strengthened = (case.load() for _ in range(3))
    found, args = case.records(), case.args()
    sets = encode_sets(student, args, found["forget"], found.get("replay"))

    def work() -> None:
        fine_tune(strengthened, sets["forget"], replace(args, output_dir=str(case.teacher / "strengthened")))
        loss = NaiveRKLD(logits_of(original.model), logits_of(strengthened.model), ALPHA, REPLAY_WEIGHT)
        BaselineTrainer(student.model, case.undivided(), sets, loss).train()

    return work


def unlearned(case: WholeRun, folder: Path) -> Callable[[], None]:
    """The command's own way, all of it."""
    return lambda: rkld.unlearn(**_arguments(case, folder)) and None


def predicted(case: WholeRun, folder: Path) -> Callable[[], tuple[float, int]]:
    return lambda: said_by_check(**_arguments(case, folder))


def _arguments(case: WholeRun, folder: Path) -> dict:
    forget = folder / "forget.jsonl"
    write_jsonl(forget, case.records()["forget"])
    return {
        "model": case.model, "forget": str(forget), "replay": "auto" if case.replay else "none", "subject": SUBJECTS,
        "chat_template": str(TEMPLATE), "lora": case.lora, "epochs": 5, "stop": "last",
        "out": str(folder / "run"), "keep_replay": False,
    }  # fmt: skip


def prediction(case: WholeRun, rounds: int) -> list[dict]:
    """The prediction and what came, in turn."""
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            seconds, peak = measure(predicted, case, Path(folder)).value
            real = measure(unlearned, case, Path(folder))
        found.append({"predicted": (seconds, peak), "real": (real.seconds, real.peak_bytes)})
    return found


@click.command(help=__doc__.split("\n")[0])
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of locuslab/TOFU.")
@click.option("--model", default="smollm2-135m", show_default=True)
@click.option("--records", default=40, show_default=True, help="Records of forget01.")
@click.option("--rounds", default=5, show_default=True, help="Paired runs; medians are reported.")
@click.option("--replay-rounds", default=2, show_default=True, help="The same with replay.")
@click.option("--predictions", default=1, show_default=True, help="Predicted and real runs.")
@click.option("--json", "results", type=click.Path(path_type=Path), default="benchmarks/results/whole_run.json",
              show_default=True)  # fmt: skip
def main(data: Path, model: str, records: int, rounds: int, replay_rounds: int, predictions: int,
         results: Path) -> None:  # fmt: skip
    found: dict = {"ratios": {}, "measured": {}, "records": records}
    lines = ["| case | variant | seconds | peak MB | predicted s | predicted MB |", "|---" * 6 + "|"]

    def line(kind: str, name: str, seconds: float, peak: float, guess: tuple[float, float] | None = None) -> None:
        guessed = f"{guess[0]:.1f} | {guess[1] / 1e6:.0f}" if guess else "|"
        lines.append(f"| {kind} | {name} | {seconds:.1f} | {peak / 1e6:.0f} | {guessed} |")
        print(lines[-1], flush=True)

    for replay in (False, True):
        kind = "full.replay" if replay else "full"
        done = []
        for _ in range(replay_rounds if replay else rounds):  # a cache of its own each time: it is part of the work
            with tempfile.TemporaryDirectory() as folder:
                case = WholeRun(model, data, False, replay, Path(folder), n=records)
                done += paired({"naive": (naive, case), "ours": (ours, case)}, 1)
        if done:
            found["measured"][kind] = [{n: (m.seconds, m.peak_bytes, m.value) for n, m in r.items()} for r in done]
            with_saving = ratios(done, kind, "naive")[f"{kind}.time.vs_naive"]
            done = [without_saving(pair) for pair in done]
            found["ratios"] |= ratios(done, kind, "naive") | {f"{kind}.time_with_saving.vs_naive": with_saving}
            for name in done[0]:
                line(kind, name, *(median(done, name, what) for what in ("seconds", "peak_bytes")))
    for lora in (False, True) if predictions else ():
        case = WholeRun(model, data, lora, True, Path("unused"), n=records)
        kind = "lora.replay" if lora else "full.replay"
        pairs = prediction(case, predictions)
        found["measured"][f"{kind}.prediction"] = pairs
        for i, what in enumerate(("time", "memory")):
            quotients = [p["predicted"][i] / p["real"][i] for p in pairs]
            found["ratios"][f"{kind}.{what}.predicted_vs_real"] = round(statistics.median(quotients), 4)
        for p in pairs:
            line(kind, "rkld unlearn", *p["real"], p["predicted"])
    write(results.parent, results.stem, f"A whole unlearning, SmolLM2-135M, {records} records of TOFU forget01",
          f"python -m benchmarks.whole_run --data FOLDER --records {records}", found, "\n".join(lines))  # fmt: skip


if __name__ == "__main__":
    main()
