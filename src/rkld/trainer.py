"""The one training loop, on :class:`transformers.Trainer`: strengthening, distillation and every other method.

The Trainer brings accelerate, mixed precision, FSDP, DeepSpeed, checkpoints and trackers; what it cannot know, the
records of a step and how their rows are weighted, comes from :mod:`rkld.objective`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from . import methods
from .divergence import cross_entropy, forward_kl
from .encoding import Encoded, Encoder
from .errors import UserError
from .hidden import hidden_at
from .linear_divergence import linear_divergence
from .models import LanguageModel, load_model, new_adapter
from .objective import MicroBatches, Objective, Term, answer, kept, scored, segments
from .records import read_records
from .teacher import Teacher, marked


@dataclass
class RKLDConfig(TrainingArguments):
    """Training settings; all of :class:`transformers.TrainingArguments`, with the paper's defaults.

    One optimizer step sees ``per_device_train_batch_size × gradient_accumulation_steps × processes`` forget records.
    """

    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate (the paper: 1e-5)."})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW weight decay (the paper: 0.01)."})
    num_train_epochs: float = field(default=5, metadata={"help": "Passes over the forget records."})
    lr_scheduler_type: str = field(default="linear", metadata={"help": "Decay after the warm-up (the paper: linear)."})
    warmup_epochs: float = field(default=1.0, metadata={"help": "Epochs of linear warm-up (the paper: 1)."})
    alpha: float = field(default=8.0, metadata={"help": "Teacher: l_o − α·ReLU(l_aug − l_o) (the paper: 8 on TOFU)."})
    retain_weight: float = field(default=1.0, metadata={"help": "λ of +RT and +KL (the paper: 1)."})
    retain_loss: str = field(default="kl", metadata={"help": "Retain term: 'kl' (forward KL) or 'rt' (cross-entropy)."})
    replay_weight: float = field(default=5.0, metadata={"help": "λ of self-replay."})
    keep_weight: float = field(default=2.0, metadata={"help": "ρ of the keep term, where only spans are scored."})
    score: str = field(default="answer", metadata={"help": "What is unlearned: 'answer', 'all' or 'spans'."})
    method: str = field(default="rkld", metadata={"help": "Unlearning method, by its name in rkld.methods."})
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


class ObjectiveTrainer(Trainer):
    """Minimises an :class:`rkld.objective.Objective`."""

    loss_is_scaled_for_ga = True  # rows are weighted over the whole step

    def __init__(self, lm: LanguageModel, args: RKLDConfig, objective: Objective, callbacks: Sequence = ()):
        self.lm = lm
        self.objective = objective
        args._n_gpu = min(args.n_gpu, 1)  # one process, one GPU: DataParallel would split what is weighted as a whole
        batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        epochs = math.ceil(args.num_train_epochs)
        if args.max_steps > 0:
            epochs = math.ceil(args.max_steps / math.ceil(len(next(iter(objective.sets.values()))) / batch_size))
        self.batches = MicroBatches(
            objective,
            batch_size=batch_size,
            accumulation=args.gradient_accumulation_steps,
            epochs=epochs,
            seed=args.seed,
            processes=args.world_size,
            process=args.process_index,
            dtype=torch.promote_types(lm.head.weight.dtype, torch.float32),
        )
        # A run of one epoch would otherwise end before it has warmed up.
        args.warmup_steps = min(round(args.warmup_epochs * self.batches.steps_per_epoch), len(self.batches.steps) // 2)
        self._values: dict[str, Tensor] = {}
        self._logged_steps = 0
        self._read = _Read()
        super().__init__(
            model=lm.model,
            args=args,
            train_dataset=self.batches,
            processing_class=lm.tokenizer,
            callbacks=[_Epoch(self.batches), _TimedCheckpoint(args.checkpoint_minutes), *callbacks],
        )

        self.remove_callback(PrinterCallback)  # what is shown is up to the callbacks given

    def get_train_dataloader(self) -> DataLoader:
        # Items are whole micro-batches of this process already: nothing is left to batch, shuffle or shard.
        return DataLoader(
            self.batches,
            batch_size=1,
            collate_fn=lambda items: items[0],
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
        )

    def _prepare_inputs(self, inputs):
        self._read.add(inputs.pop("tokens"), inputs["input_ids"].numel())
        return send_to_device(inputs, self.args.device, non_blocking=True)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inner = self.accelerator.unwrap_model(model)
        with self.accelerator.autocast():
            loss = _within_forward(model, inner, self._loss, inputs)
        return (loss, None) if return_outputs else loss

    def _loss(self, inputs) -> Tensor:
        hidden = hidden_at(self.lm.backbone, inputs["input_ids"], inputs["attention_mask"], inputs["rows"])
        head = self.lm.head
        parts = segments(self.objective.terms, inputs["terms"])
        total, values = linear_divergence(hidden, head.weight, head.bias, parts, self.args.chunk_rows)
        start = 0
        for term, part in zip(self.objective.terms, parts):
            rows = values[start : start + len(part.weights)]
            # Weighted and divided by the term's weight again: the term's own average, whatever λ is.
            value = torch.dot(part.weights, rows) / (term.weight or 1.0)
            self._values[term.name] = self._values.get(term.name, 0.0) + value
            start += len(rows)
        return total

    def log(self, logs, *args, **kwargs):
        steps = self.state.global_step - self._logged_steps
        if "loss" in logs and steps:
            # Each process holds its own records' part of the step, times their number, as of the gradients.
            mean = self.accelerator.reduce(self._values, "mean")
            logs |= {name: (value / steps).item() for name, value in mean.items()}
            logs |= self._read.since_last(self.accelerator)
            self._values.clear()
            self._logged_steps = self.state.global_step
        super().log(logs, *args, **kwargs)


class RKLDTrainer(ObjectiveTrainer):
    """Distils a student to a finished teacher, in TRL's manner.

        teacher = rkld.build_teacher(model, train_dataset, "teacher/", processing_class=tokenizer)
        RKLDTrainer(model, RKLDConfig("student/"), teacher=teacher, train_dataset=train_dataset,
                    processing_class=tokenizer).train()

    Args:
        model: anything :func:`rkld.models.load_model` takes; an object is trained in place.
        teacher: built from the same model and the same data sets (:func:`rkld.strengthening.build_teacher`).
        train_dataset: the records to forget; replay_dataset: answered prompts to hold to the original;
            retain_dataset: records to keep. Any source of :func:`rkld.records.read_records`.
        processing_class: the tokenizer; by default the one beside the model.
        peft_config: train an adapter; the same as the teacher's.
    """

    def __init__(
        self,
        model,
        args: RKLDConfig,
        *,
        teacher: Teacher,
        train_dataset,
        replay_dataset=None,
        retain_dataset=None,
        processing_class=None,
        peft_config=None,
        callbacks: Sequence = (),
    ):
        lm = load_student(model, processing_class, peft_config)
        sets = encode_sets(lm, args.score, train_dataset, replay_dataset, retain_dataset)
        super().__init__(lm, args, build_objective(sets, teacher, lm, args), callbacks)


def load_student(model, processing_class=None, peft_config=None) -> LanguageModel:
    """The model to train, with a new adapter where one is asked for."""
    lm = load_model(model, tokenizer=processing_class)
    return lm if peft_config is None else new_adapter(lm, config=peft_config)


def encode_sets(lm: LanguageModel, score: str, forget, replay=None, retain=None) -> dict[str, list[Encoded]]:
    """Data sets as the objective names them, encoded in the model's own format."""
    encoder = Encoder(lm.tokenizer, context_length=lm.context_length)
    sets = {"forget": [encoder.encode(record, score) for record in read_records(forget, "forget")]}
    for name, source in {"replay": replay, "retain": retain}.items():
        if source is not None:
            sets[name] = [encoder.encode(record, "answer") for record in read_records(source, name)]
    return sets


