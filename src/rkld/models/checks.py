"""What a model must be for everything else to hold: tested when it is loaded.

Shapes: B sequences, L length, d hidden size, V rows of the head.
"""

from __future__ import annotations

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers.quantizers import HfQuantizer

from rkld.errors import NotFinite, UserError
from rkld.models.language_model import LanguageModel
from rkld.models.modes import evaluating
from rkld.models.sharded import gathered
from rkld.text.printable import printable

PROBED, SATURATED = 30.0, 1000.0
"""The largest output of a head with which its model is tried: where soft caps bend, and where they are flat."""

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Largest difference that passes for rounding, relative to the largest value compared."""


ROUNDED_STATES = 0.1
"""The same where states are rounded to 8 bits, too, as bitsandbytes' LLM.int8 does it: which of their columns are left
out of that depends on all that is read together, so one text's states change with another's (.038 was seen)."""


def first_line(error: BaseException) -> str:
    """What an error says, on one line and safe to print: libraries quote what they were given."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, KeyError):  # it says the key alone
        lines[0] = f"there is no {lines[0]}"
    return printable(" ".join(lines[: 2 if lines[0].endswith(":") else 1])).rstrip(".")


def switch_off_dropout(lm: LanguageModel) -> None:
    """Cached hidden states are only those of the student's start if nothing is random: set every rate to 0.

    Rates live in Dropout modules, in plain attributes (``F.dropout(x, p=self.dropout)``) and in the config,
    where some models look them up in every step. The saved config says 0 too: so the model was trained.
    """
    holders: list[object] = [lm.inner.config, lm.inner.config.get_text_config(), *lm.model.modules()]
    for holder in holders:
        for name, value in list(vars(holder).items()):
            rate = "drop" in name or (name == "p" and isinstance(holder, nn.modules.dropout._DropoutNd))
            if rate and isinstance(value, float):
                setattr(holder, name, 0.0)


def check_adapter(lm: LanguageModel) -> None:
    if not lm.is_adapter:
        return
    if len(lm.model.peft_config) != 1:
        names = ", ".join(lm.model.peft_config)
        raise UserError(f"The model {lm.source} carries several adapters ({names}): merge all but the one to train.")
    parts = {"head": lm.inner.get_output_embeddings(), "embeddings": lm.inner.get_input_embeddings()}
    for part, module in parts.items():
        wrapped = isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))
        trained = module is not None and any(p.requires_grad for p in module.parameters())  # bias="all"
        if wrapped or trained:
            raise touches(part)
    if not any(parameter.requires_grad for parameter in lm.model.parameters()):
        raise UserError(f"The adapter of {lm.source} is frozen: load it with is_trainable=True.")


def touches(part: str) -> UserError:
    return UserError(
        f"The adapter changes the model's {part}. The teacher is made from a fixed head, and many models "
        "share it with the embeddings: leave both out of 'target_modules', 'modules_to_save' and 'bias'."
    )


def check_weights_trainable(lm: LanguageModel, *, adapter: bool) -> None:
    """Refuse weights that cannot be trained.

    Args:
        adapter: an adapter is trained on them, or is going to be.

    Raises:
        UserError: quantised weights without an adapter; float16.
    """
    if lm.is_quantised and not adapter:
        raise UserError(
            f"The weights of {lm.source} are quantised, so they cannot be trained: train an adapter on them "
            "(--lora), or take the model they were made from."
        )
    if lm.head.weight.dtype == torch.float16:
        raise UserError(
            "float16 cannot hold the gradients of small weights, which come out as zeros: train in bfloat16 "
            "(bf16=True) or float32, and load the model in either."
        )


def check_mergeable(lm: LanguageModel) -> None:
    """Refuse quantised weights that nothing makes whole again: an adapter merged into them is rounded away."""
    quantizer, cannot = getattr(lm.inner, "hf_quantizer", None), HfQuantizer._dequantize
    if lm.is_quantised and getattr(type(quantizer), "_dequantize", cannot) is cannot:
        raise UserError(
            f"The weights of {lm.source} are quantised in a way that nothing here makes whole again, and an adapter "
            "merged into them would be rounded away: leave out --merge, or train on the model they were made from."
        )


@torch.no_grad()
def check_alike(lm: LanguageModel, other: LanguageModel) -> None:
    """Refuse ``other``, made of ``lm``, where both do not answer alike: libraries keep few bits in changing layouts."""
    ids = torch.randint(lm.vocab_rows, (1, 16), generator=torch.Generator().manual_seed(0)).to(lm.device)
    found = []
    for each in (other, lm):
        with evaluating(each.model):
            found.append(each.model(input_ids=ids, use_cache=False).logits)
    difference = _relative_difference(*found)
    if not difference <= ROUNDED_STATES:
        raise UserError(
            f"The weights of {lm.source}, made whole and with the adapter merged in, do not answer as both do together "
            f"(relative difference: {difference:.2g}, allowed: {ROUNDED_STATES:g}): leave out --merge, or merge on "
            "another device."
        )


