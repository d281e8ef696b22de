"""Every setting of a run: the command line's flags, ``run.yaml`` and ``rkld.pipeline.phases``'s arguments are these."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rkld.errors import UserError
from rkld.settings.specification import fields, flag, setting


@dataclass(frozen=True)
class Settings:
    """How a person is forgotten. Units stand beside each setting; defaults marked (paper) are RKLD's own."""

    model: str = setting("", "Folder, hub name, PEFT adapter folder, or the alias smollm2-135m.")
    forget: str = setting("", "Records to forget: JSONL, JSON, CSV, Parquet, or a Hugging Face data set.")
    retain: str | None = setting(None, "Records to keep, in any of the same forms. Optional.")
    replay: str = setting("auto", "Self-replay: 'auto', 'none' (as published), or a file of prompts.")
    own_words: Literal["no", "join", "replace"] = setting(
        "no", "The model's own answers to the forget questions, facts marked: join or replace the written records."
    )
    subject: tuple[str, ...] = setting((), "A name of the person, or a file of names, aliases and identifiers.")
    out: str | None = setting(None, "Run folder. Default: runs/MODEL.")

    method: str = setting("rkld", "Unlearning method: its name, or FILE.py:NAME for one of your own.")
    method_arg: tuple[str, ...] = setting((), "A hyper-parameter of the method that is not its default.")
    refusals: str | None = setting(None, "Refusals, one a line, for methods that teach them. Default: a list of 30.")
    alpha: float = setting(8.0, "Teacher: l_o - alpha * ReLU(l_aug - l_o) (paper: 8 on TOFU).")
    teacher: str | None = setting(
        None,
        "Folder of the teacher's cache, for runs that differ in alpha or divergence to share. It holds personal "
        "data and stays. Default: the run's own, removed in the end.",
    )
    score: Literal["answer", "all", "spans", "added"] = setting(
        "answer", "What is unlearned: answers, every turn, marked spans, or what answers add to their questions."
    )
    retain_loss: Literal["auto", "kl", "rt", "none"] = setting(
        "auto", "On retain records: forward KL to the original, or fine-tuning. auto: the method's own (rkld: kl)."
    )
    retain_weight: float = setting(1.0, "Lambda of the retain term (paper: 1).")
    replay_weight: float = setting(5.0, "Lambda of self-replay.")
    keep_weight: float = setting(
        2.0, "Rho: holds the unscored part of forget answers to the original (score spans, added)."
    )
    floor: bool = setting(
        True, "With score spans: the teacher never falls below what is said of other people in the same place."
    )

    epochs: int = setting(
        10, "Passes over the forget records while distilling (paper: up to 10); a --stop may end them."
    )
    stop: str = setting(
        "placebo",
        "When to stop: placebo (known no better than never-trained people), control (than to --control), chance_rank "
        "(true answers rank by chance), last (the last step), or FILE.py:NAME for a rule of your own.",
    )
    check_every: int | None = setting(None, "Optimizer steps between the checks of --stop. Default: half an epoch's.")
    holdout: str | None = setting(
        None, "Records of people the model was never trained on, for --stop placebo. Default: invented names."
    )
    control: str | None = setting(None, "A model that has never seen the forget records, for --stop control.")
    strengthen_epochs: int = setting(5, "Passes over the forget records while strengthening (paper: 5 more).")
    lr: float | None = setting(None, "Peak learning rate. Default: 5e-5, with LoRA 5e-4 (paper: 1e-5 for 7B).")
    strengthen_lr: float | None = setting(None, "Peak learning rate of strengthening. Default: as --lr.")
    batch_size: int = setting(8, "Forget records per optimizer step.")
    accumulation: int | None = setting(
        None, "Micro-batches that an optimizer step is split into. Default: on a CPU of 4 records or more, else 1."
    )
    lora: bool = setting(False, "Train a LoRA adapter in place of all weights.")
    lora_rank: int = setting(16, "Rank of the adapter.")
    seed: int = setting(0, "Seed of everything drawn.")

    system_prompt: str | None = setting(None, "System prompt. Default: whatever the template does by itself.")
    chat_template: str | None = setting(
        None, "File with a Jinja chat template, or name of a preset, in place of the model's own."
    )
    template_date: str = setting("2024-07-26", "The date, YYYY-MM-DD, for templates that insert today's.")
    max_length: int | None = setting(None, "Cut records to this many tokens. Default: refuse longer than the context.")
    max_new_tokens: int = setting(64, "Longest generated answer, in tokens.")

    dtype: Literal["auto", "float32", "bfloat16"] = setting("auto", "Weights while training. auto: float32.")
    bf16: bool | None = setting(None, "Compute in bfloat16 over float32 weights. Default: on a GPU that has it.")
    optim: str = setting("adamw_torch_fused", "Optimizer, by its name in transformers.")
    gradient_checkpointing: bool = setting(False, "Recompute activations in the backward pass, to save memory.")
    checkpoint_minutes: float = setting(10.0, "Minutes between checkpoints of a long phase.")

    merge: bool = setting(False, "With an adapter: write the merged model.")
    keep_files: bool = setting(False, "Keep strengthened weights, cache, checkpoints and replay after the run.")
    trust_remote_code: bool = setting(False, "Allow models that bring their own code.")
    allow_pickle: bool = setting(False, "Allow weights in pickle form, which can run code when they are read.")

    def __post_init__(self) -> None:
        for name in fields(type(self)):
            if isinstance(getattr(self, name), float) and not math.isfinite(getattr(self, name)):
                raise UserError(f"{flag(name)} is {getattr(self, name)}; it must be a finite number.")
        for name, low in {
            "epochs": 1, "strengthen_epochs": 1, "batch_size": 1, "lora_rank": 1,
            "max_new_tokens": 1, "seed": 0, "alpha": 0, "retain_weight": 0, "replay_weight": 0, "keep_weight": 0,
            "checkpoint_minutes": 0,
        }.items():  # fmt: skip
            if getattr(self, name) < low:
                raise UserError(f"{flag(name)} is {getattr(self, name)}; it must be at least {low}.")
        if self.accumulation is not None and (self.accumulation < 1 or self.batch_size % self.accumulation):
            raise UserError(
                f"--batch-size {self.batch_size} cannot be split into --accumulation {self.accumulation} equal parts."
            )
        for name in ("lr", "strengthen_lr"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise UserError(f"{flag(name)} is {getattr(self, name)}; it must be above 0.")
        if self.max_length is not None and self.max_length < 2:
            raise UserError(f"--max-length is {self.max_length}; it must be at least 2.")
        if self.check_every is not None and self.check_every < 1:
            raise UserError(f"--check-every is {self.check_every}; it must be at least 1.")

    @property
    def peak_lr(self) -> float:
        return self.lr if self.lr is not None else (5e-4 if self.lora else 5e-5)

    @property
    def run_folder(self) -> Path:
        return Path(self.out) if self.out else Path("runs") / (Path(self.model).name or "model")
