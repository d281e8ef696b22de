"""Every setting of an audit: the flags of ``rkld audit`` and the keywords of :func:`rkld.audit` are these."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rkld.errors import UserError
from rkld.settings.table import ASKED, COMPARED, MODEL, check_bounds, of

Kind = Literal["max", "min"]
"""Of a gate: the metric may be so high at most, or must be at least."""


@dataclass(frozen=True)
class AuditSettings:
    """What is audited, with what, how hard, and what it must show; :mod:`rkld.settings.table` says more of each."""

    model: str = of(
        "model", help="Folder, hub name, PEFT adapter folder, or a run folder; with --endpoint the served name."
    )
    forget: str = of("forget", help="The records that should be forgotten, in any form that rkld unlearn reads.")
    subject: tuple[str, ...] = of("subject")
    holdout: str | None = of(
        "holdout",
        help="Records of the same kind that were never trained on: for membership.",
        group=COMPARED,
        affects="figures",
    )
    retain: str | None = of("retain", help="Records that should have been kept.")
    neighbours: str | None = of("neighbours")
    real_authors: str | None = of("real_authors")
    world_facts: str | None = of("world_facts")

    original: str | None = of("original")
    control: str | None = of(
        "control",
        help="A model that never saw the records (retrained), to stand beside.",
        group=COMPARED,
        affects="figures",
    )
    retain_logs: str | None = of("retain_logs")
    endpoint: str | None = of("endpoint")
    tokenizer: str | None = of("tokenizer")
    timeout: float = of("timeout")

    attacks: tuple[str, ...] = of("attacks")
    metric: tuple[str, ...] = of("metric")
    probes: str | None = of("probes")
    general: tuple[str, ...] = of("general")
    k: int = of("k")
    samples: int = of("samples")
    top: int = of("top")
    relearn_share: float = of("relearn_share")
    relearn_epochs: int = of("relearn_epochs")
    relearn_lr: float | None = of("relearn_lr")
    questions: int | None = of("questions")
    seed: int = of("seed", group=ASKED, affects="figures")

    max: tuple[str, ...] = of("max")
    min: tuple[str, ...] = of("min")
    margin: float = of("margin")

    system_prompt: str | None = of("system_prompt")
    chat_template: str | None = of("chat_template")
    template_date: str = of("template_date")
    max_length: int | None = of("max_length")
    max_new_tokens: int | None = of(
        "max_new_tokens",
        help="Longest generated answer, in tokens. Default: as long as the recorded one and 64 more, at least 200; for "
        "models that may think first 1024 more. What an answer that is cut does not say counts as not measured.",
        affects="figures",
    )

    dtype: Literal["auto", "float32", "bfloat16"] = of("dtype", help="Weights.", affects="figures")
    method_file: tuple[str, ...] = of("method_file", group=MODEL)
    base: str | None = of("base")
    trust_remote_code: bool = of("trust_remote_code")
    allow_pickle: bool = of("allow_pickle")

    out: str | None = of(
        "out", help="Folder for audit.json. Default: the run folder the model is in, or runs/MODEL-HASH-audit."
    )
    redact: bool = of("redact")

    request: str | None = of("request", help="The request as a form in YAML. Default: as the run has it.")
    note: str | None = of("note")

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.samples < self.k:
            raise UserError(f"--samples {self.samples} is too few for leak@{self.k}: give at least --k of them.")

    def gates(self) -> list[tuple[Kind, str, float]]:
        """(kind, metric, limit) of every gate that the user set. UserError where one cannot be read."""
        found: list[tuple[Kind, str, float]] = []
        kinds: tuple[Kind, ...] = ("max", "min")
        for kind in kinds:
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
