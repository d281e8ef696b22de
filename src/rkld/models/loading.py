"""Load causal language models from folders, hub names, adapters and objects."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import IncompleteSnapshotError
from peft import PeftConfig, PeftModel
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rkld import processes
from rkld.errors import UserError, nearest
from rkld.files import LONGEST_NAME, TEMPLATES, nearest_path, read_bounded
from rkld.models import smollm2
from rkld.models.checks import check_adapter, check_outputs, check_shapes, first_line, switch_off_dropout
from rkld.models.folders import (
    Shapes,
    check_adapter_config,
    check_counts,
    check_files,
    check_no_code,
    check_weight_count,
    check_weights,
    read_config,
)
from rkld.models.language_model import LanguageModel
from rkld.models.source import LICENCES, note_left_out
from rkld.progress import without_noise
from rkld.text.printable import printable

logger = logging.getLogger(__name__)

Dtype: TypeAlias = Literal["auto", "float32", "bfloat16"]
"""The setting ``--dtype``."""

_GIVEN = "given with --chat-template"

DTYPES = {
    # bfloat16 weights round away the small steps of AdamW, so "auto" trains float32 whatever the checkpoint
    # holds. float16 is left out: without float32 master weights its gradients underflow.
    "auto": torch.float32,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


@without_noise()
def load_model(
    source: str | os.PathLike[str] | PreTrainedModel | PeftModel,
    *,
    dtype: str | torch.dtype = "auto",
    base: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    chat_template: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str | torch.device | None = None,
) -> LanguageModel:
    """Load a causal language model, switch its dropout off, and check that it is what the method needs.

    Args:
        source: model folder, hub name, alias ``smollm2-135m``, PEFT adapter folder (its base is loaded and
            the adapter is trained further in place), or a model object, which is used itself, not copied.
        dtype: of the weights: "auto", "float32", "bfloat16" or "float64". "auto" is float32, and an object's own. An
            object is cast in place; quantised weights keep their form.
        base: folder or hub name of an adapter's base, in the place of the one that its folder names. Of a model that
            is no adapter it is not read here.
        trust_remote_code: run Python code that comes with the model.
        allow_pickle: read ``.bin`` weights where there are no safetensors.
        chat_template: Jinja text or a file of it; replaces the tokenizer's own.
        tokenizer: by default the one beside the model.
        device: by default this process's GPU, or the CPU without one; a model object stays where it is.

    Raises:
        UserError: what cannot be read, trusted, or trained.
    """
    if isinstance(source, (PreTrainedModel, PeftModel)):
        lm = _adopt(source, tokenizer, dtype)
    elif isinstance(source, (str, os.PathLike)):
        opening = _Opening(_dtype(dtype), trust_remote_code, allow_pickle)
        lm = _load(os.fspath(source), base, tokenizer, opening)
        device = device or default_device()
    else:
        raise UserError(f"A model is a folder, a hub name or a transformers model, not a {type(source).__name__}.")
    if chat_template is not None:
        lm.tokenizer.chat_template, lm.template_source = read_template(chat_template), _GIVEN
    if device is not None:
        lm.model.to(device)
    switch_off_dropout(lm)
    check_adapter(lm)
    check_shapes(lm)
    check_outputs(lm)
    return lm


def add_adapter(
    lm: LanguageModel,
    source: str | os.PathLike[str],
    name: str,
    *,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> bool:
    """Put a second adapter beside the one that ``lm`` has, to be switched to by ``lm.model.set_adapter(name)``.

    Returns:
        whether ``source`` is an adapter on the same base; of anything else nothing is done.

    Raises:
        UserError: as of :func:`load_model`.
    """
    opening = _Opening(lm.dtype, trust_remote_code, allow_pickle)
    where = resolve(source)
    folder = _fetched(where, opening)
    if not lm.is_adapter or not (folder / "adapter_config.json").exists():
        return False
    config = _adapter_config(where, folder, opening)
    base, _ = _base(where, folder, config.base_model_name_or_path, opening)
    if base != lm.inner.name_or_path:
        return False
    try:
        lm.model.load_adapter(folder, adapter_name=name)
    except Exception as error:  # foreign files lead PEFT to raise anything
        raise UserError(f"The adapter {where} cannot be put on its base model {base}: {first_line(error)}.") from None
    switch_off_dropout(lm)
    return True


def for_training(dtype: Dtype) -> Dtype:
    """The setting of a training: "auto" is float32 there for objects as well, which are left as they are elsewhere."""
    return "float32" if dtype == "auto" else dtype


def gpu_computes_in_bf16() -> bool:
    """Whether there is a GPU that has units for bfloat16."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def cpu_computes_in_bf16() -> bool:
    """Whether there is no GPU, and the CPU has units for bfloat16."""
    return not torch.cuda.is_available() and bool(processes.cpu_bf16())


