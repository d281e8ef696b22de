"""Every setting of a run: the command line's flags, ``run.yaml`` and the keywords of :func:`rkld.unlearn` are these."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rkld.errors import UserError
from rkld.settings.table import AUTO_METHOD, DEFAULT_METHOD, check_bounds, of

FROM_BASE = "base_vector"
"""The method where none is asked for and a base is given."""


@dataclass(frozen=True)
class Settings:
    """How a person is forgotten; :mod:`rkld.settings.table` says of each what it means, its bounds and its unit."""

    model: str = of("model")
    forget: str = of("forget")
    subject: tuple[str, ...] = of("subject")
    score: Literal["answer", "all", "spans", "added"] = of("score")
    own_words: Literal["no", "join", "replace"] = of("own_words")
    reword: int = of("reword")
    rewordings: str | None = of("rewordings")
    reword_kinds: tuple[str, ...] = of("reword_kinds")
    writer: str | None = of("writer")
    writer_endpoint: str | None = of("writer_endpoint")
    instead: Literal["nothing", "unknown"] = of("instead")

    retain: str | None = of("retain")
    retain_loss: Literal["auto", "kl", "rt", "none"] = of("retain_loss")
    retain_weight: float = of("retain_weight")
    replay: str = of("replay")
    replay_weight: float = of("replay_weight")
    keep_replay: bool = of("keep_replay")
    keep_weight: float = of("keep_weight")
    floor: bool | None = of("floor")

    method: str = of("method")
    method_arg: tuple[str, ...] = of("method_arg")
    method_file: tuple[str, ...] = of("method_file")
    gate: Literal["none", "sago"] = of("gate")
    sam: float = of("sam")
    refusals: str | None = of("refusals")
    alpha: float = of("alpha")
    teacher: str | None = of("teacher")

    epochs: int = of("epochs")
    stop: str = of("stop")
    check_every: int | None = of("check_every")
    holdout: str | None = of("holdout")
    control: str | None = of("control")

    strengthen_epochs: int = of("strengthen_epochs")
    strengthen_gain: float = of("strengthen_gain")
    lr: float | None = of("lr")
    strengthen_lr: float | None = of("strengthen_lr")
    batch_size: int = of("batch_size")
    accumulation: int | None = of("accumulation")
    lora: bool = of("lora")
    lora_rank: int = of("lora_rank")
    optim: str = of("optim")
    seed: int = of("seed")

    system_prompt: str | None = of("system_prompt")
    chat_template: str | None = of("chat_template")
    template_date: str = of("template_date")
    max_length: int | None = of("max_length")
    max_new_tokens: int | None = of("max_new_tokens")

    dtype: Literal["auto", "float32", "bfloat16"] = of("dtype")
    bf16: bool | None = of("bf16")
    gradient_checkpointing: bool = of("gradient_checkpointing")
    shard: bool = of("shard")
    merge: bool = of("merge")
    base: str | None = of("base")
    save_dtype: Literal["auto", "float32", "bfloat16", "float16"] = of("save_dtype")
    text_only: bool = of("text_only")
    trust_remote_code: bool = of("trust_remote_code")
    allow_pickle: bool = of("allow_pickle")

    out: str | None = of("out")
    checkpoint_minutes: float = of("checkpoint_minutes")
    keep_files: bool = of("keep_files")
    share_model: bool = of("share_model")
    ledger: str | None = of("ledger")
    ledger_key: str | None = of("ledger_key")
    seal_to: str | None = of("seal_to")
    report_to: tuple[str, ...] = of("report_to")
    push_to_hub: str | None = of("push_to_hub")
    hub_private: bool = of("hub_private")

    request: str | None = of("request")
    note: str | None = of("note")

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.method == AUTO_METHOD:
            object.__setattr__(self, "method", self._method)
        if self.accumulation is not None and self.batch_size % self.accumulation:
            raise UserError(
                f"--batch-size {self.batch_size} cannot be split into --accumulation {self.accumulation} equal parts."
            )
        if (self.ledger is None) is not (self.ledger_key is None):
            raise UserError("--ledger and --ledger-key are given together: rkld keygen KEY --for ledger makes a key.")
        if self.seal_to is not None and self.ledger is None:
            raise UserError("--seal-to seals the questions of a --ledger: give that, too.")
        if self.writer_endpoint is not None and self.writer is None:
            raise UserError("--writer-endpoint needs --writer, the name that the model is served under there.")

    @property
    def _method(self) -> str:
        """The method where none is asked for. What lies under an adapter need not be named, and RKLD keeps more of the
        rest there (docs/tried.md)."""
        # An object stands here by its type's name. os.path.exists has an answer, whatever is there.
        adapter = self.model.startswith("<Peft") or os.path.exists(Path(self.model) / "adapter_config.json")
        retained = self.retain is not None and self.retain_weight > 0 and self.retain_loss != "none"
        held = retained or (self.replay != "none" and self.replay_weight > 0)
        changed = self.lora or self.gate != "none" or self.sam > 0
        return FROM_BASE if self.base is not None and held and not adapter and not changed else DEFAULT_METHOD

    @property
    def run_folder(self) -> Path:
        return Path(self.out) if self.out else Path("runs") / (Path(self.model).name or "model")
