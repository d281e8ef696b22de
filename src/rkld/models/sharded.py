"""Models whose weights lie in shards on several processes (FSDP2: ``torch.distributed.fsdp.fully_shard``).

A shard is a ``DTensor``. Modules are whole only within their own forward, whose hooks gather their weights and reduce
their gradients; so whatever reads weights is run as a forward (:func:`as_forward`). Every process must run equally many
of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from rkld import processes

T = TypeVar("T")


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP2 has the model. Its weights may be whole at the moment: the root's stay so for a while."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def reshard(model: nn.Module) -> None:
    """Let go of gathered weights, which are copies: what was written into them would be lost."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """A shard's whole tensor, gathered by all processes together; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, which every process has, on the device of ``other`` and sharded as that is."""
    tensor = tensor.to(other.device)
    if not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)  # nothing is sent


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The whole state of a sharded model, on the CPU of the first process; nothing in the others.

    All processes gather it together, one tensor at a time.
    """
    reshard(model)
    found: dict[str, Tensor] = {}
    gathered_once: dict[int, Tensor] = {}  # tied weights stay one tensor
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in gathered_once:
            full = whole(tensor.detach())
            gathered_once[id(tensor)] = full.cpu() if processes.writes() else torch.empty(0)
            del full
        if processes.writes():
            found[name] = gathered_once[id(tensor)]
    return found


def own_part(tensor: Tensor) -> Tensor:
    """What of a tensor lies in this process."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def as_forward(module: nn.Module, function: Callable[..., T], *inputs: Any, called: nn.Module | None = None) -> T:
    """``function(*inputs)`` as the forward of ``module``, within all of its hooks; it may call the module itself.

    Args:
        inputs: what the function is to be differentiated in must be among them.
        called: the wrapper (DDP) by which the module is called.
    """
    # accelerate's own hooks lie in a forward that they put in the place of the module's, which they call by this name.
    name = "_old_forward" if hasattr(module, "_hf_hook") else "forward"
    own = name in vars(module)  # not of the class: accelerate or a wrapper has put one there
    before = getattr(module, name)

    def restore() -> None:
        if own:
            setattr(module, name, before)
        else:
            vars(module).pop(name, None)

    def once(*given: Any) -> T:
        restore()
        return function(*given)

    setattr(module, name, once)
    try:
        found: T = (called or module)(*inputs)
        return found
    finally:
        restore()


def gathered(model: nn.Module, function: Callable[[], T]) -> T:
    """What ``function`` makes of backbone and head, where the model's weights are whole for it."""
    if not is_sharded(model):
        return function()
    found = as_forward(model, lambda *_: function())
    reshard(model)
    return found


def mark_as_prepared(model: nn.Module) -> None:
    """Keep accelerate from wrapping a model whose shards reduce their gradients themselves."""
    model._is_accelerate_prepared = True  # type: ignore[assignment]  # a plain attribute


@torch.no_grad()
def all_finite(parameters: Any) -> bool:
    """Whether all of these parameters that lies in this process is finite."""
    return all(bool(torch.isfinite(own_part(parameter)).all()) for parameter in parameters)
