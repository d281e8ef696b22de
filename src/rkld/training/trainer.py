"""The one training loop, on :class:`transformers.Trainer`: strengthening, distillation and every other method.

The Trainer brings accelerate, mixed precision, FSDP, DeepSpeed, checkpoints and trackers; what it cannot know, the
records of a step and how their rows are weighted, comes from :mod:`rkld.losses.objective`.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Mapping, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.trainer import SCHEDULER_NAME

from rkld import processes
from rkld.errors import Diverged, UserError
from rkld.files import make_folder
from rkld.losses.micro_batches import MicroBatches, pools, steps_per_epoch
from rkld.losses.objective import Objective, StateTerm, Term, evaluate
from rkld.losses.targets import to_labels
from rkld.models.checks import check_weights_trainable
from rkld.models.hidden_states import states
from rkld.models.language_model import LanguageModel
from rkld.models.sharded import all_finite, as_forward, is_sharded, mark_as_prepared, whole_state
from rkld.models.transformers_4 import add_older_forms
from rkld.records.encoding import Encoded, marked
from rkld.training.callbacks import LearnWeights, Position, TimedCheckpoint
from rkld.training.checkpoints import NoteChecksums, last_checkpoint, load_shards, save_shards
from rkld.training.config import RKLDConfig, with_rate
from rkld.training.gradients import TWO_GRADIENTS, SplitGradients, check_gate, forgets, part_of


class ObjectiveTrainer(Trainer):
    """Minimises an :class:`rkld.losses.objective.Objective`."""

    loss_is_scaled_for_ga = True  # rows are weighted over the whole step

    def __init__(
        self,
        lm: LanguageModel,
        args: RKLDConfig,
        objective: Objective,
        callbacks: Sequence[TrainerCallback] = (),
        figures: MutableMapping[str, float] | None = None,
    ):
        """
        Args:
            figures: what callbacks leave there is logged beside the next loss, and taken out.
        """
        check_weights_trainable(lm, adapter=lm.is_adapter)
        if args.fp16:
            raise UserError(
                "float16 cannot hold the gradients of small weights, which come out as zeros: train in bfloat16 "
                "(bf16=True) or float32."
            )
        self.lm = lm
        self.objective = objective
        args = with_rate(args, lm)  # a copy: the caller may train something else by the same
        # The Trainer writes this into the model's config, which is saved with it. Training never uses the cache.
        args.use_cache = getattr(lm.inner.config, "use_cache", True)
        args._n_gpu = min(args.n_gpu, 1)  # one process, one GPU: DataParallel would split what is weighted as a whole
        batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        # A step cannot be split into more parts than it has records: the others would be passes of no weight.
        most = sum(min(batch_size, len(records)) for records in objective.sets.values())
        args.gradient_accumulation_steps = min(args.gradient_accumulation_steps, most)
        per_epoch = steps_per_epoch(len(pools(next(iter(objective.sets.values())))), batch_size)
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
        self._of_step: dict[str, Tensor] = {}
        self._split: SplitGradients | None = None
        if (args.gate != "none" or args.sam) and any(map(forgets, objective.terms)):
            processes.require_alone(args.world_size, TWO_GRADIENTS)
            check_gate(args.gate, objective.terms)
            self._split = SplitGradients(list(lm.model.parameters()), args.gate, args.sam)
        self._learned = LearnWeights(objective.terms, self._mean_of_step)
        self._logged_steps = 0
        self._read = _Read()
        self._figures = {} if figures is None else figures
        super().__init__(
            model=lm.model,
            args=args,
            train_dataset=self.batches,
            processing_class=lm.tokenizer,
            callbacks=[
                Position(self._begin_at_step, self.batches.begin_epoch),
                TimedCheckpoint(args.checkpoint_minutes),
                NoteChecksums(),
                self._learned,
                *callbacks,
            ],
        )

        if is_sharded(lm.model):
            mark_as_prepared(lm.model)
        self.remove_callback(PrinterCallback)  # what is shown is up to the callbacks given

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)  # by one process alone
        if self.args.should_save:
            add_older_forms(Path(output_dir or str(self.args.output_dir)), self.lm.tokenizer)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model. A sharded one all processes gather once, in the first one's CPU memory, which writes it."""
        if not is_sharded(self.lm.model):
            super().save_model(output_dir, _internal_call)
            return
        with processes.together():
            state = None if _internal_call else whole_state(self.lm.model)  # a checkpoint has it in shards
            folder = Path(output_dir or str(self.args.output_dir))

            def write() -> None:
                make_folder(folder)
                if state is not None:
                    self._save(str(folder), state)

            processes.by_main(write)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not is_sharded(self.lm.model):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        save_shards(self.lm.model, self.optimizer.optimizer, Path(output_dir))
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not is_sharded(self.lm.model):  # whose weights come with its optimizer's state
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not is_sharded(self.lm.model):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        load_shards(self.lm.model, self.optimizer.optimizer, Path(checkpoint))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with processes.together():
            return super().train(*args, **kwargs)

    def _begin_at_step(self, step: int) -> None:
        self._logged_steps = step

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        # Items are whole micro-batches of this process already: nothing is left to batch, shuffle or shard.
        return DataLoader(
            self.batches,
            batch_size=1,
            collate_fn=lambda items: items[0],
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
        )

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self._read.add(inputs.pop("tokens"), inputs["input_ids"].numel())
        return send_to_device(inputs, self.args.device, non_blocking=True)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        inner = self.accelerator.unwrap_model(model)
        with self.accelerator.autocast():
            loss = as_forward(inner, self._loss, inputs, called=model)
        return (loss, None) if return_outputs else loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        if self._split is None:
            found: Tensor = super().training_step(model, inputs, num_items_in_batch)
            return found
        model.train()
        inputs, terms = self._prepare_inputs(inputs), self.objective.terms
        forgetting = [term for term in terms if forgets(term)]
        holding = [term for term in terms if not forgets(term)]

        def backward(chosen: Sequence[Term], logged: bool = True) -> Tensor:
            inner = self.accelerator.unwrap_model(model)
            loss = partial(self._loss, terms=chosen, logged=logged)
            with self.accelerator.autocast():
                value = as_forward(inner, loss, part_of(inputs, terms, chosen), called=model)
            self.accelerator.backward(value)
            return value.detach()

        return self._split.add(
            partial(backward, forgetting, logged=False),
            partial(backward, forgetting),
            partial(backward, holding) if holding else None,
            last=self.accelerator.sync_gradients,
        )

    def _loss(self, inputs: Mapping[str, Any], terms: Sequence[Term] | None = None, *, logged: bool = True) -> Tensor:
        terms = self.objective.terms if terms is None else terms
        layers = {term.layer for term in terms if isinstance(term, StateTerm)}
        found = states(self.lm.backbone, inputs["input_ids"], layers)

        scales = self._learned.scales

        def on_head(*hidden: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            given = dict(zip(found, hidden))
            return evaluate(terms, inputs, given, self.lm.head, self.args.chunk_rows, self.lm.logit_transform, scales)

        # As the head's own forward: where its weights are sharded, or on another device, hooks around that gather them.
        total, parts = as_forward(self.lm.head, on_head, *found.values())
        for term in terms if logged else ():
            # Divided by the term's weight again: the term's own average, whatever λ is.
            value = parts[term.name] / (term.weight or 1.0)
            self._values[term.name] = self._values.get(term.name, 0.0) + value
            if term.constraint is not None:
                self._of_step[term.name] = self._of_step.get(term.name, 0.0) + value
        return total

    def _mean_of_step(self, name: str) -> float:
        """Of a term with a constraint, whose next step begins then."""
        return float(self.accelerator.reduce(self._of_step.pop(name), "mean").item())

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if not math.isfinite(logs.get("loss", 0.0)):
            raise Diverged(f"the loss is {logs['loss']} at step {self.state.global_step}")
        steps = self.state.global_step - self._logged_steps
        if "loss" in logs and steps:
            # Each process holds its own records' part of the step, times their number, as of the gradients.
            mean = self.accelerator.reduce(self._values, "mean")
            logs |= {name: (value / steps).item() for name, value in mean.items()}
            logs |= self._read.since_last(self.accelerator)
            logs |= self._figures
            self._figures.clear()
            self._values.clear()
            self._logged_steps = self.state.global_step
        super().log(logs, *args, **kwargs)


class _Read:
    """Counts what all processes have read since the last log line."""

    def __init__(self) -> None:
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


def fit(trainer: ObjectiveTrainer) -> None:
    """Train, from the last whole checkpoint in the output folder if there is one.

    Raises:
        Diverged: a logged loss, or a trained weight at the end, is not finite.
    """
    folder = Path(str(trainer.args.output_dir))
    sharded = is_sharded(trainer.lm.model)
    last = last_checkpoint(folder, sharded=sharded)
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    except Exception:
        if processes.is_main():
            with processes.alone():  # the others need not have failed
                last_checkpoint(folder, sharded=sharded)  # half a checkpoint, of a full disk, makes room
        raise
    finally:
        _own_forward(trainer.model)
    _check_finite(trainer)
    _let_go(trainer)


def _let_go(trainer: ObjectiveTrainer) -> None:
    """Take off what was put around the model and beside it: it would take memory, and part in the next training."""
    trainer.model_wrapped = trainer.model
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.accelerator.free_memory()
    trainer.lm.model.zero_grad(set_to_none=True)
    if trainer.args.world_size > 1:
        gc.collect()  # until it is gone, DDP's wrapper averages every gradient that its model gets


def _own_forward(model: nn.Module) -> None:
    """Give the model back the forward that accelerate put one with autocast in place of.

    Else it would answer in bfloat16 wherever it goes on in memory. (accelerate's own way back takes off all decorators,
    those of transformers, too.)
    """
    own = vars(model).pop("_original_forward", None)
    if own is None:
        return
    del model.forward
    if getattr(model.forward, "__func__", None) is not getattr(own, "__func__", own):
        model.forward = own  # it was no method of its class


def _check_finite(trainer: ObjectiveTrainer) -> None:
    """Refuse ruined weights: the losses that were logged say nothing of the last update, nor of steps between them.

    Raises:
        Diverged: a trained weight is infinite or not a number, in any process.
    """
    trained = (p for p in trainer.lm.model.parameters() if p.requires_grad)
    ruined = torch.tensor(float(not all_finite(trained)), device=trainer.args.device)
    if trainer.accelerator.reduce(ruined, "sum") > 0:
        raise Diverged(f"after step {trainer.state.global_step} its weights are not finite")


def fine_tune(
    lm: LanguageModel, records: Sequence[Encoded], args: RKLDConfig, callbacks: Sequence[TrainerCallback] = ()
) -> None:
    """Fine-tune on ``records``, in place: cross-entropy per token of an answer, and per scored one of another turn.

    (Also: strengthening, which must know what is to be unlearned wherever that stands.)
    """
    term = Term("answers", "records", marked, to_labels)
    fit(ObjectiveTrainer(lm, args, Objective({"records": records}, [term]), callbacks))