WIDE = 512
"""Hidden width from which on training in bfloat16 takes about half the time on a CPU that has units for it."""


def bf16_saves_time(hidden: int) -> bool:
    """Whether training a model on this machine is about twice as fast in bfloat16, which is not the default there."""
    return hidden >= WIDE and cpu_computes_in_bf16()


def computes_fast_in_bf16() -> bool:
    """Whether this machine has units for bfloat16."""
    return gpu_computes_in_bf16() or cpu_computes_in_bf16()


def resolve(name: str | os.PathLike[str]) -> str:
    """The absolute folder that ``name`` (a folder or an alias) stands for; any other name is a hub name.

    Fetches an alias on its first use. Raises UserError for a path that is not there.
    """
    name = os.fspath(name)
    if not name:
        raise UserError(f"No model was given: give a folder, a hub name or the alias {smollm2.ALIAS}.")
    if name == smollm2.ALIAS:
        return str(smollm2.folder())
    path = Path(os.path.expanduser(name))  # pathlib's raises where there is no such user
    if _is_dir(path):
        return str(path.resolve())
    if _exists(path):
        raise UserError(f"The model '{name}' is a file; give the folder that holds config.json and the weights.")
    is_path = path.is_absolute() or name.startswith((".", "~")) or name.endswith("/") or name.count("/") > 1
    is_path |= "/" in name and _is_dir(path.parent)  # "runs/jane", where runs/ is there
    if is_path or len(name) > LONGEST_NAME:
        near = nearest_path(path) if len(name) <= LONGEST_NAME else ""
        raise UserError(
            f"There is no model folder '{printable(name)}'.{near} Check the path, or give a hub name or an alias."
        )
    return name


@dataclass(frozen=True)
class _Opening:
    """How folders are opened."""

    dtype: torch.dtype
    trust_remote_code: bool
    allow_pickle: bool


def _is_dir(path: Path) -> bool:
    return _exists(path) and path.is_dir()


def _exists(path: Path) -> bool:
    """Names in configs may be longer than any file's."""
    try:
        return path.exists()
    except OSError:
        return False


def _load(
    name: str, base_name: str | None, tokenizer: PreTrainedTokenizerBase | None, opening: _Opening
) -> LanguageModel:
    where = resolve(name)
    folder = _fetched(where, opening)
    if not (folder / "adapter_config.json").exists():
        model, stored = _load_plain(where, folder, opening)
        own = tokenizer or load_tokenizer(folder, opening.trust_remote_code)
        return LanguageModel(model, own, where, stored, _template_source(own, "of the model"))

    config = _adapter_config(where, folder, opening)
    base_where, base_folder = _base(where, folder, base_name or config.base_model_name_or_path, opening)
    if (base_folder / "adapter_config.json").exists():
        raise UserError(f"The adapter {where} sits on another adapter, {base_where}: merge that one first.")
    base, stored = _load_plain(base_where, base_folder, opening)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            model = PeftModel.from_pretrained(base, folder, is_trainable=True)
    except Exception as error:  # foreign files lead PEFT to raise anything
        raise UserError(
            f"The adapter {where} cannot be put on its base model {base_where}: {first_line(error)}. Fetch or make it "
            "again, or give its own base with --base."
        ) from None
    if tokenizer is not None:
        return LanguageModel(model, tokenizer, where, stored, _template_source(tokenizer, "of the tokenizer"))
    own, source = _adapter_tokenizer(folder, base_folder, opening)
    return LanguageModel(model, own, where, stored, _template_source(own, source))


