"""What users of TRL and transformers write out of habit, and what to write here.

Names that mean the same here simply work (:func:`rkld.settings.specification.present_names`); these do not, and are
answered with a sentence in the place of a guess at what was meant.
"""

from __future__ import annotations

from collections.abc import Iterable

from rkld.errors import nearest

_NO_EVALUATION = (
    "Nothing is evaluated while training, as nothing that a figure is judged on may steer it: rkld.unlearn measures "
    "before and after, rkld.audit all else. Leave it out."
)
_RECORDS = "Records are written in the model's own format from their fields: leave it out."
_LENGTH = "Records are as long as they are, up to the model's context: leave it out."
_LOADED = "Load the model yourself by from_pretrained with what it takes, and give the object in place of the name."
_STRENGTH = (
    "RKLD has none: how strongly it pushes is alpha=…. A method that has one (dpo, npo, altpo) takes "
    "method_arg=['beta=0.1']."
)
_OF_A_TRAINER = "A run has no such setting: leave it out, or train by rkld.RKLDTrainer, whose rkld.RKLDConfig has it."

_EVERYWHERE = {
    "tokenizer": "Write processing_class=…, as transformers calls it.",
    **dict.fromkeys(
        ("eval_dataset", "compute_metrics", "eval_strategy", "evaluation_strategy", "eval_steps",
         "load_best_model_at_end", "metric_for_best_model"),
        _NO_EVALUATION,
    ),
    **dict.fromkeys(
        ("dataset_text_field", "formatting_func", "data_collator", "packing", "completion_only_loss",
         "assistant_only_loss", "dataset_kwargs", "dataset_num_proc"),
        _RECORDS,
    ),
    **dict.fromkeys(("model_init_kwargs", "attn_implementation", "quantization_config", "load_in_4bit"), _LOADED),
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
        "max_seq_length": _LENGTH,
        "max_length": _LENGTH,
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
    return f" {found}" if found else nearest(name, known)
