"""Logit lens: what early layers already say of a fact, though the last one does not.

The hidden states behind each block are read with the final norm and the head, as if the model ended there
(nostalgebraist 2020, "interpreting GPT: the logit lens"). Patil et al. 2024 (arXiv 2309.17410) make an attack of it:
the fact is among the likeliest tokens of some layer. Method: ``p_l = softmax(head(norm(h_l)))`` at the positions that
predict a fact's tokens, those before it given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rkld.auditing.inputs import Task
from rkld.auditing.reading import Attack, Reader, no_facts
from rkld.auditing.registry import ATTACKS
from rkld.errors import UserError
from rkld.evaluation.likelihood import measuring
from rkld.evaluation.memorisation import fact_tokens
from rkld.evaluation.metric import Metric, RecordMetric, column
from rkld.evaluation.readings import Rows
from rkld.models.hidden_states import pad, predictors, states
from rkld.models.language_model import LanguageModel
from rkld.pipeline.preparing import encode_all
from rkld.records.encoding import Encoder
from rkld.records.record import Record

NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")
"""What models call the norm before their head."""


@ATTACKS.register("logit_lens")
class LogitLens(Attack):
    """Probability and rank of each record's fact tokens behind every block but the last, and in the end."""

    title = "facts read from early layers"
    risk = "attribute inference"
    settings = ("top",)
    needs = "facts, and a norm before the head"
    cost = "a reading of the likelihoods with the head at every layer"
    source = "Patil et al. 2024, arXiv 2309.17410"

    def missing(self, task: Task) -> str | None:
        return no_facts(task)

    def why_not_applicable(self, lm: LanguageModel) -> str | None:
        try:
            final_norm(lm)
        except UserError as error:
            return str(error)
        return None if blocks(lm) > 1 else "the model has a single layer: none is early"

    def encode(self, task: Task, encoder: Encoder) -> None:
        encode_all(encoder, task.asked)

    def read(self, reader: Reader) -> Rows:
        """``layers`` (L,), geometric mean probability of the fact's tokens, the last layer's at the end; ``early``, the
        highest before it; ``top``, the share of tokens that are among the --top likeliest of some early layer.
        """
        lm, encoder = reader.loaded()
        rows: Rows = {}
        with reader.progress.bar(f"{reader.role}: {self.name}", len(reader.task.asked)) as advance:
            for record in reader.task.asked:
                facts = reader.task.facts[record.key]
                found = lens(lm, encoder, record, facts) if facts else None
                if found is not None:
                    logs, ranks = found
                    layers = np.exp(logs.mean(axis=1))
                    rows[record.key] = {
                        "layers": layers.tolist(),
                        "early": float(layers[:-1].max()),
                        "top": float((ranks[:-1] < reader.task.settings.top).any(axis=0).mean()),
                    }
                advance(1)
        return rows

    def metrics(self) -> list[Metric]:
        return [
            RecordMetric(
                "logit_lens_probability",
                "probability of facts in the early layer that knows them best",
                self.name,
                column("early"),
                unit="probability",
                explanation="How likely the facts are where the model is read before its last layer: what only the "
                "last layers hide is still there.",
                source=self.source,
            ),
            RecordMetric(
                "logit_lens_top",
                "fact tokens among the likeliest of some early layer",
                self.name,
                column("top"),
                explanation="The share of the facts' tokens that are found by listing the likeliest of every layer.",
                source=self.source,
            ),
        ]


def lens(
    lm: LanguageModel, encoder: Encoder, record: Record, facts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Log-probabilities and ranks (L, T) of the T tokens of facts in the record's answer, by layer; None without any.

    Layers are the blocks but the last, read by norm and head, and then the model's own logits. Ranks count from 0.
    """
    encoded, kinds = encoder.encode(record), fact_tokens(encoder, record, facts)
    marked = np.flatnonzero(encoded.answer)[kinds == 1]
    marked = marked[marked > 0]
    if not len(marked):
        return None
    mask = [t in set(marked.tolist()) for t in range(len(encoded.ids))]
    ids, norm = pad([encoded]), final_norm(lm)
    rows = predictors([mask], ids.shape[1]).to(lm.device)
    targets = torch.tensor([encoded.ids[t] for t in marked], device=lm.device)
    with measuring(lm.model):
        found = states(lm.backbone, ids.to(lm.device), range(blocks(lm) - 1))
        early = [norm(found[layer].index_select(0, rows)) for layer in range(blocks(lm) - 1)]
        read = [_scores(lm.logits(h), targets) for h in (*early, found[None].index_select(0, rows))]
    logs, ranks = (torch.stack(some).cpu().numpy() for some in zip(*read, strict=True))
    return logs.astype(np.float64), ranks


def _scores(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability and rank of the targets (T,) under logits (T, V)."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    own = logits.gather(1, targets[:, None])
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0], (logits > own).sum(1)


def blocks(lm: LanguageModel) -> int:
    """How many blocks the model has."""
    return int(lm.inner.config.get_text_config().num_hidden_layers)


def final_norm(lm: LanguageModel) -> nn.Module:
    """The norm between the last block and the head.

    Raises:
        UserError: none is found by a name that is known.
    """
    for part in (lm.backbone, *lm.backbone.children()):
        for name in NORMS:
            if isinstance(found := getattr(part, name, None), nn.Module):
                return found
    raise UserError(f"no norm is known before the head of {type(lm.inner).__name__}: its layers cannot be read early")
