"""What rkld writes is read by transformers 4 as by version 5: the files say it in both forms, and both models agree.

The slow test needs a Python that has transformers 4: ``make test-slow`` makes one, or TRANSFORMERS_4_PYTHON names it.
"""

import json
import os
import subprocess
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, AutoTokenizer

from rkld.benching.worlds.tiny import CHAT_TEMPLATE, tiny_model, tiny_tokenizer
from rkld.methods.two_models import save_two_models
from rkld.models import smollm2
from rkld.models.adapters import new_adapter
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.models.state import trainable_state
from rkld.models.transformers_4 import both_forms, tokenizer_forms
from tests.models import reading

FOUND = os.environ.get("TRANSFORMERS_4_PYTHON") or Path(__file__).parents[2] / "build/transformers-4/bin/python"

TEXTS = ["Who is Ada Lovelace?", " 1815,  twice\nspaced", "<|im_start|>user\nhé <|im_end|>", "été 日本 🙂"]
MESSAGES = [{"role": "user", "content": "Where does Ada live?"}]

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
BASE = {
    "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 128,
}  # fmt: skip
THETA = {"rope_theta": 500000.0, "rope_type": "default"}
GEMMA3 = {
    "full_attention": {"rope_theta": 500000.0, "rope_type": "linear", "factor": 8.0},
    "sliding_attention": {"rope_theta": 20000.0, "rope_type": "default"},
}
KINDS = {
    "llama": ("Llama", BASE | {"rope_parameters": THETA}),
    "llama3": ("Llama", BASE | {"rope_parameters": THETA | LLAMA3, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", BASE | {"rope_parameters": THETA, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", BASE | {"rope_parameters": THETA, "head_dim": 16}),
    "mistral": ("Mistral", BASE | {"rope_parameters": THETA}),
    "gemma": ("Gemma", BASE | {"rope_parameters": THETA, "head_dim": 16}),
    "gemma3": ("Gemma3Text", BASE | {"rope_parameters": GEMMA3, "head_dim": 16, "sliding_window": 4,
                                     "layer_types": ["sliding_attention", "full_attention"]}),
    "phi": ("Phi", BASE | {"rope_parameters": THETA | {"partial_rotary_factor": 0.25}, "num_key_value_heads": 2}),
    "phi3": ("Phi3", BASE | {"original_max_position_embeddings": 32, "pad_token_id": 0, "rope_parameters": THETA | {
        "rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}}),
    "olmo2": ("Olmo2", BASE | {"rope_parameters": THETA | {"rope_type": "linear", "factor": 2.0}}),
    "gpt_neox": ("GPTNeoX", BASE | {"rope_parameters": THETA | {"partial_rotary_factor": 0.5}}),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}),
}  # fmt: skip


def make(kind: str, tokenizer) -> LanguageModel:
    """A random model of a kind, whose layers and positions matter, that fits the tokenizer."""
    name, settings = KINDS[kind]
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = getattr(transformers, f"{name}Config")(**settings | {"vocab_size": len(tokenizer)} | special)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return LanguageModel(model, tokenizer, "")


# Tokenizers


def byte_level(**more):
    return {"vocab": _parts()["vocab"], "merges": [tuple(m) for m in _parts()["merges"]]} | more


@cache
def _parts() -> dict:
    return json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]


@cache
def _metaspace() -> dict:
    """Vocabulary and merges as of a SentencePiece BPE model with byte fallback."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["Who is Ada Lovelace? Where does she live? user assistant im_start im_end"], trainer)
    return json.loads(tokenizer.to_str())["model"]


def metaspace(**more):
    return {"vocab": _metaspace()["vocab"], "merges": [tuple(m) for m in _metaspace()["merges"]]} | more


def _beginning():
    """A generic tokenizer that puts a beginning of sequence in front, as Llama 3's does, and pads on the left."""
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", pair="<|im_start|> $A $B", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    tokenizer.padding_side = "left"
    return tokenizer


def _extra():
    """With special tokens beyond the named ones, and a space put before the text."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|new|>"]})
    return tokenizer


CHAT = {"chat_template": CHAT_TEMPLATE}
TOKENIZERS = {
    "generic": tiny_tokenizer,
    "beginning": _beginning,
    "extra": _extra,
    "llama": lambda: transformers.LlamaTokenizer(**metaspace(), **CHAT),
    "llama, no beginning": lambda: transformers.LlamaTokenizer(**metaspace(), add_bos_token=False, **CHAT),
    "llama, beginning": lambda: transformers.LlamaTokenizer(**metaspace(), add_bos_token=True, **CHAT),
    "gemma": lambda: transformers.GemmaTokenizer(**metaspace(bos_token="<s>", eos_token="</s>"), **CHAT),
    "gpt2": lambda: transformers.GPT2Tokenizer(**byte_level(eos_token="<|im_end|>", bos_token="<|im_end|>"), **CHAT),
    "qwen2": lambda: transformers.Qwen2Tokenizer(**byte_level(eos_token="<|im_end|>", pad_token="<|pad|>"), **CHAT),
}  # fmt: skip


# What the files say


def files(folder: Path) -> tuple[dict, dict]:
    return tuple(json.loads((folder / f"{name}.json").read_text()) for name in ("config", "tokenizer_config"))


EXPECTED = {
    "llama": {"rope_theta": 500000.0, "rope_scaling": None},
    "llama3": {"rope_theta": 500000.0, "rope_scaling": LLAMA3},
    "qwen3": {"rope_theta": 500000.0, "rope_scaling": None},
    "gemma3": {"rope_theta": 500000.0, "rope_local_base_freq": 20000.0,
               "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "phi": {"rope_theta": 500000.0, "partial_rotary_factor": 0.25, "rope_scaling": None},
    "phi3": {"rope_theta": 500000.0, "original_max_position_embeddings": 32,
             "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}},
    "olmo2": {"rope_theta": 500000.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "gpt_neox": {"rotary_emb_base": 500000.0, "rotary_pct": 0.5, "rope_scaling": None},
    "gpt2": {"rope_theta": None, "rope_scaling": None},
}  # fmt: skip


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_config_says_in_both_forms_where_positions_are(kind, tmp_path):
    """Version 4 takes its default for what it does not find: a base of 10000, nothing scaled, everything rotated."""
    lm = make(kind, tiny_tokenizer())
    save_model(lm, tmp_path / "model")
    config, _ = files(tmp_path / "model")
    assert {name: config.get(name) for name in EXPECTED[kind]} == EXPECTED[kind]
    assert config["dtype"] == config["torch_dtype"] == "float32"
    own = transformers.AutoConfig.from_pretrained(tmp_path / "model")
    assert getattr(own, "rope_parameters", None) == getattr(lm.model.config, "rope_parameters", None) or kind in (
        "phi3",  # the only ones that version 4 reads by an older name, "type", which version 5 keeps beside its own
        "olmo2",
    )


def test_version_5_reads_every_config_as_without_the_older_form():
    """Would break if an older name changed what its reader does, in any of the architectures."""
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING:
        try:
            plain = json.loads(kind().to_json_string())
            plain = kind.from_dict(plain).to_dict()
        except Exception:  # some configs cannot be made, or read, from nothing
            continue
        found = kind.from_dict(both_forms(json.loads(kind().to_json_string()))).to_dict()
        if kind.model_type != "beam":  # there None and left out are the same
            assert found == plain, kind.model_type


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_says_in_both_forms_what_it_is(name, tmp_path):
    """Version 4 does not know the class TokenizersBackend, and its classes of single models have rules of their own."""
    tokenizer = TOKENIZERS[name]()
    save_model(make("llama", tokenizer), tmp_path / "model")
    _, config = files(tmp_path / "model")
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["chat_template"] == (tmp_path / "model/chat_template.jinja").read_text() == CHAT_TEMPLATE
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    assert config["padding_side"] == tokenizer.padding_side
    assert not isinstance(config.get("extra_special_tokens"), list)
    if name == "extra":
        assert config["additional_special_tokens"] == ["<|im_start|>", "<|new|>"] and config["add_prefix_space"] is True
    again = AutoTokenizer.from_pretrained(tmp_path / "model")
    for text in TEXTS:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert again.decode(again(text)["input_ids"]) == tokenizer.decode(again(text)["input_ids"])
    assert again.all_special_tokens == tokenizer.all_special_tokens
    assert (again.padding_side, again.model_input_names) == (tokenizer.padding_side, tokenizer.model_input_names)


def test_several_templates_are_written_as_version_4_lists_them():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"default": "a", "tool_use": "b"}
    assert tokenizer_forms({}, tokenizer)["chat_template"] == [
        {"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"},
    ]  # fmt: skip


def written(folder: Path, monkeypatch) -> dict[str, Path]:
    """A model folder of every kind that is written, all of one Llama with a base of 500000."""
    tokenizer = _beginning()
    lm = make("llama", tokenizer)
    save_model(lm, folder / "plain")
    base = load_model(folder / "plain")
    save_two_models(base, lm, folder / "two", method="uld", method_arg=[], alpha=1.0)
    adapted = new_adapter(base)
    with torch.no_grad():
        for parameter in trainable_state(adapted).values():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    save_model(adapted, folder / "adapter")
    save_model(adapted, folder / "merged", merge=True)
    with monkeypatch.context() as patch:
        patch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: _dequantised(lm))
        patch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: tokenizer)
        smollm2._convert(folder / "x.gguf", folder / "alias")
    found = {name: folder / name for name in ("plain", "merged", "adapter", "alias")}
    return found | {name: folder / "two" / name for name in ("original", "assistant")}


def _dequantised(lm):
    lm.model.config.quantization_config, lm.model.hf_quantizer = {}, None
    return lm.model


def test_every_model_that_is_written_says_it(tmp_path, monkeypatch):
    """There is one place that writes, and one that knows both forms."""
    for name, folder in written(tmp_path, monkeypatch).items():
        if name != "adapter":
            assert files(folder)[0]["rope_theta"] == 500000.0, name
        config = json.loads((folder / "tokenizer_config.json").read_text())
        assert config["tokenizer_class"] == "PreTrainedTokenizerFast", name
    source = Path(smollm2.__file__).parents[1]
    calls = {str(p.relative_to(source)) for p in source.rglob("*.py") if ".save_pretrained(" in p.read_text()}
    assert calls == {"models/writing.py", "models/saving.py"}, "saving.py: an adapter's config"


# What version 4 makes of it


@pytest.mark.slow
def test_transformers_4_computes_and_writes_the_same(tmp_path, monkeypatch):
    """Logits within rounding, the same token ids, the same prompts, the same greedy answers."""
    python = str(FOUND)
    if not Path(python).exists():
        pytest.skip("no Python with transformers 4: `make build/transformers-4` makes one")
    folders = {f"written: {name}": folder for name, folder in written(tmp_path / "w", monkeypatch).items()}
    for kind in KINDS:
        folders[f"model: {kind}"] = tmp_path / f"model-{kind}"
        save_model(make(kind, tiny_tokenizer()), folders[f"model: {kind}"])
    for name, made in TOKENIZERS.items():
        folders[f"tokenizer: {name}"] = tmp_path / f"tokenizer-{name}"
        save_model(make("llama", made()), folders[f"tokenizer: {name}"])
    save_model(load_model(tiny_model(0)[0], tokenizer=tiny_tokenizer()), tmp_path / "tiny")
    folders["tiny world"] = tmp_path / "tiny"
    save_model(make("llama3", _beginning()), tmp_path / "rounded", dtype=torch.bfloat16)
    folders["rounded"] = tmp_path / "rounded"
    if any(smollm2.cache_folder().glob(f"{smollm2.ALIAS}-*")):
        save_model(load_model(smollm2.ALIAS), tmp_path / "smollm2")
        folders["smollm2-135m"] = tmp_path / "smollm2"

    asked = {"texts": TEXTS, "messages": MESSAGES, "folders": [str(folder) for folder in folders.values()]}
    process = subprocess.run(
        [python, reading.__file__], input=json.dumps(asked), capture_output=True, text=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-2000:]
    for name, folder, theirs in zip(folders, folders.values(), json.loads(process.stdout)):
        ours = reading.read(str(folder), TEXTS, MESSAGES)
        logits, expected = torch.tensor(theirs.pop("logits")), torch.tensor(ours.pop("logits"))
        assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max(), name
        assert theirs == ours, name
