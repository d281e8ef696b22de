"""What grows with the number of records, and what does not: time, memory and disk of a whole run.

    python -m benchmarks.scaling [--model smollm2-135m] [--json FILE]

One epoch of strengthening and two of distillation, full fine-tuning, batch 8, without generation: a tiny Llama and the
given model on records of fictitious people, the same records again with other keys where more are asked for.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.common import write
from benchmarks.resource_usage import measure
from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.training.config import RKLDConfig
from rkld.training.rkld_trainer import RKLDTrainer, build_teacher
from rkld.training.trainer import fit

SIZES = {"tiny": (1, 8, 40, 120, 400), "model": (1, 8, 40)}
"""Records per run; the large model's steps take seconds each."""


def run(model: str, records: int, folder: str) -> Callable[[], int]:
    """The run; its value is the bytes that it put on disk for the teacher, heads and weights apart."""
    lm = load_model(model)
    # Person by person, so that every number of records has the same kind of questions.
    rows = [{name: row[name] for name in ("question", "answer")} for row in people(seed=0).records][:records]
    where = Path(folder)

    def work() -> int:
        args = RKLDConfig(
            output_dir=str(where / "student"), num_train_epochs=2, strengthen_epochs=1, learning_rate=1e-5
        )
        teacher = build_teacher(lm.model, rows, where / "teacher", args=args, processing_class=lm.tokenizer)
        fit(RKLDTrainer(lm.model, args, teacher=teacher, train_dataset=rows, processing_class=lm.tokenizer))
        states = (where / "teacher").glob("*-forget-*.safetensors")
        return sum(file.stat().st_size for file in states)

    return work


@click.command(help=__doc__.split("\n")[0])
@click.option("--model", default="smollm2-135m", show_default=True)
@click.option("--json", "results", type=click.Path(path_type=Path), default="benchmarks/results/scaling.json",
              show_default=True)  # fmt: skip
def main(model: str, results: Path) -> None:
    found: dict = {"ratios": {}, "measured": {}}
    lines = ["| model | records | seconds | seconds per record | peak MB | cache kB per record |", "|---" * 6 + "|"]
    with tempfile.TemporaryDirectory() as folder:
        tiny = load_model(tiny_model()[0], tokenizer=tiny_model()[1])
        save_model(tiny, Path(folder) / "tiny")
        for name, path in {"tiny": str(Path(folder) / "tiny"), "model": model}.items():
            rows = {}
            for n in SIZES[name]:
                with tempfile.TemporaryDirectory() as work:
                    m = measure(run, path, n, work)
                rows[n] = {"seconds": m.seconds, "peak_bytes": m.peak_bytes, "cache_bytes": m.value}
                lines.append(f"| {name} | {n} | {m.seconds:.2f} | {m.seconds / n:.3f} | {m.peak_bytes / 1e6:.0f} |"
                             f" {m.value / n / 1e3:.1f} |")  # fmt: skip
                print(lines[-1], flush=True)
            found["measured"][name] = rows
            few, many = SIZES[name][1], SIZES[name][-1]
            for what, per in {"seconds": True, "peak_bytes": False, "cache_bytes": True}.items():
                factor = few / many if per else 1
                found["ratios"][f"{name}.{what}{'_per_record' if per else ''}.{many}_vs_{few}_records"] = round(
                    rows[many][what] / rows[few][what] * factor, 4
                )
    write(results.parent, results.stem, "Time, memory and disk by number of records",
          "python -m benchmarks.scaling", json.loads(json.dumps(found)), "\n".join(lines))  # fmt: skip


if __name__ == "__main__":
    main()
