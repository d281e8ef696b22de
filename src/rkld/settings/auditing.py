"""Every setting of an audit: the flags of ``rkld audit`` and the arguments of :func:`rkld.auditing` are these."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rkld.errors import UserError
from rkld.settings.specification import flag, setting


@dataclass(frozen=True)
class AuditSettings:
    """What is audited, with what, how hard, and what it must show. Units stand beside each setting."""

    model: str = setting("", "Folder, hub name, PEFT adapter folder, or a run folder; with --endpoint the served name.")
    forget: str = setting("", "The records that should be forgotten, in any form that rkld unlearn reads.")
    subject: tuple[str, ...] = setting((), "A name of the person, or a file of names, aliases and identifiers.")
    holdout: str | None = setting(None, "Records of the same kind that were never trained on: for membership.")
    retain: str | None = setting(None, "Records that should have been kept.")
    neighbours: str | None = setting(None, "Records near the forgotten ones: those most easily damaged.")
    real_authors: str | None = setting(None, "TOFU's real_authors_perturbed: for model utility.")
    world_facts: str | None = setting(None, "TOFU's world_facts_perturbed: for model utility.")
    probes: str | None = setting(None, "Probes made by rkld probes. Default: made where records have no paraphrases.")

    original: str | None = setting(None, "The model before unlearning, to stand beside.")
    control: str | None = setting(None, "A model that never saw the records (retrained), to stand beside.")
    retain_logs: str | None = setting(
        None, "A retrained model's results: TOFU's logs or open-unlearning's TOFU_EVAL.json."
    )
    endpoint: str | None = setting(None, "URL of an OpenAI-compatible server that serves the model.")
    tokenizer: str | None = setting(None, "With --endpoint: folder of the tokenizer and template, for likelihoods.")

    attacks: tuple[str, ...] = setting(
        ("standard",), "Attacks by name, standard (those that ask only and cost little), all, none, or FILE.py:NAME."
    )
    metric: tuple[str, ...] = setting((), "A metric of your own beside the registered ones: FILE.py:NAME.")
    general: tuple[str, ...] = setting((), "Tasks of lm-eval, such as piqa; 'paper' for RKLD's seven.")
    k: int = setting(8, "Sampled answers of leak@k.")
    samples: int = setting(16, "Sampled answers to each question; above k, the more the less noise.")
    top: int = setting(5, "Completions of a blank.")
    relearn_share: float = setting(0.2, "Share of the forget records that is learned again.")
    relearn_epochs: int = setting(10, "Passes over them.")
    relearn_lr: float | None = setting(None, "Learning rate of it. Default: 5e-5, of an adapter 5e-4.")
    questions: int | None = setting(None, "Only the first so many of every set (old TOFU figures: 300). Default: all.")
    max_new_tokens: int = setting(200, "Longest generated answer, in tokens.")
    seed: int = setting(0, "Seed of everything drawn.")

    max: tuple[str, ...] = setting((), "Gate: NAME=VALUE, the metric may be so high at most.")
    min: tuple[str, ...] = setting((), "Gate: NAME=VALUE, the metric must be so high at least.")
    margin: float = setting(0.1, "Equivalence to the control is claimed within this margin.")
    redact: bool = setting(False, "Keep all text out of audit.json and delete what was generated.")
    out: str | None = setting(
        None, "Folder for audit.json. Default: the run folder the model is in, or runs/MODEL-audit."
    )

    system_prompt: str | None = setting(None, "System prompt. Default: whatever the template does by itself.")
    chat_template: str | None = setting(None, "File with a Jinja chat template to use in place of the model's own.")
    template_date: str = setting("2024-07-26", "The date, YYYY-MM-DD, for templates that insert today's.")
    max_length: int | None = setting(None, "Cut records to this many tokens. Default: refuse longer than the context.")
    dtype: Literal["auto", "float32", "bfloat16"] = setting("auto", "Weights. auto: float32.")
    trust_remote_code: bool = setting(False, "Allow models that bring their own code.")
    allow_pickle: bool = setting(False, "Allow weights in pickle form, which can run code when they are read.")

    def __post_init__(self) -> None:
        for name in ("k", "samples", "top", "relearn_epochs", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{flag(name)} is {getattr(self, name)}; it must be at least 1.")
        if self.questions is not None and self.questions < 1:
            raise UserError(f"--questions is {self.questions}; it must be at least 1.")
        if self.relearn_lr is not None and not 0 < self.relearn_lr < math.inf:
            raise UserError(f"--relearn-lr is {self.relearn_lr}; it must be above 0.")
        if self.seed < 0:
            raise UserError(f"--seed is {self.seed}; it must be at least 0.")
        if self.samples < self.k:
            raise UserError(f"--samples {self.samples} is too few for leak@{self.k}: give at least --k of them.")
        for name in ("relearn_share", "margin"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"{flag(name)} is {getattr(self, name)}; it must lie between 0 and 1.")

    def gates(self) -> list[tuple[str, str, float]]:
        """("max" or "min", metric, limit) of every gate. UserError where one cannot be read."""
        found = []
        for kind in ("max", "min"):
            for text in getattr(self, kind):
                name, _, value = text.rpartition("=")
                try:
                    limit = float(value)
                except ValueError:
                    limit = math.nan
                if not name or not math.isfinite(limit):
                    raise UserError(f"--{kind} {text}: expected NAME=VALUE, such as facts_said=0.1.")
                found.append((kind, name.strip(), limit))
        return found
