"""What users of TRL and transformers write works, or says in a sentence what to write."""

from __future__ import annotations

import pytest
from peft import LoraConfig
from transformers import TrainingArguments

import rkld
from rkld import RKLDConfig, UserError
from rkld.benching.worlds.tiny import tiny_model
from rkld.pipeline.preparing import choose
from rkld.progress import NoProgress, ProgressBars, ProgressLines, chosen

FORGET = [{"question": "Where does Ada Quillon live?", "answer": "Ada Quillon lives in Oslo."}]


def test_names_of_the_trainer_are_taken_by_a_run():
    settings, _ = choose({"model": "m", "forget": "f"}, {"learning_rate": 2e-4, "num_train_epochs": 3})
    assert (settings.lr, settings.epochs) == (2e-4, 3)
    with pytest.raises(UserError, match="'lr' stands there twice"):
        choose({"model": "m", "forget": "f"}, {"learning_rate": 2e-4, "lr": 1e-4})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tokenizer", "Write processing_class="),
        ("eval_dataset", "Nothing is evaluated while training"),
        ("per_device_train_batch_size", "Write batch_size="),
        ("peft_config", "Write lora=True"),
        ("formatting_func", "leave it out"),
        ("ephocs", "Did you mean 'epochs'"),
        ("logging_dir", r"in the run folder, in tracking/"),
        ("overwrite_output_dir", "give another out="),
        ("warmup_ratio", "warms up for one epoch"),
        ("beta", r"alpha=….*method_arg=\['beta=0.1'\]"),
        ("model_init_kwargs", "give the object"),
        ("weight_decay", "rkld.RKLDConfig has it"),
    ],
)
def test_a_run_says_what_to_write_instead(name, said):
    with pytest.raises(UserError, match=said):
        rkld.unlearn("m", FORGET, **{name: 1})


def test_records_under_the_trainers_name_are_not_called_missing():
    for call in (rkld.unlearn, rkld.check):
        with pytest.raises(UserError, match=r"'train_dataset'\. Write forget="):
            call("m", train_dataset=FORGET)


def test_a_config_takes_the_names_of_transformers_and_says_what_else_to_write(tmp_path):
    args = RKLDConfig(
        output_dir=str(tmp_path), learning_rate=2e-4, num_train_epochs=3, gradient_accumulation_steps=2, max_steps=2,
        warmup_steps=1, save_steps=10, max_grad_norm=1.0, use_cpu=True,
    )  # fmt: skip
    assert isinstance(args, TrainingArguments) and args.learning_rate == 2e-4
    for name, said in {"lr": "learning_rate", "max_seq_length": "leave it out", "eval_strategy": "rkld.audit",
                       "alhpa": "Did you mean 'alpha'", "logging_dir": "TENSORBOARD_LOGGING_DIR",
                       "overwrite_output_dir": "leave it out", "warmup_ratio": "Write warmup_steps=",
                       "beta": "alpha=…", "model_init_kwargs": "give the object"}.items():  # fmt: skip
        with pytest.raises(UserError, match=said):
            RKLDConfig(output_dir=str(tmp_path), **{name: "steps"})


def test_a_trainer_in_trls_manner_trains(tmp_path):
    """A LoraConfig as TRL's examples have it names no layers."""
    model, tokenizer = tiny_model()
    args = RKLDConfig(str(tmp_path / "student"), num_train_epochs=1, strengthen_epochs=1, use_cpu=True)
    own = {"processing_class": tokenizer, "peft_config": LoraConfig(task_type="CAUSAL_LM", r=2)}
    with pytest.raises(UserError, match=r"RKLDTrainer needs a teacher: teacher = rkld\.build_teacher"):
        rkld.RKLDTrainer(model=model, args=args, train_dataset=FORGET, **own)
    with pytest.raises(UserError, match="Write processing_class="):
        rkld.build_teacher(model, FORGET, tmp_path / "teacher", tokenizer=tokenizer)
    with pytest.raises(UserError, match="Nothing is evaluated"):
        rkld.RKLDTrainer(model=model, args=args, train_dataset=FORGET, eval_dataset=FORGET)
    with pytest.raises(UserError, match=r"args is a TrainingArguments. Write rkld.RKLDConfig"):
        rkld.RKLDTrainer(model, TrainingArguments(str(tmp_path), use_cpu=True), train_dataset=FORGET)
    teacher = rkld.build_teacher(model, FORGET, tmp_path / "teacher", args=args, **own)
    trainer = rkld.RKLDTrainer(model=model, args=args, teacher=teacher, train_dataset=FORGET, **own)
    trainer.train()
    assert trainer.state.global_step == 1


def test_progress_may_be_true():
    assert (
        isinstance(chosen(True), (ProgressBars, ProgressLines))
        and type(chosen(False)) is type(chosen(None)) is NoProgress
    )
    own = NoProgress()
    assert chosen(own) is own
