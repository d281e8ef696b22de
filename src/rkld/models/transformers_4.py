"""Saved models are read by transformers 4, too: what version 5 writes is said once more in the words of version 4.

Version 4 takes its default for what it does not find, without a word: a rope_theta of 10000, or token type ids that
most models refuse. So each fact stands in both forms, and version 5 reads them as it reads its own alone. This is the
one place that knows both. Sources: transformers 4.57.6 and 5.23.0, ``configuration_utils.py``,
``models/*/configuration_*.py``, ``modeling_rope_utils.py``, ``tokenization_utils_base.py``,
``tokenization_utils_fast.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rkld.files import write_json

Facts = dict[str, Any]

GENERIC_TOKENIZER = "PreTrainedTokenizerFast"
"""The class of version 4 that reads tokenizer.json as it stands; in version 5 another name of its own. The classes of
single models (LlamaTokenizer, …) put a beginning of sequence of their own in front, or want SentencePiece files."""

TYPE_FIRST = {"chameleon", "fuyu", "olmo", "olmo2", "phi3", "phi4_multimodal"}
"""Model types whose ``rope_scaling`` is refused unless it holds ``type``, and nothing beyond what that type needs."""

LAYERS = {
    "gemma3_text": ("rope_theta", "rope_local_base_freq"),
    "gemma3n_text": ("rope_theta", "rope_local_base_freq"),
    "modernbert-decoder": ("global_rope_theta", "local_rope_theta"),
    "olmo3": ("rope_theta", None),
}
"""Model type → the names of the bases of full and of sliding attention, where each kind of layer has its own."""

NEOX = {"gpt_neox", "gpt_neox_japanese"}
"""Model types with names of their own for base and rotated share."""

ALL_ROTATED = {"phi3", "phi4_multimodal"}
"""Model types whose rotated share is 1 in version 4 too, and stands beside the others in version 5 once it is named."""


def add_older_forms(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Complete the files that ``save_pretrained`` of version 5 wrote.

    Args:
        folder: with tokenizer_config.json, and, unless it is an adapter's, config.json.
        tokenizer: the one that was saved.
    """
    if (folder / "config.json").exists():
        write_json(folder / "config.json", both_forms(_read(folder / "config.json")))
    file = folder / "tokenizer_config.json"
    write_json(file, tokenizer_forms(_read(file), tokenizer))


def both_forms(config: Facts) -> Facts:
    """A config with what version 4 reads beside what version 5 does; configs within it likewise."""
    config = {key: both_forms(value) if _is_config(value) else value for key, value in config.items()}
    if "dtype" in config:
        config["torch_dtype"] = config["dtype"]
    return config | _rope(config, str(config.get("model_type")))


def _is_config(value: object) -> bool:
    return isinstance(value, dict) and "model_type" in value


def _rope(config: Facts, kind: str) -> Facts:
    """What version 4 asks for in the place of ``rope_parameters``."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict):
        return {}
    if isinstance(rope.get("full_attention"), dict):
        if kind not in LAYERS:  # version 4 does not know it
            return {}
        full, sliding = LAYERS[kind]
        found = {full: rope["full_attention"].get("rope_theta"), "rope_scaling": _scaling(rope["full_attention"], kind)}
        if sliding:
            found[sliding] = rope["sliding_attention"].get("rope_theta")
    else:
        theta, share = ("rotary_emb_base", "rotary_pct") if kind in NEOX else ("rope_theta", "partial_rotary_factor")
        found = {theta: rope.get("rope_theta"), "rope_scaling": _scaling(rope, kind)}
        if not (kind in ALL_ROTATED and rope.get("partial_rotary_factor") == 1):
            found[share] = rope.get("partial_rotary_factor")
    return {name: value for name, value in found.items() if value is not None}


def _scaling(rope: Facts, kind: str) -> Facts | None:
    """``rope_scaling`` of version 4: all but what stands beside it there. None where nothing is scaled."""
    scaling = {k: v for k, v in rope.items() if k not in ("rope_theta", "partial_rotary_factor") and v is not None}
    if not scaling.keys() - {"rope_type", "type", "original_max_position_embeddings"} and (
        scaling.get("rope_type", "default") == "default"
    ):
        return None
    if kind in TYPE_FIRST:
        needed = {"type", "factor", "short_factor", "long_factor"}
        scaling = {k: v for k, v in {"type": scaling.pop("rope_type", None), **scaling}.items() if k in needed}
    return scaling


def tokenizer_forms(config: Facts, tokenizer: PreTrainedTokenizerBase) -> Facts:
    """A tokenizer_config.json with what version 4 reads beside what version 5 does."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # not of the tokenizers library: its class is the same in both
        return config
    config = dict(config, tokenizer_class=GENERIC_TOKENIZER)
    # Left out where they are the class's own; the generic class has others.
    for name in ("model_input_names", "padding_side", "truncation_side", "clean_up_tokenization_spaces"):
        config[name] = getattr(tokenizer, name)
    state = json.loads(backend.to_str())["pre_tokenizer"] or {}
    if "add_prefix_space" in state:  # version 4 sets it to what stands here, or to false
        config["add_prefix_space"] = state["add_prefix_space"]
    if isinstance(config.get("extra_special_tokens"), list):  # in version 4 a dict of those that models name
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in template.items()]
    if template is not None:
        config["chat_template"] = template  # the file beside it is not read before 4.52
    return config


def _read(path: Path) -> Facts:
    facts: Facts = json.loads(path.read_text(encoding="utf-8"))
    return facts
