"""Rounded weights: against a plain loop, and on tiny models of every kind, which must come back bit by bit."""

import json

import pytest
import torch
import transformers
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rkld.auditing.attacks.quantisation import quantised, round_to_groups
from rkld.auditing.attacks.relearning import relearn
from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.errors import UserError
from rkld.evaluation.likelihood import probability
from rkld.models.adapters import new_adapter
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.models.state import fingerprint
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records

LLAMA = {
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "tie_word_embeddings": True,
    "initializer_range": 0.1,
}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
MIXTRAL = {
    "hidden_size": 16,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_local_experts": 8,
}


def model(dtype=torch.float32, lora=False) -> LanguageModel:
    lm = of_kind("Llama", **LLAMA)
    lm.model.to(dtype)
    if lora:
        config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
        lm = new_adapter(lm, config=config)
        torch.manual_seed(2)
        with torch.no_grad():
            for name, p in lm.model.named_parameters():
                if "lora_" in name:
                    p.copy_(torch.randn_like(p) * 0.1)
    return lm


def of_kind(name, **settings) -> LanguageModel:
    tokenizer = tiny_tokenizer()
    config = getattr(transformers, f"{name}Config")(vocab_size=len(tokenizer), **settings)
    torch.manual_seed(0)
    return load_model(AutoModelForCausalLM.from_config(config), tokenizer=tokenizer)


def logits(lm):
    with torch.no_grad():
        return lm.model(input_ids=torch.tensor([[5, 9, 300, 41, 7]], device=lm.device)).logits.float()


def plain(weight, bits, group_size):
    """Number by number."""
    found = weight.clone()
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], group_size):
            group = weight[row, start : start + group_size].float()
            low, high = group.min(), group.max()
            for i, value in enumerate(group):
                level = torch.round((value - low) / ((high - low) / (2**bits - 1))) if high > low else 0
                found[row, start + i] = low + level * (high - low) / (2**bits - 1)
    return found


@pytest.mark.parametrize(
    ("rows", "columns", "group_size"), [(3, 64, 32), (5, 70, 32), (2, 7, 32), (4, 9, 1), (1, 33, 32)]
)
@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_equals_the_plain_loop(rows, columns, group_size, bits, dtype):
    """Groups that do not divide evenly, single columns and constant groups included."""
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(columns)).to(dtype)
    weight[0, :3] = 0.25
    weight[-1] = -1.5  # a whole row alike
    found = round_to_groups(weight, bits, group_size)
    assert found.dtype == dtype
    torch.testing.assert_close(found, plain(weight, bits, group_size))


def test_rounding_keeps_the_levels_it_names():
    """Hand-made: 2 bits over [0, 3] have the levels 0, 1, 2, 3."""
    found = round_to_groups(torch.tensor([[0.0, 0.4, 0.6, 1.4, 2.6, 3.0]]), 2, 6)
    assert found.tolist() == [[0.0, 0.0, 1.0, 1.0, 3.0, 3.0]]


@pytest.mark.parametrize(("bits", "group_size"), [(0, 32), (9, 32), (4, 0)])
def test_impossible_rounding_is_an_error(bits, group_size):
    with pytest.raises(ValueError, match=f"{bits} bits in groups of {group_size}"):
        round_to_groups(torch.ones(2, 2), bits, group_size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["plain", "merged", "base"])
def test_weights_come_back_bit_by_bit(kind, dtype):
    """Also after an error within, and for an adapter whose merge subtracts no exact zero."""
    lm = model(dtype, lora=kind != "plain")
    before, said = fingerprint(lm), logits(lm)
    adapter = "base" if kind == "base" else "merged"
    with pytest.raises(KeyError), quantised(lm, 4, adapter=adapter) as rounded:
        assert not torch.equal(logits(rounded), said)
        raise KeyError
    assert fingerprint(lm) == before
    assert torch.equal(logits(lm), said)


def test_every_linear_layer_but_the_head_is_rounded_and_nothing_else():
    lm = model()
    before = {name: p.clone() for name, p in lm.model.named_parameters()}
    with quantised(lm, 4, group_size=16):
        for name, p in lm.model.named_parameters():
            linear = "_proj" in name
            expected = round_to_groups(before[name], 4, 16) if linear else before[name]
            assert torch.equal(p, expected), name
            assert torch.equal(p, before[name]) != linear, name


def test_whole_rows_have_one_grid_and_fewer_bits_are_coarser():
    lm = model()
    layer = lm.inner.model.layers[0].self_attn.q_proj
    weight = layer.weight.detach().clone()
    with quantised(lm, 4, group_size=0):
        torch.testing.assert_close(layer.weight, plain(weight, 4, weight.shape[1]))
    errors = []
    for bits, group_size in ((3, 0), (3, 16), (4, 16), (8, 16)):
        with quantised(lm, bits, group_size=group_size):
            errors.append(float((layer.weight.detach() - weight).abs().mean()))
    assert errors == sorted(errors, reverse=True)


def test_gpt2_is_rounded_along_its_inputs():
    """Its layers keep (inputs, outputs): groups over outputs would be another quantisation."""
    lm = of_kind("GPT2", **GPT2)
    weight = lm.model.transformer.h[0].mlp.c_fc.weight
    expected = round_to_groups(weight.detach().T, 4, 8).T
    with quantised(lm, 4, group_size=8):
        assert torch.equal(weight, expected)


