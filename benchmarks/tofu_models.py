"""The two models of the TOFU comparison: SmolLM2-135M fine-tuned with and without the author to forget.

    python -m benchmarks.tofu_models --data FOLDER [--out runs/tofu]

FOLDER holds the files of the data set ``locuslab/TOFU`` (a clone of it from the Hugging Face hub). ``original`` learns
``forget01`` and the first 160 records of ``retain90``, ``retrained`` the 160 alone: 8 epochs, lr 2e-4, batch 8, loss
on the answers, chat format without a system prompt, float32: few CPUs compute in bfloat16 at any speed.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.pipeline.arguments import micro_batches
from rkld.progress import ProgressBars
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from rkld.records.record import Record
from rkld.training.callbacks import TrainingBar
from rkld.training.config import RKLDConfig
from rkld.training.trainer import fine_tune

TEMPLATE = Path(__file__).with_name("chatml.jinja")
RETAINED = 160
EPOCHS, LEARNING_RATE, BATCH_SIZE = 8, 2e-4, 8


def forget_records(data: Path) -> list[Record]:
    return read_records(data / "forget01_perturbed.json", "forget")


def retain_records(data: Path, retained: int = RETAINED) -> list[Record]:
    return read_records(data / "retain90.json", "retain")[:retained]


def train(
    name: str, data: Path, out: Path, model: str = "smollm2-135m", epochs: int = EPOCHS, retained: int = RETAINED
) -> Path:
    """Make ``out/name`` unless it is there."""
    forget = forget_records(data) if name == "original" else []
    return learn([*retain_records(data, retained), *forget], out / name, model, epochs)


def learn(
    records: Sequence[Record],
    folder: Path,
    model: str = "smollm2-135m",
    epochs: int = EPOCHS,
    seed: int = 0,
    bf16: bool = False,
) -> Path:
    """Fine-tune ``model`` on the records' answers into ``folder``, unless it is there.

    Args:
        bf16: compute in bfloat16 (weights and optimizer stay float32): faster on CPUs with AMX.
    """
    if folder.exists():
        return folder
    torch.manual_seed(seed)
    lm = load_model(model, chat_template=str(TEMPLATE))
    encoder = Encoder(lm.tokenizer)
    encoded = [encoder.encode(record) for record in records]
    parts = micro_batches(BATCH_SIZE)
    args = RKLDConfig(
        output_dir=str(folder.parent / f"{folder.name}-training"),
        num_train_epochs=epochs,
        learning_rate=LEARNING_RATE,
        per_device_train_batch_size=BATCH_SIZE // parts,
        gradient_accumulation_steps=parts,
        seed=seed,
        bf16=bf16,
        save_total_limit=1,
    )
    with ProgressBars().bar(folder.name, epochs * -(-len(encoded) // BATCH_SIZE)) as advance:
        fine_tune(lm, encoded, args, [TrainingBar(advance)])
    save_model(lm, folder)
    shutil.rmtree(args.output_dir, ignore_errors=True)
    return folder


@click.command(help=__doc__.split("\n")[0])
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of locuslab/TOFU.")
@click.option("--out", type=click.Path(path_type=Path), default="runs/tofu", show_default=True)
def main(data: Path, out: Path) -> None:
    for name in ("original", "retrained"):
        print(train(name, data, out))


if __name__ == "__main__":
    main()
