"""What an RKLD step is compared with: RKLD as written down, with three models, and plain fine-tuning.

All are trained by the same Trainer as ours, on the same records in the same order; only the loss differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import Trainer

from rkld.losses.micro_batches import plan_steps
from rkld.models.hidden_states import pad
from rkld.records.encoding import Encoded
from rkld.training.config import RKLDConfig

Batch = Mapping[str, Tensor]
"""Of one set of records: ``input_ids``, ``attention_mask`` and ``answer``, each (B, L), padded on the right."""


class BaselineTrainer(Trainer):
    """A Trainer whose loss is ``self.loss(model, batches)``, with batches {set: Batch} of one optimizer step."""

    def __init__(self, model: nn.Module, args: RKLDConfig, sets: Mapping[str, Sequence[Encoded]], loss):
        self.loss = loss
        sizes = {name: len(records) for name, records in sets.items()}
        steps = plan_steps(sizes, args.per_device_train_batch_size, int(args.num_train_epochs), args.seed)
        self.batches = [{name: batch([sets[name][i] for i in found]) for name, found in s.items()} for s in steps]
        # The list holds the steps of all epochs already.
        super().__init__(model=model, args=replace(args, num_train_epochs=1), train_dataset=self.batches)

    def get_train_dataloader(self) -> DataLoader:
        return DataLoader(self.batches, batch_size=1, collate_fn=lambda items: items[0])

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        with self.accelerator.autocast():
            return self.loss(model, inputs)


def batch(records: Sequence[Encoded]) -> Batch:
    ids = pad(records)
    attention = mask(records, ids)
    answer = torch.zeros_like(ids, dtype=torch.bool)
    for row, record in zip(answer, records):
        row[: len(record.ids)] = torch.tensor(record.answer)
    return {"input_ids": ids, "attention_mask": attention, "answer": answer}


def mask(records: Sequence[Encoded], ids: Tensor) -> Tensor:
    """Attention mask (B, L) int64 of padded records, as other libraries give it."""
    lengths = torch.tensor([len(record.ids) for record in records])
    return (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def together(batches: Mapping[str, Batch]) -> Batch:
    """All sets as one batch."""
    width = max(found["input_ids"].shape[1] for found in batches.values())
    names = next(iter(batches.values()))
    return {
        name: torch.cat([F.pad(found[name], (0, width - found[name].shape[1])) for found in batches.values()])
        for name in names
    }


def sft(model: nn.Module, batches: Mapping[str, Batch]) -> Tensor:
    """Fine-tuning as transformers does it: loss on every token, logits of every position."""
    all_records = together(batches)
    labels = all_records["input_ids"].masked_fill(all_records["attention_mask"] == 0, -100)
    return model(all_records["input_ids"], attention_mask=all_records["attention_mask"], labels=labels).loss


def answer_only_sft(model: nn.Module, batches: Mapping[str, Batch]) -> Tensor:
    """Fine-tuning on the answers, the head on answer rows only: as cheap as fine-tuning with autograd can be."""
    all_records = together(batches)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    attention = all_records["attention_mask"]
    hidden = inner.base_model(all_records["input_ids"], attention_mask=attention, use_cache=False).last_hidden_state
    answer = all_records["answer"][:, 1:]
    logits = inner.get_output_embeddings()(hidden[:, :-1][answer]).float()
    return F.cross_entropy(logits, all_records["input_ids"][:, 1:][answer])


class NaiveRKLD:
    """RKLD as its formulas read: logits of three models over whole sequences, log-softmaxes, autograd.

    Every symbol is a variable, so it lives until the loss is there. Replay, as in ours: forward KL to the original.
    """

    def __init__(self, original, strengthened, alpha: float, replay_weight: float):
        """
        Args:
            original, strengthened: (ids, attention) → logits (B, L, V).
        """
        self.original, self.strengthened = original, strengthened
        self.alpha, self.replay_weight = alpha, replay_weight

    def __call__(self, model: nn.Module, batches: Mapping[str, Batch]) -> Tensor:
        total = 0.0
        for name, found in batches.items():
            inputs = found["input_ids"], found["attention_mask"]
            mask = found["answer"][:, 1:]
            with torch.no_grad():
                l_o = self.original(*inputs)[:, :-1]
                if name == "forget":
                    l_aug = self.strengthened(*inputs)[:, :-1]
                    l_t = l_o - self.alpha * F.relu(l_aug - l_o)
                    log_pi_t = torch.log_softmax(l_t.float(), -1)
                else:
                    log_pi_o = torch.log_softmax(l_o.float(), -1)
            logits = model(inputs[0], attention_mask=inputs[1]).logits[:, :-1]
            log_pi = torch.log_softmax(logits.float(), -1)
            if name == "forget":
                kl = (log_pi.exp() * (log_pi - log_pi_t)).sum(-1)
                total = total + (kl * mask).sum() / mask.sum()
            else:
                kl = (log_pi_o.exp() * (log_pi_o - log_pi)).sum(-1)
                total = total + self.replay_weight * (kl * mask).sum() / mask.sum()
        return total
