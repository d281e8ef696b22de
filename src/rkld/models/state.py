"""Trained weights set aside and restored, and the fingerprint of a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from rkld import processes
from rkld.errors import UserError
from rkld.files import new_file
from rkld.models.language_model import LanguageModel
from rkld.models.sharded import like, reshard, whole


def trainable_state(lm: LanguageModel) -> dict[str, Tensor]:
    """The parameters that training changes, by name: all (tied ones once), or the adapter's. Not copies."""
    reshard(lm.model)
    return {name: p for name, p in lm.model.named_parameters() if p.requires_grad}


def own_weights(lm: LanguageModel) -> dict[str, Tensor]:
    """The parameters of the model itself by the names that they have without a LoRA adapter, whose are left out."""
    reshard(lm.model)
    named = lm.inner.named_parameters()
    return {name.replace(".base_layer.", "."): p for name, p in named if ".lora_" not in name}


def take_weights(lm: LanguageModel, other: LanguageModel) -> None:
    """Copy the :func:`own_weights` of another model into those of ``lm``, rounded to their dtype.

    Raises:
        UserError: the models differ in their parameters; nothing has been changed then.
    """
    theirs = own_weights(other)
    _change(own_weights(lm), _shapes(theirs), other.source, lambda name, _: theirs[name])


def check_same_weights(lm: LanguageModel, other: LanguageModel) -> None:
    """Refuse another model whose :func:`own_weights` are not as those of ``lm``, in name and shape.

    Raises:
        UserError: so.
    """
    mine, its = own_weights(lm), _shapes(own_weights(other))
    _check_shapes(mine, its, other.source, f"Give the one that belongs to {lm.source}, or leave it out.")


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Sequence[int]]:
    return {name: tensor.shape for name, tensor in state.items()}


def save_state(lm: LanguageModel, path: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Write :func:`trainable_state`, or another ``state``, to one safetensors file, whole or not at all.

    Of several processes one writes it, and the others wait; it alone holds what was sharded as a whole.
    """
    found = {}
    for name, parameter in (state or trainable_state(lm)).items():
        tensor = whole(parameter.detach())
        if processes.writes():  # what was gathered must not pile up where there is no room for all of it
            found[name] = (tensor.cpu() if isinstance(parameter, DTensor) else tensor).contiguous()
        del tensor

    def write() -> None:
        with new_file(path) as new:
            save_file(found, new)

    processes.by_main(write)


def restore_state(lm: LanguageModel, path: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Copy what :func:`save_state` wrote back into the same parameters, one tensor in memory at a time.

    Raises:
        UserError: the file belongs to another model; nothing has been changed then.
    """
    change_state(lm, path, lambda saved, _: saved, state)


def change_state(
    lm: LanguageModel,
    path: Path,
    change: Callable[[Tensor, Tensor], Tensor],
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Make every trained parameter ``change(saved, now)`` of what :func:`save_state` wrote and what it is.

    Args:
        state: what was written, where that was not the :func:`trainable_state`.

    Raises:
        UserError: as of :func:`restore_state`.
    """
    with safe_open(path, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        _change(
            state or trainable_state(lm),
            shapes,
            str(path),
            lambda name, now: change(like(file.get_tensor(name), now), now),
        )


@torch.no_grad()
def _change(
    state: Mapping[str, Tensor],
    shapes: Mapping[str, Sequence[int]],
    source: str,
    change: Callable[[str, Tensor], Tensor],
) -> None:
    """Make every parameter ``change(name, now)``. UserError where ``shapes``, those of the source, are others."""
    _check_shapes(state, shapes, source)
    for name, parameter in state.items():
        parameter.copy_(change(name, parameter))


def _check_shapes(
    state: Mapping[str, Tensor],
    shapes: Mapping[str, Sequence[int]],
    source: str,
    instead: str = "Give the model that it was saved from, or delete it.",
) -> None:
    found = {name: tuple(shape) for name, shape in shapes.items()}
    expected = {name: tuple(p.shape) for name, p in state.items()}
    if found != expected:
        differing = sorted(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n))
        raise UserError(
            f"{source} holds the weights of another model: {len(differing)} tensors differ in name or "
            f"shape (the first: {differing[0]}). {instead}"
        )


# Settings that may differ where the model computes the same: where it lies, what trainers align or toggle.
_INCIDENTAL = {
    "_name_or_path",
    "architectures",
    "dtype",
    "output_hidden_states",
    "transformers_version",
    "use_cache",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
}


def fingerprint(lm: LanguageModel) -> str:
    """Hash (BLAKE2b, 32 hex digits) of all that decides the model's outputs.

    Every parameter and persistent buffer with its name, shape, dtype and bytes, and the config that gives
    them their meaning, with the attention implementation and an adapter's settings. The same on every load.
    """
    configs = [lm.inner.config.to_dict(), {"attention": lm.inner.config._attn_implementation}]
    if lm.is_adapter:
        configs += [config.to_dict() for config in lm.model.peft_config.values()]
    essentials = [
        {k: v for k, v in config.items() if k not in _INCIDENTAL and not k.endswith("_token_id")} for config in configs
    ]
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(essentials, sort_keys=True, default=_plain).encode())
    reshard(lm.model)
    names: dict[tuple, str] = {}  # tied weights are read once
    for name, tensor in sorted(lm.model.state_dict(keep_vars=True).items()):
        # A process's part may be empty, and then lies where every empty one does.
        where = id(tensor) if isinstance(tensor, DTensor) else tensor.data_ptr()
        first = names.setdefault((where, tensor.shape, tensor.dtype), name)
        digest.update(f"\n{name} = {first} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        if first == name:  # as bytes: NumPy has no bfloat16
            digest.update(whole(tensor.detach()).cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
