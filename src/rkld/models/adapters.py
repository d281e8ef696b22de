"""LoRA adapters on a language model."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from rkld.errors import UserError
from rkld.models.checks import check_adapter, first_line, switch_off_dropout, touches
from rkld.models.language_model import LanguageModel
from rkld.models.modes import evaluating

MAMBAS = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
"""Model types whose layers :data:`READ_BY_KERNELS` PEFT refuses to adapt."""

READ_BY_KERNELS = ("conv1d", "out_proj")


def new_adapter(lm: LanguageModel, *, rank: int = 16, config: LoraConfig | None = None) -> LanguageModel:
    """Put a LoRA adapter (Hu et al., arXiv 2106.09685) into ``lm``'s layers, in place, and freeze the rest.

    It starts as no change at all; its random half is drawn from torch's global generator. A model that is an
    adapter already is returned as it is: it is trained further. The head is never adapted: with tied
    embeddings that would change the inputs as well as the outputs, and the teacher could no longer
    use one head for all roles.

    Args:
        rank: of the two factors, in all linear layers that return a tensor; their product is multiplied by 32 / rank.
        config: any other adapter in its place, by default in the same layers; its dropout is switched off.
    """
    if lm.is_adapter:
        return lm
    if config is None:
        config = LoraConfig(r=rank, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    if config.target_modules is None and isinstance(config, LoraConfig):
        config = dataclasses.replace(config, target_modules="all-linear")  # PEFT has a list for known architectures
    if config.target_modules == "all-linear" and not config.exclude_modules:
        config = dataclasses.replace(config, exclude_modules=_not_adaptable(lm) or None)
    names = {module: name for name, module in lm.model.named_modules()}
    parts = {"head": lm.head, "embeddings": lm.model.get_input_embeddings()}
    for part, module in parts.items():
        if config.target_modules != "all-linear" and check_target_module_exists(config, names[module]):
            raise touches(part)
    try:
        adapted = LanguageModel(get_peft_model(lm.model, config), lm.tokenizer, lm.source)
    except ValueError as error:
        raise UserError(f"No adapter fits {lm.source}: {first_line(error)}. Train without one.") from None
    check_adapter(adapted)
    switch_off_dropout(adapted)
    return adapted


@torch.no_grad()
def _not_adaptable(lm: LanguageModel) -> list[str]:
    """Names of linear layers that cannot take an adapter.

    Some return something else than a tensor, to which an adapter could add nothing, as routers of mixtures of experts
    do (PhiMoE's returns logits and the experts chosen); Mamba's kernels read other layers' weights themselves, and PEFT
    refuses these.
    """
    read = READ_BY_KERNELS if lm.inner.config.model_type in MAMBAS else ()
    found = [name for name, _ in lm.model.named_modules() if name.rpartition(".")[2] in read]

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, output: None if isinstance(output, Tensor) else found.append(name)

    hooks = [m.register_forward_hook(look(n)) for n, m in lm.model.named_modules() if isinstance(m, nn.Linear)]
    try:
        with evaluating(lm.model):
            lm.backbone(input_ids=torch.zeros((1, 2), dtype=torch.int64, device=lm.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def reach(lm: LanguageModel) -> float:
    """Share of an adapted model's weights, embeddings and head left out, in layers that the adapter changes.

    Experts that are one tensor for all are no linear layers: on such a model the adapter is in its attention alone.
    """
    aside = {id(p) for module in (lm.head, lm.inner.get_input_embeddings()) for p in module.parameters()}
    own = {name: p for name, p in lm.inner.named_parameters() if id(p) not in aside and "lora_" not in name}
    changed = sum(p.numel() for name, p in own.items() if ".base_layer." in name)
    return changed / max(1, sum(p.numel() for p in own.values()))


def check_adapter_fits(lm: LanguageModel, *, rank: int) -> None:
    """Refuse a model that no adapter fits. ``lm`` ends as it began, and no random number of the caller's is drawn.

    The adapter is put into a copy of the modules that shares all parameters and buffers: no second model in memory.

    Raises:
        UserError: as of :func:`new_adapter`.
    """
    if lm.is_adapter:
        return
    widest = max((min(p.shape) for p in lm.model.parameters() if p.ndim == 2), default=rank)
    if rank > widest:
        raise UserError(
            f"--lora-rank is {rank}; no weight of {lm.source} has a higher rank than {widest}: give a lower one."
        )
    tensors = list(itertools.chain(lm.model.parameters(), lm.model.buffers()))
    trained = [parameter for parameter in lm.model.parameters() if parameter.requires_grad]
    shared = LanguageModel(copy.deepcopy(lm.model, {id(tensor): tensor for tensor in tensors}), lm.tokenizer, lm.source)
    try:
        with torch.random.fork_rng():
            new_adapter(shared, rank=rank)
    finally:  # PEFT has frozen the shared parameters
        for parameter in trained:
            parameter.requires_grad_(True)


def load_saved_adapter(lm: LanguageModel, folder: Path) -> None:
    """Put the adapter weights that were saved in ``folder`` in the place of ``lm``'s own."""
    (name,) = lm.model.peft_config
    set_peft_model_state_dict(lm.model, load_file(Path(folder) / "adapter_model.safetensors"), adapter_name=name)
