"""What users of TRL and transformers write out of habit, and what to write here.

Names that mean the same here simply work (:func:`rkld.settings.specification.present_names`); these do not, and are
answered with a sentence in the place of a guess at what was meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from rkld.errors import nearest

NO_EVALUATION = (
    "Nothing is evaluated while training, as nothing that a figure is judged on may steer it: rkld.unlearn measures "
    "before and after, rkld.audit all else. Leave it out."
)
_RECORDS = "Records are written in the model's own format from their fields: leave it out."
_LENGTH = "Records are as long as they are, up to the model's context: leave it out."
_LOADED = "Load the model yourself by from_pretrained with what it takes, and give the object in place of the name."
_TOKENIZER = "The tokenizer's own is used: set it there, and give the tokenizer as processing_class=…."
_AS_IT_IS = "Distributions are compared as the model gives them, and nothing is sampled: leave it out."
_REWARDS = "Nothing is rewarded, as a teacher says what to write instead: leave it out."
_TOGETHER = "A step takes its records at random and packs them by length itself: leave it out."
_TEACHER = "The teacher is made of the model itself: rkld.unlearn makes it, rkld.build_teacher for rkld.RKLDTrainer."
_STRENGTH = (
    "RKLD has none: how strongly it pushes is alpha=…. A method that has one (dpo, npo, altpo) takes "
    "method_arg=['beta=0.1']."
)
_OF_A_TRAINER = "A run has no such setting: leave it out, or train by rkld.RKLDTrainer, whose rkld.RKLDConfig has it."

_EVERYWHERE = {
    "tokenizer": "Write processing_class=…, as transformers calls it.",
    **dict.fromkeys(
        ("eval_dataset", "compute_metrics", "eval_strategy", "evaluation_strategy", "eval_steps", "do_eval",
         "do_predict", "eval_on_start", "eval_delay", "eval_accumulation_steps", "per_device_eval_batch_size",
         "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "preprocess_logits_for_metrics",
         "include_for_metrics", "batch_eval_metrics", "eval_packing"),
        NO_EVALUATION,
    ),
    **dict.fromkeys(
        ("dataset_text_field", "formatting_func", "data_collator", "packing", "completion_only_loss",
         "assistant_only_loss", "dataset_kwargs", "dataset_num_proc", "dataset_batch_size", "padding_free",
         "pad_to_multiple_of"),
        _RECORDS,
    ),
    **dict.fromkeys(("eos_token", "pad_token"), _TOKENIZER),
    **dict.fromkeys(("temperature", "top_p", "top_k", "num_generations", "generation_kwargs", "use_vllm"), _AS_IT_IS),
    **dict.fromkeys(("reward_funcs", "reward_model", "reward_weights", "reward_processing_classes"), _REWARDS),
    **dict.fromkeys(("group_by_length", "length_column_name"), _TOGETHER),
    "activation_offloading": "Write gradient_checkpointing=True, which saves that memory by computing it again.",
    "lmbda": "Texts are the records' own: leave it out; rkld.unlearn(own_words=…) adds what the model writes itself.",
    "teacher_model_name_or_path": _TEACHER,
    "teacher_model": _TEACHER,
    **dict.fromkeys(("model_init_kwargs", "attn_implementation", "quantization_config", "load_in_4bit", "load_in_8bit",
                     "model_init", "model_revision", "bnb_4bit_quant_type"), _LOADED),
    "torch_dtype": "Write dtype=….",
    "beta": _STRENGTH,
    "loss_type": "Write method=…: how it is unlearned.",
    "no_cuda": "Write use_cpu=True in rkld.RKLDConfig; for a run set the variable CUDA_VISIBLE_DEVICES to nothing.",
    "save_safetensors": "Weights are always written as safetensors: leave it out.",
}  # fmt: skip

HABITS = {
    "run": {
        **_EVERYWHERE,
        "train_dataset": "Write forget=…: the records to forget.",
        "output_dir": "Write out=…: the run folder.",
        "per_device_train_batch_size": "Write batch_size=…: the forget records of an optimizer step.",
        "gradient_accumulation_steps": "Write accumulation=…: the parts that a step is split into.",
        "peft_config": "Write lora=True, and lora_rank=…; a LoraConfig of your own is for rkld.RKLDTrainer.",
        "max_seq_length": "Write max_length=….",
        **dict.fromkeys(("use_peft", "peft"), "Write lora=True."),
        **dict.fromkeys(("lora_r", "lora_alpha", "lora_target_modules", "lora_dropout"),
                        "Write lora=True and lora_rank=…; a LoraConfig of your own is for rkld.RKLDTrainer."),
        **dict.fromkeys(("max_prompt_length", "max_completion_length"), "Write max_length=…, of all of a record."),
        "model_name_or_path": "Write model=….",
        "chat_template_path": "Write chat_template=…: a file of it.",
        "deepspeed": "Start it by accelerate launch --use_deepspeed … -m rkld unlearn: it takes what that sets.",
        "fsdp": "Start it by accelerate launch --use_fsdp … -m rkld unlearn: it takes what that sets.",
        "args": "Write the settings as keywords; rkld.RKLDConfig is for rkld.RKLDTrainer.",
        "optimizers": "Write optim=…: the optimizer's name in transformers.",
        "num_epochs": "Write epochs=….",
        "ref_model": "The original is read before the training: leave it out.",
        "logging_dir": "Write report_to='tensorboard': its files lie in the run folder, in tracking/.",
        "overwrite_output_dir": "A run goes on where it was and overwrites none: leave it out, or give another out=….",
        "warmup_ratio": "A run warms up for one epoch: leave it out, or give warmup_steps=… to rkld.RKLDConfig.",
        **dict.fromkeys(
            ("disable_tqdm", "logging_strategy", "logging_steps", "lr_scheduler_type", "max_grad_norm", "max_steps",
             "fp16", "run_name", "save_steps", "save_strategy", "save_total_limit", "use_cpu", "warmup_steps",
             "weight_decay"),
            _OF_A_TRAINER,
        ),
    },
    "trainer": {
        **_EVERYWHERE,
        "forget": "Write train_dataset=….",
        "retain": "Write retain_dataset=….",
        "replay": "Write replay_dataset=….",
        "optimizers": "Write optim=… in rkld.RKLDConfig: the optimizer's name in transformers.",
        **dict.fromkeys(("max_seq_length", "max_length", "max_prompt_length", "max_completion_length"), _LENGTH),
        **dict.fromkeys(("use_peft", "peft", "lora_r", "lora_alpha", "lora_target_modules", "lora_dropout"),
                        "Give peft_config=peft.LoraConfig(…) to rkld.RKLDTrainer and rkld.build_teacher."),
        "model_name_or_path": "Write model=… in rkld.RKLDTrainer.",
        "chat_template_path": "Set tokenizer.chat_template, and give the tokenizer as processing_class=….",
        "chat_template": "Set tokenizer.chat_template, and give the tokenizer as processing_class=….",
        "optimizer_cls_and_kwargs": "Write optim=… in rkld.RKLDConfig: the optimizer's name in transformers.",
        "progress": "Write disable_tqdm=False in rkld.RKLDConfig for the Trainer's own bar.",
        "lr": "Write learning_rate=….",
        "epochs": "Write num_train_epochs=….",
        "batch_size": "Write per_device_train_batch_size=….",
        "ref_model": "The original is read into the teacher: give teacher=rkld.build_teacher(model, …).",
        "logging_dir": "Set the environment variable TENSORBOARD_LOGGING_DIR, as transformers 5 has it.",
        "overwrite_output_dir": "Files in output_dir are written over, as transformers 5 has it: leave it out.",
        "warmup_ratio": "Write warmup_steps=…: below 1 it is a share of all steps, as transformers 5 has it.",
    },
}  # fmt: skip
"""Where ("run": rkld.unlearn; "trainer": RKLDConfig, RKLDTrainer) → name → what to write."""


def instead(name: str, where: str, known: Iterable[str]) -> str:
    """What to write in the place of a name that is not known, as " …"; else a hint at the nearest one that is."""
    found = HABITS[where].get(name)
    if found is None and name in _fields_of_transformers():  # no typing error: what is nearest to it is no guess at it
        found = _OF_A_TRAINER if where == "run" else "Give it to rkld.RKLDConfig."
    return f" {found}" if found else nearest(name, known)


def silent(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> str | None:
    """The first name that would be taken and do nothing: a setting of transformers that is not at its default, of an
    evaluation (:data:`NO_EVALUATION`) or of how records are put together."""
    return next(
        (
            name
            for name, value in given.items()
            if HABITS["trainer"].get(name) in (NO_EVALUATION, _TOGETHER)
            and name in defaults
            and value != defaults[name]
        ),
        None,
    )


def _fields_of_transformers() -> frozenset[str]:
    """Names of ``TrainingArguments``; imported where somebody is to be answered alone, as it takes seconds."""
    from transformers import TrainingArguments

    return frozenset(field.name for field in fields(TrainingArguments))
