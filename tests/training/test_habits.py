"""What users of TRL and transformers write works, or says in a sentence what to write."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

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
        ("deepspeed", "accelerate launch"),
        ("use_peft", "Write lora=True"),
        ("dataloader_num_workers", "rkld.RKLDConfig has it"),
        ("adam_beta1", "rkld.RKLDConfig has it"),
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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("eos_token", "The tokenizer's own"),
        ("pad_token", "The tokenizer's own"),
        ("activation_offloading", "Write gradient_checkpointing=True"),
        ("temperature", "leave it out"),
        ("lmbda", "own_words"),
        ("chat_template_path", "Set tokenizer.chat_template"),
        ("group_by_length", "leave it out"),
        ("use_peft", "Give peft_config="),
        ("length_column_name", "length_column_name would do nothing. A step takes its records at random"),
        ("eval_steps", "eval_steps would do nothing. Nothing is evaluated"),
        ("do_eval", "Nothing is evaluated"),
        ("per_device_eval_batch_size", "Nothing is evaluated"),
    ],
)
def test_a_config_neither_guesses_wrong_nor_takes_what_does_nothing(tmp_path, name, said):
    with pytest.raises(UserError, match=said) as refused:
        RKLDConfig(output_dir=str(tmp_path), **{name: 10})
    assert "Did you mean" not in str(refused.value)


def test_what_scripts_say_that_is_the_default_is_taken(tmp_path):
    given = RKLDConfig(output_dir=str(tmp_path), do_eval=False, eval_strategy="no", eval_steps=None,
                       length_column_name="length")  # fmt: skip
    assert replace(given, seed=1).seed == 1, "a copy says every default"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("reward_funcs", "Nothing is rewarded"),
        ("preprocess_logits_for_metrics", "Nothing is evaluated"),
        ("teacher_model", "rkld.build_teacher"),
        ("model_init", "give the object"),
        ("learning_rate", "Give it to rkld.RKLDConfig"),
    ],
)
def test_a_trainer_says_what_to_write_instead(name, said):
    with pytest.raises(UserError, match=said):
        rkld.RKLDTrainer("m", train_dataset=FORGET, **{name: 1})


def test_a_tracker_that_is_not_installed_is_said_before_anything_is_made(tmp_path, monkeypatch):
    """It ended in a bare RuntimeError after the model had been loaded."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else found(name, *rest)
    )
    args = RKLDConfig(str(tmp_path), report_to="wandb", use_cpu=True)
    for make in (lambda: rkld.RKLDTrainer("m", args, train_dataset=FORGET),
                 lambda: rkld.build_teacher("m", FORGET, tmp_path, args=args)):  # fmt: skip
        with pytest.raises(UserError, match="report_to=wandb needs the package wandb: pip install wandb"):
            make()


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
    for call in (trainer.evaluate, lambda: trainer.predict(FORGET)):
        with pytest.raises(UserError, match="Nothing is evaluated"):
            call()


def test_progress_may_be_true():
    assert (
        isinstance(chosen(True), (ProgressBars, ProgressLines))
        and type(chosen(False)) is type(chosen(None)) is NoProgress
    )
    own = NoProgress()
    assert chosen(own) is own
