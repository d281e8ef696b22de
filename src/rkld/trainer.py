"""The one training loop, on :class:`transformers.Trainer`: strengthening, distillation and every other method.

The Trainer brings accelerate, mixed precision, FSDP, DeepSpeed, checkpoints and trackers; what it cannot know, the
records of a step and how their rows are weighted, comes from :mod:`rkld.objective`.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from . import methods
from .divergence import forward_kl
from .encoding import IN_PART, Encoded, Encoder
from .errors import Diverged, UserError
from .hidden import states
from .models import LanguageModel, load_model, new_adapter
from .objective import REFUSALS, MicroBatches, Objective, StateTerm, Term, answer, evaluate, kept, to_labels
from .records import Record, read_records
from .refusals import read_refusals, refused
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


class ObjectiveTrainer(Trainer):
    """Minimises an :class:`rkld.objective.Objective`."""

    loss_is_scaled_for_ga = True  # rows are weighted over the whole step

    def __init__(self, lm: LanguageModel, args: RKLDConfig, objective: Objective, callbacks: Sequence = ()):
        if lm.is_quantised and not lm.is_adapter:
            raise UserError(
                f"The weights of {lm.source} are quantised, so they cannot be trained: train an adapter on them "
                "(--lora), or take the model they were made from."
            )
        if args.fp16 or lm.head.weight.dtype == torch.float16:
            raise UserError(
                "float16 cannot hold the gradients of small weights, which come out as zeros: train in bfloat16 (bf16=True) "
                "or float32, and load the model in either."
            )
        self.lm = lm
        self.objective = objective
        args = copy.copy(args)  # the caller may train something else by the same
        args._n_gpu = min(args.n_gpu, 1)  # one process, one GPU: DataParallel would split what is weighted as a whole
        batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        per_epoch = math.ceil(len(next(iter(objective.sets.values()))) / batch_size)
        steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
        self.batches = MicroBatches(
            objective,
            batch_size=batch_size,
            accumulation=args.gradient_accumulation_steps,
            epochs=math.ceil(steps / per_epoch),
            seed=args.seed,
            processes=args.world_size,
            process=args.process_index,
            dtype=torch.promote_types(lm.head.weight.dtype, torch.float32),
        )
        # A run of one epoch would otherwise end before it has warmed up.
        args.warmup_steps = args.warmup_steps or min(round(args.warmup_epochs * per_epoch), steps // 2)
        self._values: dict[str, Tensor] = {}
        self._logged_steps = 0
        self._read = _Read()
        super().__init__(
            model=lm.model,
            args=args,
            train_dataset=self.batches,
            processing_class=lm.tokenizer,
            callbacks=[_Position(self), _TimedCheckpoint(args.checkpoint_minutes), *callbacks],
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
        terms = self.objective.terms
        layers = {term.layer for term in terms if isinstance(term, StateTerm)}
        found = states(self.lm.backbone, inputs["input_ids"], layers)
        total, parts = evaluate(terms, inputs, found, self.lm.head, self.args.chunk_rows)
        for term in terms:
            # Divided by the term's weight again: the term's own average, whatever λ is.
            value = parts[term.name] / (term.weight or 1.0)
            self._values[term.name] = self._values.get(term.name, 0.0) + value
        return total

    def log(self, logs, *args, **kwargs):
        if not math.isfinite(logs.get("loss", 0.0)):
            raise Diverged(f"the loss is {logs['loss']} at step {self.state.global_step}")
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
        sets = encode_sets(lm, args, train_dataset, replay_dataset, retain_dataset)
        super().__init__(lm, args, build_objective(sets, teacher, lm, args), callbacks)


def load_student(model, processing_class=None, peft_config=None) -> LanguageModel:
    """The model to train, with a new adapter where one is asked for: always the same, as the teacher is made with it."""
    lm = load_model(model, tokenizer=processing_class)
    if peft_config is None:
        return lm
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return new_adapter(lm, config=peft_config)


def encode_sets(lm: LanguageModel, args: RKLDConfig, forget, replay=None, retain=None) -> dict[str, list[Encoded]]:
    """Data sets as the objective names them, encoded in the model's own format; with the method's refusals."""
    encoder = Encoder(lm.tokenizer, context_length=lm.context_length)
    given = {"forget": forget, "replay": replay, "retain": retain}
    records = {name: read_records(source, name) for name, source in given.items() if source is not None}
    sets = {
        name: [encoder.encode(record, args.score if name == "forget" else "answer") for record in found]
        for name, found in records.items()
    }
    method = methods.get_method(args.method, args.method_arg)
    return with_refusals(sets, records, encoder, method, read_refusals(), seed=0)  # teacher and student see the same


def with_refusals(
    sets: Mapping[str, Sequence[Encoded]],
    records: Mapping[str, Sequence[Record]],
    encoder: Encoder,
    method: methods.Method,
    refusals: Sequence[str],
    seed: int,
) -> dict[str, Sequence[Encoded]]:
    """The sets, each followed by its questions with refusals for answers where the method wants them.

    Args:
        records: what each set was encoded from, and maybe others.
    """
    found = {}
    for name, encoded in sets.items():
        found[name] = encoded
        if name in method.refusals:
            by_key = {record.key: record for record in records[name]}
            asked = refused([by_key[e.key] for e in encoded], refusals, seed)
            found[name + REFUSALS] = [encoder.encode(record, "answer") for record in asked]
    return found


def build_terms(
    sets: Mapping[str, Sequence[Encoded]], teacher: Teacher, lm: LanguageModel, args: RKLDConfig
) -> list[Term]:
    """The method's own terms, and those that hold everything else in place."""
    method = methods.get_method(args.method, args.method_arg)

    def to_original(logits, inputs, spare):
        return forward_kl(logits, teacher.original(inputs, spare), spare[1])

    method.require(sets, args.retain_loss)
    terms = method.terms(teacher, sets, lm)
    if not method.held:
        return terms
    if teacher.cache.done("uninformed/forget"):
        floor = ("uninformed", "floored")
        terms = [replace(t, cached=(*t.cached, *floor)) if "strengthened" in t.cached else t for t in terms]
    whole = isinstance(method, methods.Assisted)  # an assistant learns whole answers, whatever is scored
    if args.score in IN_PART and args.keep_weight and not whole:
        terms.append(Term("keep", "forget", kept, to_original, args.keep_weight, cached=("original",)))
    if "replay" in sets and args.replay_weight:
        terms.append(Term("replay", "replay", answer, to_original, args.replay_weight, cached=("original",)))
    retain_loss = method.retain_loss if args.retain_loss == "auto" else args.retain_loss
    if "retain" in sets and args.retain_weight and retain_loss == "kl":
        terms.append(Term("retain", "retain", answer, to_original, args.retain_weight, cached=("original",)))
    elif "retain" in sets and args.retain_weight and retain_loss == "rt":
        terms.append(Term("retain", "retain", answer, to_labels, args.retain_weight))
    return terms


