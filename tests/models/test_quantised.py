"""Bases of few bits, where the libraries are installed: adapters are trained on them and merged without loss."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.errors import UserError
from rkld.models.adapters import new_adapter
from rkld.models.checks import check_mergeable
from rkld.models.loading import load_model
from rkld.models.saving import merged, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    tokenizer, folder = tiny_tokenizer(), tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.1, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def quantised(folder, **how):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=BitsAndBytesConfig(**how), dtype="float32")
    return load_model(model, tokenizer=tiny_tokenizer())


def logits(model):
    ids = torch.arange(3, 19)[None]
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("how", [{"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, {"load_in_8bit": True}])
def test_an_adapter_is_merged_into_weights_that_are_whole_again(folder, tmp_path, how):
    """The merged model answers as base and adapter do together; else it is refused, as of 4 bits on some CPUs."""
    lm = new_adapter(quantised(folder, **how), rank=4)
    with torch.no_grad():
        for name, p in lm.model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.02)
    together = logits(lm.model)
    try:
        found = merged(lm)
    except UserError as error:
        assert "do not answer as both do together" in str(error) and "load_in_4bit" in how
        pytest.skip("bitsandbytes packs weights of 4 bits for this CPU, and they do not come out whole")
    assert not found.is_quantised and lm.is_quantised
    assert (logits(found.model) - together).norm() < 0.03 * together.norm()
    save_model(lm, tmp_path / "merged", merge=True)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="float32")
    torch.testing.assert_close(logits(again), logits(found.model))


def test_what_nothing_makes_whole_is_not_merged():
    """GPTQ's and the like: said before any time is spent."""
    inner = SimpleNamespace(hf_quantizer=None)
    with pytest.raises(UserError, match="leave out --merge"):
        check_mergeable(SimpleNamespace(is_quantised=True, inner=inner, source="it"))
    check_mergeable(SimpleNamespace(is_quantised=False, inner=inner, source="it"))


TORCHAO = {"quant_method": "torchao", "quant_type": "int4_weight_only"}


@pytest.mark.parametrize("how", ["folder", "object", "object's own class"])
def test_torchaos_weights_are_refused_with_the_reason(folder, tmp_path, how):
    """They led to a traceback where their bytes are read."""
    shutil.copytree(folder, tmp_path / "model")
    written = tmp_path / "model" / "config.json"
    written.write_text(json.dumps(json.loads(written.read_text()) | {"quantization_config": TORCHAO}))
    source = tmp_path / "model"
    if how != "folder":
        source = AutoModelForCausalLM.from_pretrained(folder)
        source.config.quantization_config = TORCHAO if how == "object" else SimpleNamespace(**TORCHAO)
    with pytest.raises(UserError, match=r"quantised by torchao.*Give the model that they were made from"):
        load_model(source, tokenizer=tiny_tokenizer())
