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
    },
}
"""Where ("run": rkld.unlearn; "trainer": RKLDConfig, RKLDTrainer) → name → what to write."""


def instead(name: str, where: str, known: Iterable[str]) -> str:
    """What to write in the place of a name that is not known, as " …"; else a hint at the nearest one that is."""
    found = HABITS[where].get(name)
    return f" {found}" if found else nearest(name, known)