def check_shapes(lm: LanguageModel) -> None:
    """Refuse a model without a linear head, with fewer embeddings than the tokenizer has ids, or without its weights.

    Raises:
        UserError: so.
    """
    if any(hasattr(parameter, "ds_id") for parameter in lm.model.parameters()):
        raise UserError(
            f"The weights of {lm.source} lie in parts on several processes (DeepSpeed's ZeRO-3), and nothing here "
            "gathers those: load it without, and train under ZeRO-2, DDP, or FSDP2 (fully_shard)."
        )
    head = lm.inner.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise UserError(
            f"The model {lm.source} has no linear output layer, which the teacher needs (found: "
            f"{type(head).__name__}). Choose a model that has one."
        )
    if head.weight.device.type == "meta":
        raise UserError(
            f"The head of {lm.source} is offloaded, and the loss needs it at hand: load the model with a device_map "
            "that has the output layer on a GPU or on the CPU."
        )
    largest = max(lm.tokenizer.get_vocab().values())
    rows = min(lm.inner.get_input_embeddings().weight.shape[0], lm.vocab_rows)
    if largest >= rows:
        raise UserError(
            f"The tokenizer does not fit the model {lm.source}: its largest id is {largest}, but the model "
            f"has only {rows} embedding rows (ids 0 to {rows - 1}). Use the model's own tokenizer."
        )


@torch.no_grad()
def check_outputs(lm: LanguageModel) -> None:
    """Refuse a model whose logits are not ``transform(head(backbone(ids)))``, or not causal, or random in training.

    A hook multiplies the head's output so that the largest is 30, and 1000: whatever the model does to its logits
    afterwards (soft caps too, which leave small ones alone and make large ones alike) then shows.
    """
    length = 16 if lm.context_length is None else min(16, lm.context_length)
    if length < 2:
        raise UserError(
            f"The model {lm.source} reads {lm.context_length} tokens at once, by its config: fetch or make it again."
        )
    ids = torch.randint(lm.vocab_rows, (1, length), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % lm.vocab_rows
    batch = torch.cat([ids, other]).to(lm.device)  # (2, L): equal but for the last token

    factor = 1.0
    hook = lm.head.register_forward_hook(lambda module, args, output: output * factor)
    try:
        with evaluating(lm.model):
            hidden, own = gathered(lm.model, lambda: _outputs(lm, batch))  # (2, L, d), (2, L, V)
            largest, transform = max(own.abs().max().item(), 1e-6), lm.logit_transform
            logits = []
            for factor in (PROBED / largest, SATURATED / largest):
                theirs = lm.model(input_ids=batch, use_cache=False).logits  # (2, L, V)
                logits.append((theirs, transform(own * factor)))
            lm.model.train()
            in_training, _ = gathered(lm.model, lambda: _outputs(lm, batch))
    except Exception as error:  # foreign settings lead models to raise anything
        raise UserError(
            f"The model {lm.source} does not run on token ids alone: {first_line(error)}. Choose one that reads text."
        ) from None
    finally:
        hook.remove()

    if not torch.isfinite(own).all():
        raise NotFinite(
            f"The model {lm.source} computes infinite or undefined logits: its weights are damaged. "
            "Fetch or make it again."
        )
    comparisons = (
        *(
            ("its logits are not its head's output, scaled and capped as its config says", theirs, ours)
            for theirs, ours in logits
        ),
        ("a token changes the hidden states before it, so it is not causal", hidden[0, :-1], hidden[1, :-1]),
        ("its hidden states differ between training and evaluation", in_training, hidden),
    )
    allowed = _tolerance(lm, hidden.dtype)
    for reason, found, expected in comparisons:
        difference = _relative_difference(found, expected)
        if not difference <= allowed:
            raise UserError(
                f"The model {lm.source} cannot be used: {reason}. Measured relative difference: "
                f"{difference:.2g}, allowed: {allowed:.0e}. Choose another model."
            )


def _outputs(lm: LanguageModel, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states (B, L, d) and the head's output (B, L, V)."""
    hidden = lm.backbone(input_ids=ids, use_cache=False).last_hidden_state
    return hidden, lm.head(hidden.to(lm.device, lm.dtype))


def _tolerance(lm: LanguageModel, dtype: torch.dtype) -> float:
    """Kernels for weights of few bits compute in half precision, whatever dtype they return."""
    if not lm.is_quantised:
        return TOLERANCE[dtype]
    config = getattr(lm.inner.config, "quantization_config", None)
    return ROUNDED_STATES if getattr(config, "load_in_8bit", False) else TOLERANCE[torch.bfloat16]


def _relative_difference(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double(), expected.double()
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()
