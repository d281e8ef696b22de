"""Unlearn in the manner of TRL's trainers: your own model object, data set, PEFT configuration and callbacks.

    pip install rkld
    python examples/trainer_style.py ./my-model --forget records.jsonl --out ./unlearned --lora

RKLD in two steps: a teacher that no longer knows the records is built once, from the model itself; the student is
trained towards it by transformers.Trainer, with the arguments that you know. No model is loaded twice. Self-replay, the
stopping rule and figures before and after are not part of it: `rkld.unlearn` brings them.
"""

from __future__ import annotations

import argparse
import sys

from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

import rkld


class Losses(TrainerCallback):
    """Any callback of transformers works. This one prints each logged loss."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            print(f"step {state.global_step}: loss {logs['loss']:.4f}")


def train(
    model: str, forget: str, out: str, *, replay: str | None = None, lora: bool = False, **arguments: object
) -> rkld.RKLDTrainer:
    """Forget the records of a file, and save the model (or the adapter) in ``out``."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    args = rkld.RKLDConfig(output_dir=f"{out}-training", **arguments)  # all of transformers.TrainingArguments, too
    peft_config = LoraConfig(r=16, lora_alpha=32, task_type="CAUSAL_LM") if lora else None
    given = {
        "train_dataset": forget,  # a file, a list of dicts or a datasets.Dataset: question/answer, prompt/completion …
        "replay_dataset": replay,  # answered prompts that are held to what the model says now
        "processing_class": tokenizer,
        "peft_config": peft_config,
    }
    teacher = rkld.build_teacher(
        AutoModelForCausalLM.from_pretrained(model), folder=f"{out}-teacher", args=args, **given
    )
    student = AutoModelForCausalLM.from_pretrained(model)
    trainer = rkld.RKLDTrainer(student, args, teacher=teacher, callbacks=[Losses()], **given)
    trainer.train()
    trainer.save_model(out)
    tokenizer.save_pretrained(out)
    return trainer


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="folder or hub name")
    parser.add_argument("--forget", required=True, help="the records to forget")
    parser.add_argument("--replay", help="records whose answers are to stay as they are")
    parser.add_argument("--out", required=True, help="folder of the unlearned model")
    parser.add_argument("--lora", action="store_true", help="train an adapter")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--lr", type=float, help="peak learning rate; by default one that suits the model's size")
    given = parser.parse_args()
    train(
        given.model, given.forget, given.out, replay=given.replay, lora=given.lora,
        num_train_epochs=given.epochs, learning_rate=given.lr,
    )  # fmt: skip
    print(f"{given.out} is unlearned, and not yet measured: rkld audit {given.out} --forget {given.forget}")
    print(f"{given.out}-teacher holds personal data: delete it when you are done.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
