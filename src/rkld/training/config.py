"""Settings of the training loop."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments


@dataclass
class RKLDConfig(TrainingArguments):
    """Training settings; all of :class:`transformers.TrainingArguments`, with the paper's defaults.

    One optimizer step sees ``per_device_train_batch_size × gradient_accumulation_steps × processes`` forget records.
    """

    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate (the paper: 1e-5)."})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW weight decay (the paper: 0.01)."})
    num_train_epochs: float = field(default=5, metadata={"help": "Passes over the forget records."})
    lr_scheduler_type: str = field(default="linear", metadata={"help": "Decay after the warm-up (the paper: linear)."})
    warmup_epochs: float = field(
        default=1.0, metadata={"help": "Epochs of linear warm-up (the paper: 1), where warmup_steps is not given."}
    )
    alpha: float = field(default=8.0, metadata={"help": "Teacher: l_o − α·ReLU(l_aug − l_o) (the paper: 8 on TOFU)."})
    retain_weight: float = field(default=1.0, metadata={"help": "λ of +RT and +KL (the paper: 1)."})
    retain_loss: str = field(
        default="auto",
        metadata={"help": "Retain term: 'kl' (forward KL), 'rt' (cross-entropy), 'none', or 'auto': the method's own."},
    )
    replay_weight: float = field(default=5.0, metadata={"help": "λ of self-replay."})
    keep_weight: float = field(default=2.0, metadata={"help": "ρ of the keep term, where parts of answers are scored."})
    score: str = field(default="answer", metadata={"help": "What is unlearned: 'answer', 'all', 'spans' or 'added'."})
    method: str = field(default="rkld", metadata={"help": "Unlearning method, in rkld.methods or as FILE.py:NAME."})
    method_arg: list[str] = field(
        default_factory=list, metadata={"help": "Its hyper-parameters where they are not the defaults: 'name=value'."}
    )
    chunk_rows: int | None = field(
        default=None, metadata={"help": "Rows whose logits exist at once. Default: by vocabulary, dtype and device."}
    )
    checkpoint_minutes: float = field(default=10.0, metadata={"help": "Minutes between checkpoints."})
    # What this project needs of the Trainer, and no choice of the user's.
    save_strategy: str = "no"
    report_to: str = "none"
    remove_unused_columns: bool = False
    disable_tqdm: bool = True
    logging_steps: float = 1
    logging_nan_inf_filter: bool = False  # it would halt a GPU at every step to ask
    bf16: bool = False

    def __post_init__(self):
        # transformers takes bf16 without a GPU for a mistake; CPUs have it too (AMX, AVX512).
        self.use_cpu = self.use_cpu or (self.bf16 and not torch.cuda.is_available())
        super().__post_init__()