def _adapter_config(where: str, folder: Path, opening: _Opening) -> PeftConfig:
    shapes = check_weights(where, folder, "adapter_model", opening.allow_pickle)
    check_adapter_config(where, read_config(where, folder, "adapter_config.json") or {}, shapes)
    try:
        config = PeftConfig.from_pretrained(folder)
    except Exception as error:  # foreign files lead PEFT to raise anything
        raise UserError(
            f"{where}/adapter_config.json cannot be read: {first_line(error)}. Fetch or make the adapter again."
        ) from None
    if config.is_prompt_learning:
        raise UserError(
            f"The adapter {where} puts learned vectors before the text ({config.peft_type.value}) and changes no "
            "weights, so it cannot be trained here: take an adapter of weights, such as LoRA."
        )
    return config


def _base(where: str, folder: Path, name: str | None, opening: _Opening) -> tuple[str, Path]:
    """An adapter's base and the folder of its files. UserError where nobody names it, or it cannot be had."""
    if not name:
        raise UserError(
            f"{where}/adapter_config.json does not name its base model: give its folder or hub name with --base."
        )
    beside = folder / name  # a path written relative to the adapter
    try:
        base = resolve(beside if _is_dir(beside) else name)
        return base, _fetched(base, opening)
    except UserError as error:
        raise UserError(
            f"The adapter {where} has its base model at '{printable(name)}'. {error} If it lies elsewhere now, give "
            "its folder or hub name with --base."
        ) from None


def _adapter_tokenizer(folder: Path, base_folder: Path, opening: _Opening) -> tuple[PreTrainedTokenizerBase, str]:
    """An adapter's own or else its base's, with the base's template where it has none; and whose template it is."""
    if not any(folder.glob("tokenizer*")):
        return load_tokenizer(base_folder, opening.trust_remote_code), "of the adapter's base"
    own = load_tokenizer(folder, opening.trust_remote_code)
    if own.chat_template:
        return own, "of the adapter"
    own.chat_template = load_tokenizer(base_folder, opening.trust_remote_code).chat_template
    return own, "of the adapter's base"


def _template_source(tokenizer: PreTrainedTokenizerBase, source: str) -> str | None:
    return source if tokenizer.chat_template else None


def _load_plain(where: str, folder: Path, opening: _Opening) -> tuple[PreTrainedModel, torch.dtype | None]:
    """The model, and the dtype that its config says the weights are stored in."""
    settings = read_config(where, folder, "config.json")
    if settings is None:
        raise UserError(f"{where} is not a model folder: it holds no config.json. Give the folder that holds it.")
    shapes = check_weights(where, folder, "model", opening.allow_pickle)
    check_counts(where, settings, len(shapes) or None)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=opening.trust_remote_code)
        stored = config.dtype if isinstance(config.dtype, torch.dtype) else None
        config, renamed = _text_part(config)
        _check_causal(where, config)
        _check_quantiser(where, config)
        _check_size(where, config, shapes)
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=opening.dtype,
            trust_remote_code=opening.trust_remote_code,
            use_safetensors=None if opening.allow_pickle else True,
            ignore_mismatched_sizes=True,  # reported, and refused below
            key_mapping=renamed,
            output_loading_info=True,
        )
    except UserError:
        raise
    except Exception as error:  # foreign files lead transformers to raise anything
        raise UserError(
            f"The model {where} cannot be loaded: {first_line(error)}. Fetch or make it again, or choose another one."
        ) from None
    if others := sorted(report["mismatched_keys"]):
        name, found, expected = others[0]
        raise UserError(
            f"{where}: {len(others)} of the weights have other shapes than config.json says (the first: "
            f"{printable(name)}, {tuple(found)} in the file, {tuple(expected)} by the config). Fetch or make it again."
        )
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{where} is not a whole causal language model: {len(missing)} of its weights are missing "
            f"(the first: {missing[0]}). Fetch or make it again."
        )
    note_left_out(model, shapes, report["unexpected_keys"])
    # A snapshot folder in the hub's cache means nothing on another machine: adapters must name the source.
    model.name_or_path = model.config.name_or_path = where
    return model, stored