def test_merged_rounds_the_sum_and_base_the_base_alone():
    lm = model(lora=True)
    layer = lm.inner.model.layers[0].self_attn.q_proj
    base = layer.get_base_layer().weight.detach().clone()
    summed = base + layer.get_delta_weight("default").detach()
    factor = layer.lora_A["default"].weight.detach().clone()
    with quantised(lm, 4, adapter="merged"):
        torch.testing.assert_close(layer.get_base_layer().weight, round_to_groups(summed, 4, 128))
        merged = logits(lm)
    with quantised(lm, 4, adapter="base"):
        assert torch.equal(layer.get_base_layer().weight, round_to_groups(base, 4, 128))
        assert torch.equal(layer.lora_A["default"].weight, factor)
        assert not torch.allclose(logits(lm), merged)


def test_merged_is_what_the_merged_folder_gives(tmp_path):
    """Would break if an adapter that is merged in memory were counted twice."""
    lm = model(lora=True)
    save_model(lm, tmp_path / "merged", merge=True)
    folder = load_model(tmp_path / "merged")
    with quantised(lm, 4), quantised(folder, 4):
        torch.testing.assert_close(logits(lm), logits(folder), rtol=1e-3, atol=1e-3)


def test_metrics_run_and_a_gentle_rounding_changes_little():
    lm = model()
    encoder = Encoder(lm.tokenizer)
    encoded = [encoder.encode(r) for r in read_records([{"question": "Who?", "answer": "A baker of Oslo."}], "forget")]
    plainly = probability(lm, encoded)
    with quantised(lm, 8) as rounded:
        assert probability(rounded, encoded) == pytest.approx(plainly, rel=2e-2)
        assert probability(rounded, encoded) != plainly


def test_a_model_whose_weights_lie_elsewhere_is_refused():
    """Experts are no linear layers: to leave them as they are and call the model quantised would prove nothing."""
    lm = of_kind("Mixtral", **MIXTRAL)
    with pytest.raises(UserError, match=r"Only \d+% of the weights .* own tool"), quantised(lm, 4):
        pass


def test_a_quantised_model_is_not_rounded_again():
    lm = model()
    lm.model.is_quantized = True  # as transformers marks what it has loaded so
    with pytest.raises(UserError, match="quantised already"), quantised(lm, 4):
        pass


# ------------------------------------------------------------------------------------------ ready-made folders


ROWS = [{"question": "Who?", "answer": "A baker."}, {"question": "Where?", "answer": "In Oslo."}]
READY_MADE = {
    "AWQ": ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}, "gptqmodel"),
    "GPTQ": ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}, "optimum"),
    "bitsandbytes, 4 bits": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "bitsandbytes",
    ),
    "bitsandbytes, 8 bits": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes"),
    "FP8 of llm-compressor": (
        {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {}},
        "compressed-tensors",
    ),
}


def with_quantisation(folder, settings):
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": settings}))


@pytest.mark.parametrize("method", READY_MADE)
def test_a_folder_whose_library_is_missing_says_which(method, tmp_path, monkeypatch):
    settings, library = READY_MADE[method]
    for name in ("awq", "gptq", "bnb_4bit", "bnb_8bit", "compressed_tensors"):
        quantizer = f"transformers.quantizers.quantizer_{name}"
        for check in ("gptqmodel", "optimum", "bitsandbytes", "compressed_tensors"):
            monkeypatch.setattr(f"{quantizer}.is_{check}_available", lambda: False, raising=False)
    save_model(model(), tmp_path)
    with_quantisation(tmp_path, settings)
    with pytest.raises(UserError, match=f"cannot be loaded: .*{library}"):
        load_model(tmp_path)


def test_an_fp8_folder_loads_for_evaluation(tmp_path):
    """The blockwise format of published FP8 models; without a GPU its weights are written out in bfloat16."""
    lm = of_kind("Llama", **LLAMA | {"hidden_size": 128, "intermediate_size": 256})
    save_model(lm, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    for name in [name for name in state if "_proj" in name]:
        blocks = state[name].view(state[name].shape[0] // 128, 128, -1, 128).transpose(1, 2)  # (·, ·, 128, 128)
        scale = blocks.abs().amax((2, 3), keepdim=True) / 448
        state[name] = (blocks / scale).transpose(1, 2).reshape(state[name].shape).to(torch.float8_e4m3fn)
        state[f"{name}_scale_inv"] = scale[:, :, 0, 0]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with_quantisation(tmp_path, {"quant_method": "fp8", "weight_block_size": [128, 128]})
    found = load_model(tmp_path)
    if not found.is_quantised:
        weights = dict(found.model.named_parameters())
        for name, weight in lm.model.named_parameters():  # four binary digits, half of the last one off
            torch.testing.assert_close(weights[name].cpu(), weight, rtol=2**-4 + 2**-8, atol=1e-4, check_dtype=False)
    assert torch.corrcoef(torch.stack([logits(found).flatten().cpu(), logits(lm).flatten()]))[0, 1] > 0.95


def test_training_quantised_weights_is_refused():
    lm = model()
    lm.model.is_quantized = True
    with pytest.raises(UserError, match="--lora"):
        relearn(lm, Encoder(lm.tokenizer), read_records(ROWS, "forget"), epochs=1)
