"""Load causal language models from folders, hub names, adapters and objects."""

from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import IncompleteSnapshotError
from peft import PeftConfig, PeftModel
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rkld.errors import UserError, nearest
from rkld.files import TEMPLATES
from rkld.models import smollm2
from rkld.models.checks import (
    LOAD_ERRORS,
    check_adapter,
    check_outputs,
    check_shapes,
    first_line,
    switch_off_dropout,
)
from rkld.models.language_model import LanguageModel
from rkld.models.source import LICENCES, note_left_out

DTYPES = {
    # bfloat16 weights round away the small steps of AdamW, so "auto" trains float32 whatever the checkpoint
    # holds. float16 is left out: without float32 master weights its gradients underflow.
    "auto": torch.float32,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


def load_model(
    source: str | os.PathLike[str] | PreTrainedModel | PeftModel,
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
    if isinstance(source, (PreTrainedModel, PeftModel)):
        lm = _adopt(source, tokenizer, dtype)
    elif isinstance(source, (str, os.PathLike)):
        lm = _load(os.fspath(source), _dtype(dtype), trust_remote_code, allow_pickle, tokenizer)
        device = device or _default_device()
    else:
        raise UserError(f"A model is a folder, a hub name or a transformers model, not a {type(source).__name__}.")
    if chat_template is not None:
        lm.tokenizer.chat_template = read_template(chat_template)
    if device is not None:
        lm.model.to(device)
    switch_off_dropout(lm)
    check_adapter(lm)
    check_shapes(lm)
    check_outputs(lm)
    return lm


def resolve(name: str | os.PathLike[str]) -> str:
    """The absolute folder that ``name`` (a folder or an alias) stands for; any other name is a hub name.

    Fetches an alias on its first use. Raises UserError for a path that is not there.
    """
    name = os.fspath(name)
    if not name:
        raise UserError(f"No model was given: give a folder, a hub name or the alias {smollm2.ALIAS}.")
    if name == smollm2.ALIAS:
        return str(smollm2.folder())
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path.resolve())
    if path.exists():
        raise UserError(f"The model '{name}' is a file; give the folder that holds config.json and the weights.")
    if path.is_absolute() or name.startswith((".", "~")) or name.endswith("/") or name.count("/") > 1:
        raise UserError(f"There is no model folder '{name}'. Check the path, or give a hub name or an alias.")
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
        raise UserError(
            f"{where}/adapter_config.json cannot be read: {first_line(error)}. Fetch or make the adapter again."
        ) from None
    base_name = config.base_model_name_or_path
    if not base_name:
        raise UserError(
            f"{where}/adapter_config.json does not name its base model: write its folder or hub name there as "
            "'base_model_name_or_path'."
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
            f"The adapter {where} cannot be put on its base model {base_where}: {first_line(error)}. Fetch or make it "
            "again, or write its own base into adapter_config.json."
        ) from None
    if tokenizer is None:
        own = (folder / "tokenizer_config.json").exists()
        tokenizer = load_tokenizer(folder if own else base_folder, trust_remote_code)
    return LanguageModel(model, tokenizer, where)


def _load_plain(
    where: str, folder: Path, dtype: torch.dtype, trust_remote_code: bool, allow_pickle: bool
) -> PreTrainedModel:
    if not (folder / "config.json").exists():
        raise UserError(f"{where} is not a model folder: it holds no config.json. Give the folder that holds it.")
    if not trust_remote_code:
        _check_no_code(where, folder)
    _check_weights(where, folder, "model", allow_pickle)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not getattr(config, "is_encoder_decoder", False)
        if not known and "AutoModelForCausalLM" not in getattr(config, "auto_map", ()):
            raise UserError(
                f"{where} is not a causal language model: its type is '{config.model_type}'. Choose one that goes on "
                "writing a text, as chat models do."
            )
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=None if allow_pickle else True,
            output_loading_info=True,
        )
    except LOAD_ERRORS as error:
        raise UserError(
            f"The model {where} cannot be loaded: {first_line(error)}. Fetch or make it again, or choose another one."
        ) from None
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{where} is not a whole causal language model: {len(missing)} of its weights are missing "
            f"(the first: {missing[0]}). Fetch or make it again."
        )
    note_left_out(model, folder, report["unexpected_keys"])
    # A snapshot folder in the hub's cache means nothing on another machine: adapters must name the source.
    model.name_or_path = model.config.name_or_path = where
    return model