_OF_THE_WHOLE = {
    r"^(model\.)?language_model\.lm_head\.": "lm_head.",
    r"^(model\.)?language_model\.(model\.)?": "model.",
}
"""Names of a text model's weights in the files of a model that sees, too → its own."""


def _text_part(config: PreTrainedConfig) -> tuple[PreTrainedConfig, dict[str, str] | None]:
    """The text model of one that sees, too, where transformers knows only that as a causal one (Mistral 3)."""
    text = config.get_text_config()
    known, whole = MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if type(config) in known or type(config) not in whole or type(text) not in known:
        return config, None
    text.tie_word_embeddings = config.tie_word_embeddings  # it is the whole that has a head
    return text, _OF_THE_WHOLE


def _check_causal(where: str, config: PreTrainedConfig) -> None:
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not getattr(config, "is_encoder_decoder", False)
    if not known and "AutoModelForCausalLM" not in getattr(config, "auto_map", ()):
        raise UserError(
            f"{where} is not a causal language model: its type is '{config.model_type}'. Choose one that goes on "
            "writing a text, as chat models do."
        )


def _check_quantiser(where: str, config: PreTrainedConfig) -> None:
    """Refuse tensors of a kind of their own: they have no bytes by which a model is known, set aside or saved."""
    found = getattr(config, "quantization_config", None)
    by = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
    if getattr(by, "value", by) == "torchao":
        raise UserError(
            f"The weights of {where} are quantised by torchao, whose tensors cannot be told apart, set aside or saved "
            "here. Give the model that they were made from, in full or loaded in 4 bits by bitsandbytes."
        )


def _check_size(where: str, config: PreTrainedConfig, shapes: Shapes) -> None:
    """Count the weights that the config describes, without making room for them."""
    if getattr(config, "auto_map", None):  # made by code of its own
        return
    with torch.device("meta"):
        described = AutoModelForCausalLM.from_config(config)
    quantised = getattr(config, "quantization_config", None) is not None
    check_weight_count(where, described.num_parameters(), shapes, quantised=quantised)


def _adopt(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase | None, dtype: str | torch.dtype
) -> LanguageModel:
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    where = lasting_reference(inner.name_or_path) or type(inner).__name__
    _check_quantiser(where, inner.config)
    if tokenizer is None:
        if not Path(where).is_dir():
            raise UserError("A model object needs its tokenizer: pass tokenizer=….")
        _check_folder(where, Path(where), fetched=False, trust_remote_code=False)
        tokenizer = load_tokenizer(Path(where), trust_remote_code=False)
    stored = inner.dtype
    if dtype != "auto" and not getattr(inner, "is_quantized", False):
        if any(p.is_floating_point() and p.dtype != _dtype(dtype) for p in model.parameters()):
            logger.warning("The model object's weights are cast in place, from %s to %s.", stored, _dtype(dtype))
        model.to(_dtype(dtype))
    return LanguageModel(model, tokenizer, where, stored, _template_source(tokenizer, "of the tokenizer"))


def _fetched(where: str, opening: _Opening) -> Path:
    """The folder with the model's files: itself, or the hub's snapshot of it. It runs no code and leads nowhere else.

    Raises:
        UserError: as of :mod:`rkld.models.folders`, or the hub cannot be reached.
    """
    here = Path(where).is_dir()
    folder = Path(where) if here else _snapshot(where, opening)
    _check_folder(where, folder, fetched=not here, trust_remote_code=opening.trust_remote_code)
    return folder


def _check_folder(where: str, folder: Path, *, fetched: bool, trust_remote_code: bool) -> None:
    check_files(where, folder, fetched=fetched)
    if not trust_remote_code:
        check_no_code(where, folder)


