"""What lies in a model's folder, looked at before anything of it is loaded: it may come from anybody.

Nothing here runs or follows what a folder names. Weights are looked at through their headers alone.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils import is_flash_attn_2_available

from rkld.errors import UserError, shown
from rkld.files import LFS
from rkld.text.printable import printable

Shapes = Mapping[str, tuple[int, ...]]
"""Of the tensors in a folder's files, by name."""

_TEXTS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "additional_chat_templates/*.jinja")

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")

LARGEST_TEXT = 2**28
"""Bytes of a config, template or vocabulary; the largest published ones have a tenth of it."""

_LAYERS = re.compile(r"n_layers?|num_(hidden_|decoder_)?layers")
_COUNTS = re.compile(r"(num|n)_.*(layers?|blocks?|experts?|heads?|groups?)")

MOST_PARTS = 2**16
"""Of heads, experts and the like in a config: transformers makes some of them one by one."""

_OUTSIDE = re.compile(r"(?!base_model_name_or_path$)(.*(_path|_file)|adapters|shadow_model|megatron_config)")
"""Entries of an adapter's config by which PEFT reads other files or imports modules."""


def check_files(where: str, folder: Path, *, fetched: bool) -> None:
    """Refuse files that cannot be read, that stand for others, or that lie elsewhere.

    Weights may be links to any place, as people save disk space so: of them only numbers are read. A text from
    elsewhere would end in prompts, and in what is written.

    Args:
        fetched: ``folder`` is the hub client's own snapshot, whose files are links into its cache.
    """
    for kinds, text in ((_TEXTS, True), (_WEIGHTS, False)):
        for path in sorted(path for kind in kinds for path in folder.glob(kind)):
            _check_file(where, path, text=text, anywhere=fetched or not text)


def _check_file(where: str, path: Path, *, text: bool, anywhere: bool) -> None:
    name = path.name
    if not path.exists():
        raise UserError(f"{where}/{name} is a link that leads nowhere. Fetch or make the model again.")
    if not path.is_file():  # a pipe would be waited for, a device never ends
        raise UserError(f"{where}/{name} is no regular file. Fetch or make the model again.")
    if not anywhere and not _stays(path):
        raise UserError(
            f"{where}/{name} is a link to a file outside the model's folder, which would be read into prompts and into "
            "what is written. If it belongs to the model, put a copy of the file in its place."
        )
    if text and path.stat().st_size > LARGEST_TEXT:
        raise UserError(
            f"{where}/{name} has {path.stat().st_size} bytes, more than {LARGEST_TEXT}, which no such file needs. "
            "Fetch or make the model again."
        )
    try:
        with open(path, "rb") as file:
            begin = file.read(len(LFS))
    except OSError as error:
        raise UserError(f"{where}/{name} cannot be read ({error.strerror}). Change its permissions.") from None
    if begin == LFS:
        raise UserError(
            f"{where}/{name} is a pointer of Git LFS in the place of the file itself: run 'git lfs pull' there, or "
            "fetch the model again."
        )


def _stays(path: Path) -> bool:
    """Whether what is read lies in the folder, or in the hub cache's place for the files of this folder."""
    folder, target = path.parent.resolve(), path.resolve()
    blobs = folder.parent.parent / "blobs"
    return target.is_relative_to(folder) or (folder.parent.name == "snapshots" and target.is_relative_to(blobs))


def read_config(where: str, folder: Path, name: str) -> dict[str, Any] | None:
    """A JSON file of the folder; None where it is not there. UserError where it is damaged."""
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{where}/{name} is not valid JSON: {error}. Fetch or make the model again.") from None
    if not isinstance(found, dict):
        raise UserError(f"{where}/{name} is no JSON object. Fetch or make the model again.")
    return found


def check_no_code(where: str, folder: Path) -> None:
    """Refuse configs that have Python code of the folder's, or of a hub, run."""
    for name in ("config.json", "tokenizer_config.json"):
        config = read_config(where, folder, name) or {}
        entries = list(_entries(config))
        kernel = next((kernel for key, value in entries if (kernel := _kernel(key, value))), None)
        if any(key == "auto_map" for key, _ in entries):
            code = f"Python code of its own ('auto_map' in {name})"
        elif kernel:
            code = f"code from a hub, '{printable(kernel)[:100]}' (in {name})"
        elif "configuration_files" in config:  # would stand in for the config that is checked here
            raise UserError(f"{where}/{name} names other configs ('configuration_files'): take that entry out.")
        else:
            continue
        raise UserError(
            f"The model {where} asks to run {code}. If you have read that code and trust it, allow it with "
            "--trust-remote-code (trust_remote_code=True)."
        )


def _kernel(key: str, value: object) -> str | None:
    """The hub's name ("owner/name") of a kernel that a config has the model computed with.

    It stands under "_attn_implementation", "experts_implementation" and the like. transformers fetches and runs it;
    so it does with one of its own choice where "flash_attention_2" is named and not installed.
    """
    if "_implementation" not in key:
        return None
    named = [text for text in (value.values() if isinstance(value, dict) else [value]) if isinstance(text, str)]
    flash = [] if is_flash_attn_2_available() else [text for text in named if "flash_attention" in text]
    return next(iter([text for text in named if "/" in text] + flash), None)