def _adopt(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase | None, dtype: str | torch.dtype
) -> LanguageModel:
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    where = lasting_reference(inner.name_or_path) or type(inner).__name__
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
    files = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", *LICENCES]
    weights = ["model.safetensors", "model-*-of-*.safetensors", "adapter_model.safetensors"]
    pickles = ["pytorch_model.bin", "pytorch_model-*-of-*.bin", "adapter_model.bin"]
    code = ["*.py"] if trust_remote_code else []
    nested = ["*/*"]  # copies in other formats
    try:
        folder = Path(snapshot_download(where, allow_patterns=[*files, *weights, *code], ignore_patterns=nested))
        if allow_pickle and not any(folder.glob("*.safetensors")):
            snapshot_download(where, allow_patterns=pickles, ignore_patterns=nested)
    except IncompleteSnapshotError as error:  # offline; what other tools left in the cache may well be enough
        folder = Path(error.snapshot_path)
    except Exception as error:  # the hub's client raises its HTTP library's errors besides its own
        raise UserError(
            f"There is no model folder '{where}', and it could not be had from the Hugging Face hub: "
            f"{first_line(error)}.{nearest(where, [smollm2.ALIAS])}"
        ) from None
    return folder


def _check_no_code(where: str, folder: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        try:
            config = json.loads((folder / name).read_text(encoding="utf-8"))
            kernel = _kernel(config)
        except FileNotFoundError:
            continue
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{where}/{name} is not valid JSON: {first_line(error)}. Fetch or make the model again."
            ) from None
        if isinstance(config, dict) and "auto_map" in config:
            code = f"Python code of its own ('auto_map' in {name})"
        elif kernel:
            code = f"code from a hub, '{kernel[:100]}' (in {name})"
        else:
            continue
        raise UserError(
            f"The model {where} asks to run {code}. If you have read that code and trust it, allow it with "
            "--trust-remote-code (trust_remote_code=True)."
        )


def _kernel(config: object) -> str | None:
    """The hub's name ("owner/name") of a kernel that a config, or one inside it, has the model computed with.

    It stands under "_attn_implementation", "experts_implementation" and the like. transformers fetches and runs it.
    """
    if isinstance(config, list):
        return next(filter(None, map(_kernel, config)), None)
    if not isinstance(config, dict):
        return None
    for key, value in config.items():
        texts = value.values() if isinstance(value, dict) else [value]
        if "_implementation" in key and (named := [t for t in texts if isinstance(t, str) and "/" in t]):
            return named[0]
    return _kernel(list(config.values()))


def _check_weights(where: str, folder: Path, stem: str, allow_pickle: bool) -> None:
    """``stem`` is "model" or "adapter_model", as the weights' files are called."""
    if (folder / f"{stem}.safetensors").exists():
        return
    if stem == "model" and (folder / f"{stem}.safetensors.index.json").exists():  # PEFT reads no index
        _check_shards(folder / f"{stem}.safetensors.index.json")
        return
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


def _check_shards(index: Path) -> None:
    """Refuse an index that names anything but safetensors beside it: another folder's files, or pickles."""
    try:
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{index} is no index of weights. Fetch or make the model again.") from None
    for shard in shards:
        if not isinstance(shard, str) or not re.fullmatch(r"[\w.-]+\.safetensors", shard):
            raise UserError(
                f"{index} names weights that are no safetensors beside it: {str(shard)[:100]!r}. Do not use this model "
                "unless you trust its source; then save its weights as safetensors."
            )


def load_tokenizer(folder: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder. UserError where there is none, or it cannot be loaded."""
    if not any(any(folder.glob(name)) for name in ("tokenizer*", "vocab*", "*.model", "*.tiktoken")):
        raise UserError(f"The model folder {folder} holds no tokenizer. Copy the model's own into it.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except LOAD_ERRORS as error:
        raise UserError(
            f"The tokenizer in {folder} cannot be loaded: {first_line(error)}. Copy the model's own into it again."
        ) from None
    # transformers makes an empty one where files are missing
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UserError(f"The tokenizer in {folder} has no vocabulary. Copy the model's own into it again.")
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
            f"The chat template '{text_or_file}' cannot be read: {first_line(error)}. It is a file or one of "
            f"{', '.join(names)}.{nearest(text_or_file, names)}"
        ) from None


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UserError(f"Unknown dtype '{dtype}': use one of {', '.join(DTYPES)}.{nearest(str(dtype), DTYPES)}")
    return DTYPES[dtype]


def _default_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def lasting_reference(name: str) -> str:
    """A name that means the same from any working directory."""
    return str(Path(name).resolve()) if name and Path(name).is_dir() else name
