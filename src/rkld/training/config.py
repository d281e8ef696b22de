"""Settings of the training loop."""

from __future__ import annotations

import copy
import functools
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from transformers import TrainingArguments

from rkld.errors import UserError
from rkld.models.loading import gpu_computes_in_bf16
from rkld.processes import launched, uses_deepspeed
from rkld.settings.habits import instead, silent
from rkld.settings.specification import flag
from rkld.settings.table import DEFAULT_METHOD, SHARED, peak_lr

if TYPE_CHECKING:
    from rkld.models.language_model import LanguageModel


T = TypeVar("T")


def _shared(name: str) -> Any:
    """The table's entry whose name here is ``name``."""
    spec = SHARED[name]
    metadata = {"help": spec.help, "choices": list(spec.choices)} if spec.choices else {"help": spec.help}
    if isinstance(spec.default, tuple):  # TrainingArguments are JSON, which has lists
        return field(default_factory=lambda: list(spec.default), metadata=metadata)
    return field(default=spec.default, metadata=metadata)


def _explaining(cls: type[T]) -> type[T]:
    """Have a name that is none of its fields answered with what to write (:mod:`rkld.settings.habits`)."""
    make = cls.__init__

    @functools.wraps(make)
    def explained(self: T, *args: Any, **given: Any) -> None:
        found = fields(cls)  # type: ignore[arg-type]  # a dataclass
        known = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in found}
        if unknown := [name for name in given if name not in known]:
            hint = instead(unknown[0], "trainer", known)
            raise UserError(f"{cls.__name__}: unknown argument '{unknown[0]}'.{hint}")
        if name := silent(given, known):
            raise UserError(f"{cls.__name__}: {name} would do nothing.{instead(name, 'trainer', ())}")
        make(self, *args, **given)

    cls.__init__ = explained  # type: ignore[assignment, method-assign]
    return cls


@_explaining
@dataclass
class RKLDConfig(TrainingArguments):  # type: ignore[misc]  # transformers is not followed: Any
    """Training settings: all of :class:`transformers.TrainingArguments`, and those of ``rkld unlearn`` that training
    needs, with the same defaults (:mod:`rkld.settings.table`).

    One optimizer step sees ``per_device_train_batch_size × gradient_accumulation_steps × processes`` forget records.
    The same arguments serve :func:`rkld.build_teacher`, which takes the strengthening's epochs and rate from
    ``strengthen_epochs`` and ``strengthen_lr``, and :class:`rkld.RKLDTrainer`.

    Raises:
        UserError: a value out of its bounds, as the command line has it.
    """

    learning_rate: float | None = _shared("learning_rate")
    num_train_epochs: float = _shared("num_train_epochs")
    per_device_train_batch_size: int = _shared("per_device_train_batch_size")
    optim: str = _shared("optim")
    seed: int = _shared("seed")
    bf16: bool | None = _shared("bf16")
    dtype: Literal["auto", "float32", "bfloat16"] = _shared("dtype")

    method: str = field(  # a trainer is given no base, by which auto would choose
        default=DEFAULT_METHOD,
        metadata={"help": "Unlearning method: a registered one, or FILE.py:NAME for your own."},
    )
    method_arg: list[str] = _shared("method_arg")  # noqa: RUF009 (it is a field)
    gate: Literal["none", "sago"] = _shared("gate")
    sam: float = _shared("sam")
    refusals: str | None = _shared("refusals")
    score: Literal["answer", "all", "spans", "added"] = _shared("score")
    alpha: float = _shared("alpha")
    retain_loss: Literal["auto", "kl", "rt", "none"] = _shared("retain_loss")
    retain_weight: float = _shared("retain_weight")
    replay_weight: float = _shared("replay_weight")
    keep_weight: float = _shared("keep_weight")
    strengthen_epochs: int = _shared("strengthen_epochs")
    strengthen_gain: float = _shared("strengthen_gain")
    strengthen_lr: float | None = _shared("strengthen_lr")
    checkpoint_minutes: float = _shared("checkpoint_minutes")

    weight_decay: float = field(default=0.01, metadata={"help": "AdamW weight decay (paper: 0.01)."})
    lr_scheduler_type: str = field(default="linear", metadata={"help": "Decay after the warm-up (paper: linear)."})
    warmup_epochs: float = field(
        default=1.0, metadata={"help": "Epochs of linear warm-up (paper: 1), where warmup_steps is not given."}
    )
    chunk_rows: int | None = field(
        default=None, metadata={"help": "Rows whose logits exist at once. Default: by vocabulary, dtype and device."}
    )
    use_cpu: bool = field(default=False, metadata={"help": "Train on the CPU where there is a GPU."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder of checkpoints and of the trained model."})
    # What this project needs of the Trainer, and no choice of the user's.
    save_strategy: str = "no"
    report_to: str = "none"
    remove_unused_columns: bool = False
    disable_tqdm: bool = True
    logging_steps: float = 1
    logging_nan_inf_filter: bool = False  # it would halt a GPU at every step to ask

    def __post_init__(self) -> None:
        inherited = {f.name for f in fields(TrainingArguments)}
        for name, spec in SHARED.items():
            if name not in inherited:
                spec.check(getattr(self, name), flag(spec.name))
        if self.eval_strategy != "no" or self.load_best_model_at_end:
            raise UserError(f"RKLDConfig: {instead('eval_strategy', 'trainer', ()).strip()}")
        if self.bf16 is None:
            self.bf16 = not self.use_cpu and gpu_computes_in_bf16()
        # transformers takes bf16 without a GPU for a mistake; CPUs have it too (AMX, AVX512). And several processes
        # without one find each other only where they are told that they are on the CPU.
        without = launched() > 1 and not torch.accelerator.is_available()
        self.use_cpu = self.use_cpu or without or (self.bf16 and not torch.cuda.is_available())
        if without and uses_deepspeed():  # which accelerate leaves out where it is told that, and which finds the CPU
            self.use_cpu, self.ddp_backend = False, "gloo"
        super().__post_init__()


def with_rate(args: RKLDConfig, lm: LanguageModel) -> RKLDConfig:
    """A copy of the arguments with their learning rate filled in.

    Args:
        lm: what is trained.
    """
    found = copy.copy(args)
    found.learning_rate = peak_lr(args.learning_rate, lm.is_adapter, lm.parameters)
    return found


def of_strengthening(args: RKLDConfig, lm: LanguageModel, folder: str) -> RKLDConfig:
    """The arguments of the strengthening before a training by ``args``.

    Args:
        lm: what is trained.
        folder: for its checkpoints.
    """
    found = copy.copy(args)
    found.output_dir, found.num_train_epochs = folder, args.strengthen_epochs
    rate = args.strengthen_lr if args.strengthen_lr is not None else args.learning_rate
    found.learning_rate = peak_lr(rate, lm.is_adapter, lm.parameters)
    found.gate, found.sam = "none", 0.0  # nothing is forgotten here
    return found