def to_labels(logits: Tensor, inputs: Mapping[str, Tensor], spare: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy to the records' own tokens (:data:`rkld.linear_divergence.RowLoss`)."""
    return cross_entropy(logits, inputs["labels"], spare[0])


def build_objective(
    sets: Mapping[str, Sequence[Encoded]], teacher: Teacher, lm: LanguageModel, args: RKLDConfig
) -> Objective:
    """The method's loss on the forget records, and the terms that hold everything else in place.

    Raises:
        UserError: the teacher was built from other records.
    """
    method = methods.get_method(args.method)

    def to_original(logits, inputs, spare):
        return forward_kl(logits, teacher.original(inputs, spare), spare[1])

    floor = ("uninformed", "floored") if teacher.cache.done("uninformed/forget") else ()
    terms = [Term("forget", "forget", scored, method.loss(teacher), cached=(*method.cached, *floor))]
    if args.score == "spans" and args.keep_weight:
        terms.append(Term("keep", "forget", kept, to_original, args.keep_weight, cached=("original",)))
    if "replay" in sets and args.replay_weight:
        terms.append(Term("replay", "replay", answer, to_original, args.replay_weight, cached=("original",)))
    if "retain" in sets and args.retain_weight and args.retain_loss == "kl":
        terms.append(Term("retain", "retain", answer, to_original, args.retain_weight, cached=("original",)))
    elif "retain" in sets and args.retain_weight:
        terms.append(Term("retain", "retain", answer, to_labels, args.retain_weight))
    sets = {name: records for name, records in sets.items() if any(term.records == name for term in terms)}
    for term in terms:
        for part in term.cached:
            for e in sets[term.records]:
                found, needed = teacher.cache.rows(f"{part}/{term.records}", e.key), sum(marked(e))
                if found != needed:
                    raise UserError(
                        f"the teacher was built from other records: it has {found or 0} {part} states of "
                        f"{term.records} record {e.key}, the {term.name} term needs {needed}. Build it again."
                    )
    teacher.attach(lm)
    return Objective(sets, terms, teacher.cache)


def _within_forward(wrapped: nn.Module, inner: nn.Module, function, inputs):
    """Run ``function(inputs)`` as ``inner``'s forward, called through ``wrapped``.

    DDP, FSDP and ZeRO-3 gather and reduce in hooks around the wrapped module's forward, so the head must be used
    inside it.
    """
    if wrapped is inner:
        return function(inputs)
    forward = inner.forward
    inner.forward = function
    try:
        return wrapped(inputs)
    finally:
        inner.forward = forward


class _Read:
    """Counts what all processes have read since it was last asked."""

    def __init__(self):
        self._start()

    def _start(self) -> None:
        self.tokens = self.positions = 0
        self.started = time.perf_counter()

    def add(self, tokens: int, positions: int) -> None:
        self.tokens += tokens
        self.positions += positions

    def since_last(self, accelerator: Accelerator) -> dict[str, float]:
        """Tokens per second, padding left out, and the share of positions that is padding."""
        counted = torch.tensor([self.tokens, self.positions], device=accelerator.device)
        tokens, positions = accelerator.reduce(counted, "sum").tolist()
        found = {
            "tokens_per_second": round(tokens / (time.perf_counter() - self.started), 1),
            "padding": round(1 - tokens / max(positions, 1), 4),
        }
        self._start()
        return found


class _Epoch(TrainerCallback):
    """Tells the data which epoch it is (a resumed loader is not told by the Trainer)."""

    def __init__(self, batches: MicroBatches):
        self.batches = batches

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.batches.epoch = int((state.epoch or 0) + 1e-6)


class _TimedCheckpoint(TrainerCallback):
    """Asks for a checkpoint once the last one is old: by time, because steps take from milliseconds to minutes."""

    def __init__(self, minutes: float):
        self.seconds = 60 * minutes
        self.last = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        old = time.monotonic() - self.last >= self.seconds
        # One clock decides for all processes: to save is something they do together.
        if broadcast_object_list([old])[0] and state.global_step < state.max_steps:
            control.should_save = True
            self.last = time.monotonic()


def fit(trainer: ObjectiveTrainer) -> None:
    """Train, from the last whole checkpoint in the output folder if there is one."""
    # A checkpoint is whole once the trainer's state, written last, is there.
    whole = [path.parent for path in Path(trainer.args.output_dir).glob("checkpoint-*/trainer_state.json")]
    last = max(whole, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)
    trainer.train(resume_from_checkpoint=last and str(last))
    # The optimizer's state would otherwise stay in memory through the next phase.
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.accelerator.free_memory()
    trainer.lm.model.zero_grad(set_to_none=True)


def fine_tune(lm: LanguageModel, records: Sequence[Encoded], args: RKLDConfig, callbacks: Sequence = ()) -> None:
    """Fine-tune on the answers of ``records``, in place: cross-entropy per answer token (also: strengthening)."""
    term = Term("answers", "records", answer, to_labels)
    fit(ObjectiveTrainer(lm, args, Objective({"records": records}, [term]), callbacks))