def check_counts(where: str, config: Mapping[str, Any], tensors: int | None) -> None:
    """Refuse numbers of parts that no such model has, before anything is made of them one by one.

    Args:
        config: of the model.
        tensors: how many the weights' files hold: a layer has at least one. None where nobody knows.
    """
    for key, value in _entries(config):
        if isinstance(value, bool) or not isinstance(value, int):
            continue
        if _LAYERS.fullmatch(key):
            low, high = 1, MOST_PARTS if tensors is None else tensors
        elif _COUNTS.fullmatch(key):
            low, high = 0, MOST_PARTS
        else:
            continue
        if not low <= value <= high:
            held = f": its files hold {tensors} tensors" if high == tensors else ""
            raise UserError(
                f"{where}/config.json has {key}: {shown(value)}, which is not from {low} to {high}{held}. "
                "Fetch or make the model again."
            )


def check_weight_count(where: str, parameters: int, shapes: Shapes, *, quantised: bool) -> None:
    """Refuse a config that describes far more weights than there are: room for all would be made before that shows."""
    held = sum(math.prod(shape) for shape in shapes.values())
    # A tied matrix may be held once; the smallest quantised weights have one bit, in words of up to eight bytes.
    if shapes and parameters > held * (64 if quantised else 2):
        raise UserError(
            f"{where}/config.json describes a model of {parameters} weights, but its files hold {held}. "
            "Fetch or make the model again."
        )


def check_adapter_config(where: str, config: Mapping[str, Any], shapes: Shapes) -> None:
    """Refuse an adapter's config that has PEFT read files elsewhere, import modules, or make room for giant matrices.

    Args:
        shapes: of the adapter's weights.
    """
    for key, value in _entries(config):
        if value and _OUTSIDE.fullmatch(key):
            raise UserError(
                f"The adapter {where} names something outside itself to be read or run: '{printable(key)}' in "
                "adapter_config.json. Adapters are read from their own folder alone: take that entry out, or merge the "
                "adapter into its base with PEFT, if you trust it."
            )
    for key in ("base_model_name_or_path", "peft_type"):
        if not isinstance(config.get(key), (str, type(None))):
            raise UserError(f"{where}/adapter_config.json has no text as '{key}'. Fetch or make the adapter again.")
    pattern = config.get("rank_pattern")
    ranks = {"r": config.get("r")} | (pattern if isinstance(pattern, dict) else {})
    largest = max((max(shape, default=1) for shape in shapes.values()), default=MOST_PARTS)
    for name, rank in ranks.items():
        if isinstance(rank, int) and rank > largest:
            raise UserError(
                f"{where}/adapter_config.json has a rank of {printable(name)}: {shown(rank)}, but no side of its "
                f"matrices is longer than {largest}. Fetch or make the adapter again."
            )


def check_weights(where: str, folder: Path, stem: str, allow_pickle: bool) -> Shapes:
    """The shapes of all tensors, read from the files' headers; none of pickles, which have no headers.

    Args:
        stem: "model" or "adapter_model", as the weights' files are called.

    Raises:
        UserError: there are no weights, only pickles, files outside the folder, or files that are damaged or empty.
    """
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if whole.exists():
        return _shapes(where, whole)
    if stem == "model" and index.exists():  # PEFT reads no index
        return {name: shape for shard in _shards(where, index) for name, shape in _shapes(where, shard).items()}
    pickles = sorted(file.name for end in ("bin", "pt", "pth") for file in folder.glob(f"*model*.{end}"))
    if not pickles:
        raise UserError(
            f"The model folder {where} holds no weights: there is no {stem}.safetensors in it. Fetch or make it again."
        )
    if not allow_pickle:
        raise UserError(
            f"The weights of {where} are pickles ({pickles[0]}), which can run code when read, and there "
            f"is no {stem}.safetensors. If you trust their source, allow them with --allow-pickle "
            "(allow_pickle=True)."
        )
    return {}


def _shards(where: str, index: Path) -> list[Path]:
    """The files that an index names. Refused is anything but safetensors beside it: another folder's, or pickles."""
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{index} is no index of weights. Fetch or make the model again.") from None
    for shard in named:
        if not isinstance(shard, str) or not re.fullmatch(r"[\w.-]+\.safetensors", shard):
            raise UserError(
                f"{index} names weights that are no safetensors beside it: {shown(shard)}. Do not use this model "
                "unless you trust its source; then save its weights as safetensors."
            )
    shards = [index.parent / shard for shard in sorted(named)]
    if missing := [shard.name for shard in shards if not shard.exists()]:
        raise UserError(
            f"{where} is not a whole model: {len(missing)} of {len(shards)} files of its weights are missing (the "
            f"first: {missing[0]}). Fetch it again."
        )
    return shards


def _shapes(where: str, path: Path) -> Shapes:
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"The model {where} cannot be loaded: {path.name} is cut short or damaged ({printable(str(error))}; "
            f"{os.path.getsize(path)} bytes). Fetch or make it again."
        ) from None
    if empty := sorted(name for name, shape in shapes.items() if 0 in shape):
        raise UserError(
            f"The weights of {where} are empty: {len(empty)} of {len(shapes)} tensors in {path.name} hold no number "
            f"(the first: {printable(empty[0])}). DeepSpeed's ZeRO-3 saves such files unless it gathers weights: "
            "make the model of its checkpoint again with zero_to_fp32.py."
        )
    return shapes


def _entries(config: object) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    waiting = [config]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield from found.items()
        waiting += found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
