"""Load, check, adapt, save and fingerprint causal language models.

Everything else relies on ``logits = head(backbone(ids).last_hidden_state)``. That is tested when a model is loaded, so
no list of architectures is needed: a logit scale or a soft-cap shows as a difference.

Shapes: B sequences, L length, d hidden size, V rows of the head.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import IncompleteSnapshotError
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from peft.utils import get_peft_model_state_dict
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .errors import UserError, nearest
from .files import TEMPLATES, write_json
from .language_model import LanguageModel as LanguageModel
from .methods import get_method
from .pair import pair

ALIASES = ("smollm2-135m",)
"""Names that stand for a model in the user's cache (:mod:`rkld.smollm2`)."""

DTYPES = {
    # bfloat16 weights round away the small steps of AdamW, so "auto" trains float32 whatever the checkpoint
    # holds. float16 is left out: without float32 master weights its gradients underflow.
    "auto": torch.float32,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Largest difference that passes for rounding, relative to the largest value compared."""

PAIR = "pair.json"
"""Says that a folder holds two models that speak as one: the method that makes one of them, its hyper-parameters, and α.
Beside it lie ``original`` and ``assistant``, each ready for ``from_pretrained``."""

LOAD_ERRORS = (
    OSError, ValueError, TypeError, RuntimeError, LookupError, AttributeError, ImportError, SafetensorError,
)  # fmt: skip
"""What transformers, PEFT and safetensors raise on models they cannot read or run."""


# ------------------------------------------------------------------------------------------------------- load


def load_model(
    source: str | os.PathLike | PreTrainedModel | PeftModel,
    *,
    dtype: str | torch.dtype = "auto",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    chat_template: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str | torch.device | None = None,
) -> LanguageModel:
    """Load a causal language model, switch its dropout off, and check that it is what the method needs.

    Args:
        source: model folder, hub name, alias ``smollm2-135m``, PEFT adapter folder (its base is loaded and
            the adapter is trained further in place), or a model object, which is used itself, not copied, and
            keeps its dtype.
        dtype: of the weights: "auto" (float32), "float32", "bfloat16" or "float64".
        trust_remote_code: run Python code that comes with the model.
        allow_pickle: read ``.bin`` weights where there are no safetensors.
        chat_template: Jinja text or a file of it; replaces the tokenizer's own.
        tokenizer: by default the one beside the model.
        device: by default this process's GPU, or the CPU without one; a model object stays where it is.

    Raises:
        UserError: what cannot be read, trusted, or trained.
    """
    if isinstance(source, (str, os.PathLike)) and (Path(source) / PAIR).exists():
        return _load_pair(
            Path(source), dtype=dtype, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle,
            chat_template=chat_template, tokenizer=tokenizer, device=device,
        )  # fmt: skip
    if isinstance(source, (PreTrainedModel, PeftModel)):
        lm = _adopt(source, tokenizer, dtype)
    elif isinstance(source, (str, os.PathLike)):
        lm = _load(os.fspath(source), _dtype(dtype), trust_remote_code, allow_pickle, tokenizer)
        device = device or _default_device()
    else:
        raise UserError(
            f"A model is a folder, a hub name or a transformers model, not a {type(source).__name__}."
        )
    if chat_template is not None:
        lm.tokenizer.chat_template = read_template(chat_template)
    if device is not None:
        lm.model.to(device)
    _switch_off_dropout(lm)
    _check_adapter(lm)
    _check_shapes(lm)
    _check_outputs(lm)
    return lm


def _load_pair(folder: Path, **options: Any) -> LanguageModel:
    """What :func:`save_pair` wrote.

    Args:
        options: as of :func:`load_model`, for each of the two models.

    Raises:
        UserError: a broken folder, or a method that is gone.
    """
    try:
        facts = json.loads((folder / PAIR).read_text(encoding="utf-8"))
        name, arguments, alpha = facts["method"], facts["method_arg"], float(facts["alpha"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{folder / PAIR} is broken: make the model again.") from None
    method = get_method(name, arguments)
    return pair(*(load_model(folder / part, **options) for part in ("original", "assistant")), method, alpha)


def resolve(name: str | os.PathLike) -> str:
    """The absolute folder that ``name`` (a folder or an alias) stands for; any other name is a hub name.

    Fetches an alias on its first use. Raises UserError for a path that is not there.
    """
    name = os.fspath(name)
    if not name:
        raise UserError("No model was given: give a folder, a hub name or the alias smollm2-135m.")
    if name in ALIASES:
        from . import smollm2  # not at the top: it builds on this module's libraries, and few runs need it

        return str(smollm2.folder())
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path.resolve())
    if path.exists():
        raise UserError(
            f"The model '{name}' is a file; give the folder that holds config.json and the weights."
        )
    if path.is_absolute() or name.startswith((".", "~")) or name.endswith("/") or name.count("/") > 1:
        raise UserError(f"There is no model folder '{name}'.")
    return name


def _load(
    name: str,
    dtype: torch.dtype,
    trust_remote_code: bool,
    allow_pickle: bool,
    tokenizer: PreTrainedTokenizerBase | None,
) -> LanguageModel:
    where = resolve(name)
    folder = _fetched(where, trust_remote_code, allow_pickle)
    if not (folder / "adapter_config.json").exists():
        model = _load_plain(where, folder, dtype, trust_remote_code, allow_pickle)
        return LanguageModel(model, tokenizer or load_tokenizer(folder, trust_remote_code), where)

    _check_weights(where, folder, "adapter_model", allow_pickle)
    try:
        config = PeftConfig.from_pretrained(folder)
    except LOAD_ERRORS as error:
        raise UserError(f"{where}/adapter_config.json cannot be read: {_first_line(error)}") from None
    base_name = config.base_model_name_or_path
    if not base_name:
        raise UserError(
            f"{where}/adapter_config.json does not name its base model ('base_model_name_or_path')."
        )
    beside = folder / base_name  # a path written relative to the adapter
    base_where = resolve(beside if beside.is_dir() else base_name)
    base_folder = _fetched(base_where, trust_remote_code, allow_pickle)
    if (base_folder / "adapter_config.json").exists():
        raise UserError(f"The adapter {where} sits on another adapter, {base_where}: merge that one first.")
    base = _load_plain(base_where, base_folder, dtype, trust_remote_code, allow_pickle)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            model = PeftModel.from_pretrained(base, folder, is_trainable=True)
    except (*LOAD_ERRORS, UserWarning) as error:
        raise UserError(
            f"The adapter {where} cannot be put on its base model {base_where}: {_first_line(error)}"
        ) from None
    if tokenizer is None:
        own = (folder / "tokenizer_config.json").exists()
        tokenizer = load_tokenizer(folder if own else base_folder, trust_remote_code)
    return LanguageModel(model, tokenizer, where)


def _load_plain(
    where: str, folder: Path, dtype: torch.dtype, trust_remote_code: bool, allow_pickle: bool
) -> PreTrainedModel:
    if not (folder / "config.json").exists():
        raise UserError(f"{where} is not a model folder: it holds no config.json.")
    if not trust_remote_code:
        _check_no_code(where, folder)
    _check_weights(where, folder, "model", allow_pickle)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not getattr(
            config, "is_encoder_decoder", False
        )
        if not known and "AutoModelForCausalLM" not in getattr(config, "auto_map", ()):
            raise UserError(f"{where} is not a causal language model: its type is '{config.model_type}'.")
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=None if allow_pickle else True,
            output_loading_info=True,
        )
    except LOAD_ERRORS as error:
        raise UserError(f"The model {where} cannot be loaded: {_first_line(error)}") from None
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{where} is not a whole causal language model: {len(missing)} of its weights are missing "
            f"(the first: {missing[0]})."
        )
    # A snapshot folder in the hub's cache means nothing on another machine: adapters must name the source.
    model.name_or_path = model.config.name_or_path = where
    return model


def _adopt(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase | None, dtype: str | torch.dtype
) -> LanguageModel:
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    where = _reference(inner.name_or_path) or type(inner).__name__
    if tokenizer is None:
        if not Path(where).is_dir():
            raise UserError("A model object needs its tokenizer: pass tokenizer=….")
        tokenizer = load_tokenizer(Path(where), trust_remote_code=False)
    if dtype != "auto":
        model.to(_dtype(dtype))
    return LanguageModel(model, tokenizer, where)


def _fetched(where: str, trust_remote_code: bool, allow_pickle: bool) -> Path:
    """The folder with the model's files: itself, or the hub's snapshot of it."""
    if Path(where).is_dir():
        return Path(where)
    files = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
    weights = ["model.safetensors", "model-*-of-*.safetensors", "adapter_model.safetensors"]
    pickles = ["pytorch_model.bin", "pytorch_model-*-of-*.bin", "adapter_model.bin"]
    code = ["*.py"] if trust_remote_code else []
    nested = ["*/*"]  # copies in other formats
    try:
        folder = Path(
            snapshot_download(where, allow_patterns=[*files, *weights, *code], ignore_patterns=nested)
        )
        if allow_pickle and not any(folder.glob("*.safetensors")):
            snapshot_download(where, allow_patterns=pickles, ignore_patterns=nested)
    except IncompleteSnapshotError as error:  # offline; what other tools left in the cache may well be enough
        folder = Path(error.snapshot_path)
    except Exception as error:  # the hub's client raises its HTTP library's errors besides its own
        raise UserError(
            f"There is no model folder '{where}', and it could not be had from the Hugging Face hub: "
            f"{_first_line(error)}.{nearest(where, ALIASES)}"
        ) from None
    return folder


def _check_no_code(where: str, folder: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        try:
            config = json.loads((folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise UserError(f"{where}/{name} is not valid JSON: {_first_line(error)}") from None
        if "auto_map" in config:
            raise UserError(
                f"The model {where} asks to run Python code of its own ('auto_map' in {name}). If you have "
                "read that code and trust it, allow it with --trust-remote-code (trust_remote_code=True)."
            )


def _check_weights(where: str, folder: Path, stem: str, allow_pickle: bool) -> None:
    """``stem`` is "model" or "adapter_model", as the weights' files are called."""
    if any((folder / f"{stem}.safetensors{end}").exists() for end in ("", ".index.json")):
        return
    pickles = sorted(file.name for end in ("bin", "pt", "pth") for file in folder.glob(f"*model*.{end}"))
    if not pickles:
        raise UserError(f"The model folder {where} holds no weights: there is no {stem}.safetensors in it.")
    if not allow_pickle:
        raise UserError(
            f"The weights of {where} are pickles ({pickles[0]}), which can run code when read, and there "
            f"is no {stem}.safetensors. If you trust their source, allow them with --allow-pickle "
            "(allow_pickle=True)."
        )


def load_tokenizer(folder: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder. UserError where there is none, or it cannot be loaded."""
    if not any(any(folder.glob(name)) for name in ("tokenizer*", "vocab*", "*.model", "*.tiktoken")):
        raise UserError(f"The model folder {folder} holds no tokenizer.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except LOAD_ERRORS as error:
        raise UserError(f"The tokenizer in {folder} cannot be loaded: {_first_line(error)}") from None
    # transformers makes an empty one where files are missing
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UserError(f"The tokenizer in {folder} has no vocabulary.")
    return tokenizer


def read_template(text_or_file: str) -> str:
    """A Jinja template has braces; the name of a file, or of one of :data:`rkld.files.TEMPLATES`, has none."""
    if "{" in text_or_file:
        return text_or_file
    preset = TEMPLATES / f"{text_or_file}.jinja"
    path = preset if os.sep not in text_or_file and preset.is_file() else Path(text_or_file).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        names = sorted(file.stem for file in TEMPLATES.glob("*.jinja"))
        raise UserError(
            f"The chat template '{text_or_file}' cannot be read: {_first_line(error)}. It is a file or one of "
            f"{', '.join(names)}.{nearest(text_or_file, names)}"
        ) from None


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if dtype in DTYPES.values():
        return dtype
    if dtype not in DTYPES:
        raise UserError(
            f"Unknown dtype '{dtype}': use one of {', '.join(DTYPES)}.{nearest(str(dtype), DTYPES)}"
        )
    return DTYPES[dtype]


def _default_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def _reference(name: str) -> str:
    """A name that means the same from any working directory."""
    return str(Path(name).resolve()) if name and Path(name).is_dir() else name


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


# ------------------------------------------------------------------------------------------------------ check


def _switch_off_dropout(lm: LanguageModel) -> None:
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


def _check_adapter(lm: LanguageModel) -> None:
    if not lm.is_adapter:
        return
    if len(lm.model.peft_config) != 1:
        names = ", ".join(lm.model.peft_config)
        raise UserError(
            f"The model {lm.source} carries several adapters ({names}): merge all but the one to train."
        )
    parts = {"head": lm.inner.get_output_embeddings(), "embeddings": lm.inner.get_input_embeddings()}
    for part, module in parts.items():
        wrapped = isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))
        trained = module is not None and any(p.requires_grad for p in module.parameters())  # bias="all"
        if wrapped or trained:
            raise _touches(part)
    if not any(parameter.requires_grad for parameter in lm.model.parameters()):
        raise UserError(f"The adapter of {lm.source} is frozen: load it with is_trainable=True.")


def _touches(part: str) -> UserError:
    return UserError(
        f"The adapter changes the model's {part}. The teacher is made from a fixed head, and many models "
        "share it with the embeddings: leave both out of 'target_modules', 'modules_to_save' and 'bias'."
    )


def _check_shapes(lm: LanguageModel) -> None:
    head = lm.inner.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise UserError(
            f"The model {lm.source} has no linear output layer, which the teacher needs (found: "
            f"{type(head).__name__})."
        )
    largest = max(lm.tokenizer.get_vocab().values())
    rows = min(lm.inner.get_input_embeddings().weight.shape[0], lm.vocab_rows)
    if largest >= rows:
        raise UserError(
            f"The tokenizer does not fit the model {lm.source}: its largest id is {largest}, but the model "
            f"has only {rows} embedding rows (ids 0 to {rows - 1}). Use the model's own tokenizer."
        )


@torch.no_grad()
def _check_outputs(lm: LanguageModel) -> None:
    """Refuse a model whose logits are not ``head(backbone(ids))``, are not causal, or are random in training.

    A hook multiplies the head's output so that the largest logit is 1000: whatever the model does to its
    logits afterwards (soft-caps too, which leave small ones alone) then shows.
    """
    length = min(16, lm.context_length or 16)
    ids = torch.randint(lm.vocab_rows, (1, length), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % lm.vocab_rows
    batch = torch.cat([ids, other]).to(lm.device)  # (2, L): equal but for the last token

    was_training = lm.model.training
    factor = 1.0
    hook = lm.head.register_forward_hook(lambda module, args, output: output * factor)
    try:
        lm.model.eval()
        hidden = lm.backbone(input_ids=batch, use_cache=False).last_hidden_state  # (2, L, d)
        own = lm.head(hidden.to(lm.head.weight.dtype))  # (2, L, V)
        factor = 1000.0 / max(own.abs().max().item(), 1e-6)
        theirs = lm.model(input_ids=batch, use_cache=False).logits  # (2, L, V)
        lm.model.train()
        in_training = lm.backbone(input_ids=batch, use_cache=False).last_hidden_state  # (2, L, d)
    except LOAD_ERRORS as error:
        raise UserError(
            f"The model {lm.source} does not run on token ids alone: {_first_line(error)}"
        ) from None
    finally:
        hook.remove()
        lm.model.train(was_training)

    if not torch.isfinite(own).all():
        raise UserError(
            f"The model {lm.source} computes infinite or undefined logits: its weights are damaged."
        )
    comparisons = (
        ("its logits are not head(backbone(ids)): it scales, caps or adds to them", theirs, own * factor),
        ("a token changes the hidden states before it, so it is not causal", hidden[0, :-1], hidden[1, :-1]),
        ("its hidden states differ between training and evaluation", in_training, hidden),
    )
    # Kernels for weights of few bits compute in half precision, whatever dtype they return.
    allowed = TOLERANCE[torch.bfloat16 if lm.is_quantised else hidden.dtype]
    for reason, found, expected in comparisons:
        difference = _relative_difference(found, expected)
        if not difference <= allowed:
            raise UserError(
                f"The model {lm.source} cannot be used: {reason}. Measured relative difference: "
                f"{difference:.2g}, allowed: {allowed:.0e}."
            )


def _relative_difference(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double(), expected.double()
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()


# ---------------------------------------------------------------------------------------------------- adapter


def new_adapter(
    lm: LanguageModel,
    *,
    rank: int = 16,
    alpha: float = 32,
    target_modules: str | Sequence[str] = "all-linear",
    config: LoraConfig | None = None,
) -> LanguageModel:
    """Put a LoRA adapter (Hu et al., arXiv 2106.09685) into ``lm``'s layers, in place, and freeze the rest.

    It starts as no change at all; its random half is drawn from torch's global generator. A model that is an
    adapter already is returned as it is: it is trained further. The head is never adapted: with tied
    embeddings that would change what the model reads as well as what it says, and the teacher could no longer
    use one head for all roles.

    Args:
        rank: of the two factors.
        alpha: the adapter's output is multiplied by alpha / rank.
        target_modules: "all-linear" (the head excepted), names, or a regular expression, as in PEFT.
        config: any other adapter, in place of the three; its dropout is switched off.
    """
    if lm.is_adapter:
        return lm
    if config is None:
        targets = target_modules if isinstance(target_modules, str) else list(target_modules)
        config = LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM"
        )
    targets = config.target_modules
    names = {module: name for name, module in lm.model.named_modules()}
    parts = {"head": lm.head, "embeddings": lm.model.get_input_embeddings()}
    for part, module in parts.items():
        if targets != "all-linear" and check_target_module_exists(config, names[module]):
            raise _touches(part)
    try:
        adapted = LanguageModel(get_peft_model(lm.model, config), lm.tokenizer, lm.source)
    except ValueError as error:
        raise UserError(f"No adapter fits {lm.source}: {_first_line(error)}") from None
    _check_adapter(adapted)
    _switch_off_dropout(adapted)
    return adapted


# ------------------------------------------------------------------------------------------------------ state


def trainable_state(lm: LanguageModel) -> dict[str, Tensor]:
    """The parameters that training changes, by name: all (tied ones once), or the adapter's. Not copies."""
    return {name: p for name, p in lm.model.named_parameters() if p.requires_grad}


def save_state(lm: LanguageModel, path: Path) -> None:
    """Write :func:`trainable_state` to one safetensors file, whole or not at all."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file({name: p.detach().contiguous() for name, p in trainable_state(lm).items()}, beside)
        _flush(beside)
        beside.replace(path)
        _flush(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def restore_state(lm: LanguageModel, path: Path) -> None:
    """Copy what :func:`save_state` wrote back into the same parameters, one tensor in memory at a time.

    Raises:
        UserError: the file belongs to another model; nothing has been changed then.
    """
    change_state(lm, path, lambda saved, _: saved)


@torch.no_grad()
def change_state(lm: LanguageModel, path: Path, change: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Make every trained parameter ``change(saved, now)`` of what :func:`save_state` wrote and what it is.

    Raises:
        UserError: as of :func:`restore_state`.
    """
    state = trainable_state(lm)
    with safe_open(path, framework="pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        expected = {name: tuple(p.shape) for name, p in state.items()}
        if found != expected:
            differing = sorted(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n))
            raise UserError(
                f"{path} holds the weights of another model: {len(differing)} tensors differ in name or "
                f"shape (the first: {differing[0]})."
            )
        for name, parameter in state.items():
            parameter.copy_(change(file.get_tensor(name).to(parameter.device), parameter))


# Settings that may differ where the model computes the same: where it lies, what trainers align or toggle.
_INCIDENTAL = {
    "_name_or_path", "architectures", "dtype", "output_hidden_states", "transformers_version", "use_cache",
    "base_model_name_or_path", "inference_mode", "peft_version", "revision",
}  # fmt: skip


def fingerprint(lm: LanguageModel) -> str:
    """Hash (BLAKE2b, 32 hex digits) of all that decides the model's outputs.

    Every parameter and persistent buffer with its name, shape, dtype and bytes, and the config that gives
    them their meaning, with the attention implementation and an adapter's settings. The same on every load.
    """
    configs = [lm.inner.config.to_dict(), {"attention": lm.inner.config._attn_implementation}]
    if lm.is_adapter:
        configs += [config.to_dict() for config in lm.model.peft_config.values()]
    essentials = [
        {k: v for k, v in config.items() if k not in _INCIDENTAL and not k.endswith("_token_id")}
        for config in configs
    ]
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(essentials, sort_keys=True, default=_plain).encode())
    names: dict[tuple, str] = {}  # tied weights are read once
    for name, tensor in sorted(lm.model.state_dict().items()):
        first = names.setdefault((tensor.data_ptr(), tensor.shape, tensor.dtype), name)
        digest.update(f"\n{name} = {first} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        if first == name:  # as bytes: NumPy has no bfloat16
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)


# ------------------------------------------------------------------------------------------------------- save


def save_model(lm: LanguageModel, folder: Path, *, merge: bool = False, card: str = "") -> None:
    """Write a folder that plain ``from_pretrained`` loads. It appears whole or not at all.

    Weights are written in the dtype they were trained in (float32 by default): rounding them to the
    checkpoint's would undo the smallest of the changes. With them go the tokenizer, its chat template, the
    generation config and README.md. An adapter names its base by absolute path or hub name.

    Args:
        folder: where to; what it held before is replaced.
        merge: write an adapter's model with the adapter merged in; needs memory for a second copy.
        card: text of README.md.
    """
    with new_folder(folder) as new:
        if lm.is_adapter and not merge:
            _save_adapter(lm, new)
        else:
            _save_plain(copy.deepcopy(lm.model).merge_and_unload() if lm.is_adapter else lm.model, new)
        lm.tokenizer.save_pretrained(new)
        (new / "README.md").write_text(card, encoding="utf-8")


def save_pair(
    original: LanguageModel,
    assistant: LanguageModel,
    facts: Mapping[str, Any],
    folder: Path,
    *,
    merge: bool = False,
    card: str = "",
) -> None:
    """Write a folder that :func:`load_model` makes one model of (:mod:`rkld.pair`). It appears whole or not at all.

    Args:
        facts: "method", "method_arg" and "alpha", as in the settings.
        merge, card: as of :func:`save_model`.
    """
    with new_folder(folder) as new:
        save_model(original, new / "original", merge=merge)
        save_model(assistant, new / "assistant", merge=merge)
        write_json(new / PAIR, dict(facts))
        (new / "README.md").write_text(card, encoding="utf-8")


def _save_plain(model: PreTrainedModel, folder: Path) -> None:
    own = getattr(model, "generation_config", None)
    if own is None:
        model.save_pretrained(folder)
        return
    # Published generation configs have small flaws, which some versions of transformers refuse to save: that must not
    # come after hours of training. It is written as it is, beside a model that has a neutral one meanwhile.
    model.generation_config = GenerationConfig()
    try:
        model.save_pretrained(folder)
    finally:
        model.generation_config = own
    own.to_json_file(folder / "generation_config.json")


def _save_adapter(lm: LanguageModel, folder: Path) -> None:
    # Not PeftModel.save_pretrained: it writes a card of its own and asks the hub about the base model.
    ((name, config),) = lm.model.peft_config.items()
    state = get_peft_model_state_dict(lm.model, adapter_name=name, save_embedding_layers=False)
    save_file(
        {k: v.contiguous() for k, v in state.items()}, folder / "adapter_model.safetensors", {"format": "pt"}
    )
    config = copy.deepcopy(config)
    config.base_model_name_or_path = _reference(lm.inner.name_or_path)
    config.inference_mode = True
    config.save_pretrained(folder)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``folder`` that takes its name, and its place, if the block succeeds."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        for path in [*beside.rglob("*"), beside]:
            _flush(path)
        if folder.exists():
            shutil.rmtree(folder)
        beside.rename(folder)
        _flush(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _flush(path: Path) -> None:
    """Have a file or folder written to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