def cached_parts(terms: Sequence[Term]) -> set[str]:
    """What the terms read from the cache, as :func:`rkld.strengthening.fill_cache` names it: "original/forget", …"""
    return {f"{part}/{name}" for term in terms for part in term.cached for name in term.masks}


def build_objective(
    sets: Mapping[str, Sequence[Encoded]], teacher: Teacher, lm: LanguageModel, args: RKLDConfig
) -> Objective:
    """The terms of the method and of everything beside it, over the sets that they read.

    Raises:
        UserError: the teacher was built from other records, or for another method.
    """
    objective = Objective.of(sets, build_terms(sets, teacher, lm, args), teacher.cache)
    for part in sorted(cached_parts(objective.terms)):
        name = part.rpartition("/")[2]
        for e in sets[name]:
            found, needed = teacher.cache.rows(part, e.key), sum(marked(e))
            if found != needed:
                raise UserError(
                    f"the teacher was built from other records, or for another method: it has {found or 0} states of "
                    f"{part} record {e.key}, and {needed} are needed. Build it again."
                )
    teacher.attach(lm)
    return objective


def _within_forward(wrapped: nn.Module, inner: nn.Module, function, inputs):
    """Run ``function(inputs)`` as ``inner``'s forward, called through ``wrapped``.

    DDP, FSDP and ZeRO-3 gather and reduce in hooks around the wrapped module's forward, so the head must be used
    inside it. FSDP2 wraps nothing: its hooks are on the module itself, which is both then.
    """
    forward = inner.forward
    own = "forward" in vars(inner)  # not of the class: accelerate or a wrapper has put one there
    inner.forward = function
    try:
        return wrapped(inputs)
    finally:
        if own:
            inner.forward = forward
        else:
            del inner.forward


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


class _Position(TrainerCallback):
    """Tells the trainer where it is, which in a resumed run is not the beginning."""

    def __init__(self, trainer: ObjectiveTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer._logged_steps = state.global_step

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.batches.epoch = int((state.epoch or 0) + 1e-6)


class _TimedCheckpoint(TrainerCallback):
    """Asks for a checkpoint once the last one is old: by time, because steps take from milliseconds to minutes.

    One clock decides for all processes, for to save is something they do together. To ask it halts a GPU, so they ask
    halfway to the step that seems due, and again halfway from there.
    """

    def __init__(self, minutes: float):
        self.seconds = 60 * minutes
        self.last = time.monotonic()
        self.since = self.ask = 0
        """Steps: of the last checkpoint, and at which to ask again."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.last, self.since = time.monotonic(), state.global_step

    def on_step_end(self, args, state, control, **kwargs):
        if (step := state.global_step) < self.ask:
            return
        gone = time.monotonic() - self.last
        left = (self.seconds - gone) / max(gone, 1e-9) * (step - self.since) / 2
        due, wait = broadcast_object_list([gone >= self.seconds, int(min(left, state.max_steps))])
        self.ask = step + max(1, wait)
        if due:
            self.last, self.since = time.monotonic(), step
            control.should_save = control.should_save or step < state.max_steps


def fit(trainer: ObjectiveTrainer) -> None:
    """Train, from the last whole checkpoint in the output folder if there is one."""
    # A checkpoint is whole once the trainer's state, written last, is there to its end.
    found = Path(trainer.args.output_dir).glob("checkpoint-*/trainer_state.json")
    whole = [path.parent for path in found if path.read_text(encoding="utf-8").rstrip().endswith("}")]
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