def _snapshot(where: str, opening: _Opening) -> Path:
    files = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", *LICENCES]
    weights = ["model.safetensors", "model-*-of-*.safetensors", "adapter_model.safetensors"]
    pickles = ["pytorch_model.bin", "pytorch_model-*-of-*.bin", "adapter_model.bin"]
    code = ["*.py"] if opening.trust_remote_code else []
    nested = ["*/*"]  # copies in other formats
    try:
        folder = Path(snapshot_download(where, allow_patterns=[*files, *weights, *code], ignore_patterns=nested))
        if opening.allow_pickle and not any(folder.glob("*.safetensors")):
            snapshot_download(where, allow_patterns=pickles, ignore_patterns=nested)
    except IncompleteSnapshotError as error:  # offline; what other tools left in the cache may well be enough
        folder = Path(error.snapshot_path)
    except Exception as error:  # the hub's client raises its HTTP library's errors besides its own
        raise UserError(
            f"There is no model folder '{where}', and it could not be had from the Hugging Face hub: "
            f"{first_line(error)}.{nearest(where, [smollm2.ALIAS])}"
        ) from None
    return folder


def load_tokenizer(folder: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder. UserError where there is none, or it cannot be loaded."""
    if not any(any(folder.glob(name)) for name in ("tokenizer*", "vocab*", "*.model", "*.tiktoken")):
        raise UserError(f"The model folder {folder} holds no tokenizer. Copy the model's own into it.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        tokenizer("a", verbose=False)  # some settings fail only here
        # transformers makes an empty one where files are missing
        empty = len(tokenizer) <= len(tokenizer.all_special_tokens)
    except BaseException as error:  # foreign files lead libraries to raise anything, and Rust to panic
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(
            f"The tokenizer in {folder} cannot be loaded: {first_line(error)}. Copy the model's own into it again."
        ) from None
    if empty:
        raise UserError(f"The tokenizer in {folder} has no vocabulary. Copy the model's own into it again.")
    return tokenizer


def read_tokenizer(
    folder: str | os.PathLike[str], *, trust_remote_code: bool = False, chat_template: str | None = None
) -> tuple[PreTrainedTokenizerBase, str | None]:
    """A tokenizer alone, of a model that is elsewhere; and whose chat template it has, as of a :class:`LanguageModel`.

    Raises:
        UserError: as of :func:`load_model`.
    """
    where = resolve(folder)
    _check_folder(where, Path(where), fetched=False, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(Path(where), trust_remote_code)
    if chat_template is not None:
        tokenizer.chat_template = read_template(chat_template)
    return tokenizer, _GIVEN if chat_template else _template_source(tokenizer, "of the tokenizer")


LONGEST_TEMPLATE = 1024 * 1024
"""Bytes of a chat template; the longest of known models has some 20,000."""


def read_template(text_or_file: str) -> str:
    """A Jinja template has braces; the name of a file, or of one of :data:`rkld.files.TEMPLATES`, has none."""
    if "{" in text_or_file:
        return text_or_file
    preset = TEMPLATES / f"{text_or_file}.jinja"
    try:
        path = preset if os.sep not in text_or_file and preset.is_file() else Path(text_or_file).expanduser()
        return read_bounded(path.resolve(), LONGEST_TEMPLATE).decode("utf-8")
    except (OSError, ValueError, RuntimeError) as error:  # a name too long; not UTF-8, or NUL; a ~user who is none
        names = sorted(file.stem for file in TEMPLATES.glob("*.jinja"))
        raise UserError(
            f"The chat template '{text_or_file}' cannot be read: {first_line(error)}. It is a file or one of "
            f"{', '.join(names)}.{nearest(text_or_file, names)}"
        ) from None


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UserError(f"Unknown dtype '{dtype}': use one of {', '.join(DTYPES)}.{nearest(str(dtype), DTYPES)}")
    return DTYPES[dtype]


def default_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def lasting_reference(name: str) -> str:
    """A name that means the same from any working directory."""
    return str(Path(name).resolve()) if name and Path(name).is_dir() else name
