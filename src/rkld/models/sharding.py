"""Loading a model in shards: the first process reads it, and hands each its part. Nobody else ever holds it whole."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from rkld import processes
from rkld.errors import UserError
from rkld.models.adapters import new_adapter
from rkld.models.language_model import LanguageModel
from rkld.models.loading import Dtype, default_device, for_training, load_model


def load_sharded(
    model: str,
    *,
    peft_config: PeftConfig | None = None,
    dtype: Dtype = "auto",
    processing_class: Any = None,
) -> PreTrainedModel | PeftModel:
    """Load a model that one GPU cannot hold, for :func:`rkld.build_teacher` and :class:`rkld.RKLDTrainer`.

    Every process that ``torchrun`` has started calls it, and gets the same model with its own part of all weights
    (FSDP2). The first one reads the whole model into the CPU's memory, and sends the others theirs; no other process
    ever holds it whole. In one process the model is loaded as it always is.

    Args:
        model: folder, hub name, alias, or the folder of a PEFT adapter, which is trained further.
        peft_config: put a new adapter into the model, to be trained in its place. Not to be given to
            :func:`rkld.build_teacher` and :class:`rkld.RKLDTrainer` again.
        dtype: of the weights; "auto" is float32.
        processing_class: the tokenizer; by default the one beside the model.

    Raises:
        UserError: what :func:`rkld.models.loading.load_model` refuses; quantised weights, which cannot be sharded.
    """

    def read(device: torch.device | None) -> LanguageModel:
        lm = load_model(model, tokenizer=processing_class, dtype=for_training(dtype), device=device)
        if peft_config is None:
            return lm
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return new_adapter(lm, config=peft_config)

    with processes.together():
        return in_shards(read).model


def in_shards(read: Callable[[torch.device | None], LanguageModel]) -> LanguageModel:
    """A language model of which each process has its own part, read by the first one alone.

    Args:
        read: loads it onto a device; of a single process, onto its own.

    Raises:
        UserError: as of ``read``; its weights are quantised.
    """
    if processes.launched() == 1:
        return read(None)
    found = processes.checked(lambda: _unquantised(read(torch.device("cpu"))) if processes.is_main() else None)

    def described() -> LanguageModel:
        assert found is not None
        return dataclasses.replace(found, model=without_weights(found.model))

    lm = processes.by_main(described)
    if found is None:  # transformers notes in its constructors what can be asked of a class
        with torch.device("meta"):
            type(lm.inner)(lm.inner.config)
    shard(lm.model, default_device())
    hand_out(lm.model, dict(found.model.named_parameters()) if found is not None else None)
    return lm


def without_weights(model: nn.Module) -> nn.Module:
    """A copy of all there is of a model but its parameters, which take no memory (they lie on the meta device)."""
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, empty)  # where the copies of parameters are there already


def shard(model: nn.Module, device: torch.device) -> None:
    """Split a model's parameters over all processes, in place: each block, the ends of an untied model, and the rest.

    What is split together is gathered together, in a forward of it. Parameters without memory get some on ``device``,
    with nothing in it yet (:func:`hand_out`).

    Raises:
        UserError: no blocks are found, so that all weights would be gathered at once.
    """
    mesh = init_device_mesh(device.type, (processes.launched(),))
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model  # transformers is not followed
    head, embeddings = inner.get_output_embeddings(), inner.get_input_embeddings()
    blocks = _blocks(inner)
    ends = [] if head.weight is embeddings.weight else [embeddings, head]
    for module in (*blocks, *ends, model):
        fully_shard(module, mesh=mesh)
    model._apply(lambda t: torch.empty_like(t, device=device) if t.is_meta else t.to(device))


def _blocks(model: PreTrainedModel) -> list[nn.Module]:
    """What must not be parted, as transformers knows it, else the longest list of modules; inner ones first."""
    modules = list(model.modules())
    named = [module for module in modules if type(module).__name__ in (model._no_split_modules or ())]
    lists = [list(module) for module in modules if isinstance(module, nn.ModuleList)]
    found: list[nn.Module] = list(reversed(named)) or max(lists, key=len, default=[])
    if not found:
        raise UserError(
            f"{type(model).__name__} has no blocks that could be gathered one by one, so each process would hold it "
            "whole: load it in one process."
        )
    return found


@torch.no_grad()
def hand_out(model: nn.Module, whole: Mapping[str, Tensor] | None) -> None:
    """Fill the shards of all processes with the first one's weights, one tensor in memory at a time.

    Args:
        whole: parameters by name, in the first process; the others have none.
    """
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor)
        mesh: DeviceMesh = parameter.device_mesh
        full = torch.empty(parameter.shape, dtype=parameter.dtype, device=mesh.device_type)  # of others never written
        if whole is not None:
            full.copy_(whole[name])
        parameter.copy_(distribute_tensor(full, mesh, parameter.placements))


def try_optimizer(model: nn.Module, make: Callable[[list[nn.Parameter]], Optimizer]) -> None:
    """Take a step of an optimizer on a tiny parameter that is split as the model's are; nothing of a whole model.

    Raises what the optimizer raises.
    """
    mesh = next((p.device_mesh for p in model.parameters() if isinstance(p, DTensor)), None)
    if mesh is not None:
        tiny = torch.ones(mesh.size(), 2, device=mesh.device_type)
        parameter = nn.Parameter(distribute_tensor(tiny, mesh, [Shard(0)], src_data_rank=None))
        parameter.grad = torch.ones_like(parameter)
        make([parameter]).step()


def _unquantised(lm: LanguageModel) -> LanguageModel:
    if lm.is_quantised:
        raise UserError(
            f"The weights of {lm.source} are quantised, and cannot be split over processes: give the model that they "
            "were made from, or load this one in one process."
        )
    return lm
