"""Model folders from anybody: each loads right or ends in a sentence; nothing is run, or read or written elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from rkld.errors import UserError
from rkld.models import folders
from rkld.models.loading import load_model
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from tests.models.test_models import edit_json, logits, make_adapter_folder, make_folder

CANARY = "outside"
"""In the name of all that must not be read."""

_watched: list[str] | None = None


def _hook(event: str, arguments: tuple) -> None:
    if _watched is None:
        return
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec"):
        _watched.append(f"{event} {arguments[1:]}")
    elif event in ("open", "os.listdir", "import", "exec") and CANARY in str(arguments[0]):
        _watched.append(f"{event} {arguments[0]}")


sys.addaudithook(_hook)


@pytest.fixture
def watched():
    """What was opened outside, imported from there, or asked of the network or of another program, since the start."""
    global _watched
    _watched = []
    yield _watched
    _watched = None


def rewrite(folder: Path, **tensors) -> None:
    """Other weights in the place of those that are there; None takes one out."""
    weights = {**load_file(folder / "model.safetensors"), **tensors}
    save_file({k: v for k, v in weights.items() if v is not None}, folder / "model.safetensors", {"format": "pt"})


def move_out(name):
    """The file lies outside, and a link to it in its place."""

    def spoil(folder: Path) -> None:
        (folder / name).rename(folder.parent / f"{CANARY}-{name}")
        (folder / name).symlink_to(folder.parent / f"{CANARY}-{name}")

    return spoil


def shards(*names):
    def spoil(folder: Path) -> None:
        save_file({"a": torch.ones(1)}, folder.parent / f"{CANARY}.safetensors")
        where = {f"w{i}": name.format(parent=folder.parent) for i, name in enumerate(names)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
        (folder / "model.safetensors").unlink()

    return spoil


def pointer(name):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    return lambda folder: (folder / name).write_text(text)


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def config(**values):
    return lambda folder: edit_json(folder / "config.json", **values)


def tokenizer_config(**values):
    return lambda folder: edit_json(folder / "tokenizer_config.json", **values)


def code_beside(folder: Path) -> None:
    (folder / f"{CANARY}.py").write_text("raise SystemExit('run')")
    edit_json(folder / "config.json", text_config={"auto_map": {"AutoModel": f"{CANARY}.Model"}})


def panicking(folder: Path) -> None:
    """The tokenizers library panics in Rust, which is no Exception in Python."""
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    backend = json.loads(tokenizer.to_str())
    backend["model"]["continuing_subword_prefix"] = "a" * 100_000
    (folder / "tokenizer.json").write_text(json.dumps(backend))


def template_of_a_number(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    edit_json(folder / "tokenizer_config.json", chat_template=5)


def sparse(name, size):
    def spoil(folder: Path) -> None:
        with open(folder / name, "wb") as file:
            file.truncate(size)

    return spoil


def instead(name, make):
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return spoil


def cut(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])


HUGE = 10**12
HEADER = (2**60).to_bytes(8, "little")
NAME = "model.layers.0.mlp.up_proj.weight"

FOLDERS = {
    # code
    "code of its own": (config(auto_map={"AutoModelForCausalLM": "outside.Model"}), "--trust-remote-code"),
    "code deeper in the config": (code_beside, "--trust-remote-code"),
    "code of the tokenizer": (tokenizer_config(auto_map={"AutoTokenizer": ["outside.T", None]}), "--trust-remote-code"),
    "code of the tokenizer as a list": (tokenizer_config(auto_map=["outside.T", None]), "--trust-remote-code"),
    "kernel from a hub": (config(attn_implementation="owner/kernel"), "owner/kernel.*--trust-remote-code"),
    "kernel of the experts": (config(experts_implementation="owner/kernel:f"), "owner/kernel:f.*--trust"),
    "kernel in place of a package": (config(_attn_implementation="flash_attention_2"), "flash_attention_2.*--trust"),
    "another config in its place": (config(configuration_files=["config.4.0.0.json"]), "configuration_files"),
    "kernel's name with a terminal's escapes": (config(attn_implementation="a/\x1b[31mb\n"), "'a/b'"),
    # paths
    "shard above": (shards("../outside.safetensors"), "no safetensors beside it"),
    "shard anywhere": (shards("{parent}/outside.safetensors"), "no safetensors beside it"),
    "shard that is a pickle": (shards("pytorch_model.bin"), "no safetensors beside it"),
    "shard that is no name": (shards("a\x00.safetensors"), "no safetensors beside it"),
    "shards that are not there": (shards("model-1.safetensors", "model-2.safetensors"), "2 of 2 files"),
    "config elsewhere": (move_out("config.json"), "config.json is a link to a file outside"),
    "template elsewhere": (move_out("chat_template.jinja"), "chat_template.jinja is a link"),
    "tokenizer elsewhere": (move_out("tokenizer.json"), "tokenizer.json is a link"),
    "weights elsewhere": (move_out("model.safetensors"), None),  # to save disk space: only numbers are read
    "vocabulary elsewhere": (tokenizer_config(tokenizer_file="/outside/tokenizer.json", vocab_file="/outside/v"), None),
    "link to nowhere": (instead("model.safetensors", lambda p: p.symlink_to("nowhere")), "leads nowhere"),
    "link in a circle": (instead("tokenizer.json", lambda p: p.symlink_to(p.name)), "leads nowhere"),
    # what is no such file
    "endless device": (instead("tokenizer.json", lambda p: p.symlink_to("/dev/zero")), "no regular file"),
    "pipe": (instead("config.json", os.mkfifo), "no regular file"),
    "folder in a file's place": (instead("config.json", os.mkdir), "no regular file"),
    "Git LFS pointer to weights": (pointer("model.safetensors"), "Git LFS.*git lfs pull"),
    "Git LFS pointer to the tokenizer": (pointer("tokenizer.json"), "tokenizer.json is a pointer of Git LFS"),
    "Git LFS pointer to the config": (pointer("config.json"), "config.json is a pointer of Git LFS"),
    "config of a terabyte": (sparse("config.json", HUGE), "1000000000000 bytes"),
    "weights of nothing": (sparse("model.safetensors", HUGE), "cut short or damaged"),
    "weights cut short": (cut, "cut short or damaged"),
    "header of an exabyte": (lambda f: (f / "model.safetensors").write_bytes(HEADER), "cut short or damaged"),
    "weights of another kind": (write("model.safetensors", "PK\x03\x04" * 99), "cut short or damaged"),
    "ZeRO-3 weights": (lambda f: rewrite(f, **{NAME: torch.zeros(0)}), "are empty.*zero_to_fp32"),
    "resized weights": (lambda f: rewrite(f, **{NAME: torch.ones(3, 3)}), r"other shapes.*\(3, 3\) in the file"),
    "a layer taken out": (lambda f: rewrite(f, **{NAME: None}), "1 of its weights are missing"),
    "weights of infinity": (lambda f: rewrite(f, **{NAME: torch.full((24, 16), torch.inf)}), "damaged"),
    # numbers
    "no layers": (config(num_hidden_layers=-1), "num_hidden_layers: -1"),
    "endless layers": (config(num_hidden_layers=HUGE), "num_hidden_layers: 1000000000000.*20 tensors"),
    "more layers than tensors": (config(num_hidden_layers=2000), "num_hidden_layers: 2000"),
    "endless experts": (config(num_local_experts=HUGE), "num_local_experts"),
    "no heads": (config(num_attention_heads=0), "cannot be loaded"),
    "endless heads": (config(num_attention_heads=HUGE), "num_attention_heads"),
    "giant width": (config(hidden_size=HUGE), "describes a model of"),
    "giant vocabulary": (config(vocab_size=10**10), "describes a model of"),
    "negative width": (config(hidden_size=-16), "cannot be loaded"),
    "negative context": (config(max_position_embeddings=-1), "reads -1 tokens"),
    "giant context": (config(max_position_embeddings=HUGE), None),
    "layers as a text": (config(num_hidden_layers="2"), "cannot be loaded.*expected int"),
    "padding beyond the vocabulary": (config(pad_token_id=HUGE), "cannot be loaded"),
    "type that is a number": (config(model_type=5), "cannot be loaded"),
    "quantised by nobody": (config(quantization_config={"quant_method": "nonesuch"}), None),
    "quantised by somebody": (config(quantization_config={"quant_method": "gptq", "bits": 4}), "cannot be loaded"),
    "number of many digits": (write("config.json", '{"vocab_size": ' + "9" * 5000 + "}"), "not valid JSON"),
    # other files
    "config too deep": (write("config.json", '{"a":' * 100_000), "not valid JSON"),
    "tokenizer's config too deep": (write("tokenizer_config.json", '{"a":' * 100_000), "not valid JSON"),
    "config in another encoding": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe{"), "not valid JSON"),
    "tokenizer of nonsense": (write("tokenizer.json", '{"model": {"type": "nonesuch"}}'), "tokenizer .*cannot be"),
    "tokenizer too deep": (write("tokenizer.json", "[" * 100_000), "tokenizer .*cannot be loaded"),
    "tokenizer with a panic": (panicking, "tokenizer .*cannot be loaded"),
    "tokenizer of no length": (tokenizer_config(model_max_length={"a": 1}), "tokenizer .*cannot be loaded"),
    "template of a number": (template_of_a_number, "no text"),
    "template without end": (
        write("chat_template.jinja", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        "chat template cannot be used.*steps",
    ),
    "template that is none": (write("chat_template.jinja", "{% if %}"), "^The chat template cannot be used: Expected"),
    "rope of no kind": (
        lambda folder: edit_json(folder / "config.json", rope_scaling={"rope_type": "zz", "factor": 2.0}),
        "cannot be loaded: there is no 'zz'",
    ),
    "template that includes": (write("chat_template.jinja", "{% include '../outside' %}"), "template cannot be used"),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("good") / "model")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}\n{% endfor %}")
    return folder


@pytest.mark.parametrize("name", FOLDERS)
def test_a_hostile_folder_loads_right_or_ends_in_a_sentence(name, good, tmp_path, watched):
    """Would break if one of these were run, followed, waited for, or came out as a traceback."""
    spoil, message = FOLDERS[name]
    shutil.copytree(good, tmp_path / "model", symlinks=True)
    expected = logits(load_model(good).model)
    spoil(tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    watched.clear()

    def use():
        lm = load_model(tmp_path / "model", device="cpu")
        Encoder(lm.tokenizer).encode(read_records([{"question": "w3", "answer": "w4"}], "forget")[0])
        return lm

    if message is None:
        assert torch.equal(logits(use().model), expected)
    else:
        with pytest.raises(UserError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
    assert watched == []
    assert sorted(tmp_path.rglob("*")) == before


def test_links_into_the_hubs_cache_are_followed(good, tmp_path, monkeypatch):
    """Would break if models of the hub's cache, all of whose files are links, were refused, by name or by path."""
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(good.iterdir())):
        shutil.copy(file, blobs / str(i))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(i))
    monkeypatch.setattr("rkld.models.loading.snapshot_download", lambda name, **patterns: str(snapshot))
    expected = logits(load_model(good).model)
    for name in ("a/b", str(snapshot)):
        assert torch.equal(logits(load_model(name).model), expected)


def test_permissions_are_said(good, tmp_path, monkeypatch):
    """Would break if a file of somebody else's came out as a traceback."""

    def refuse(path, *arguments, **keywords):
        if str(path).endswith("tokenizer.json"):
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, *arguments, **keywords)

    monkeypatch.setattr(folders, "open", refuse, raising=False)  # root may read everything
    with pytest.raises(UserError, match=r"tokenizer.json cannot be read \(Permission denied\)"):
        load_model(good)


# ---------------------------------------------------------------------------------------------------- adapters


def adapter_config(**values):
    return lambda folder: edit_json(folder / "adapter_config.json", **values)


def empty_adapter(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    weights[min(weights)] = torch.zeros(0)
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})


def retrained_head(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    weights["base_model.model.lm_head.weight"] = torch.ones(48, 16)
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    edit_json(folder / "adapter_config.json", modules_to_save=["lm_head"])


ADAPTERS = {
    "base gone": (adapter_config(base_model_name_or_path="/gone/base"), "base model at '/gone/base'.*--base"),
    "base that is a number": (adapter_config(base_model_name_or_path=5), "no text as 'base_model_name_or_path'"),
    "base of a name too long": (adapter_config(base_model_name_or_path="/" + "a" * 5000), "--base"),
    "base of nobody": (adapter_config(base_model_name_or_path="~nobody-at-all/base"), "--base"),
    "base of a name with a zero": (adapter_config(base_model_name_or_path="/a\x00b"), "--base"),
    "imports a module": (adapter_config(megatron_config={"a": 1}, megatron_core="outside"), "megatron_config"),
    "reads a file elsewhere": (adapter_config(corda_config={"cache_file": "/outside"}), "cache_file"),
    "prompts": (
        adapter_config(
            peft_type="PROMPT_TUNING", num_virtual_tokens=2, prompt_tuning_init="TEXT",
            tokenizer_name_or_path="/outside", tokenizer_kwargs={"trust_remote_code": True},
        ),
        "tokenizer_name_or_path",
    ),
    "learned vectors": (adapter_config(peft_type="PREFIX_TUNING", num_virtual_tokens=2), "before the text"),
    "adapters elsewhere": (adapter_config(peft_type="XLORA", adapters={"0": "/outside"}), "'adapters'"),
    "of no type": (adapter_config(peft_type="NONESUCH"), "adapter_config.json cannot be read"),
    "type that is a list": (adapter_config(peft_type=["LORA"]), "no text as 'peft_type'"),
    "endless rank": (adapter_config(r=10**9), "r: 1000000000"),
    "endless rank of some": (adapter_config(rank_pattern={"q_proj": 10**9}), "q_proj: 1000000000"),
    "negative rank": (adapter_config(r=-1), "cannot be put on its base"),
    "empty": (empty_adapter, "are empty"),
    "Git LFS pointer": (pointer("adapter_model.safetensors"), "git lfs pull"),
    "config too deep": (write("adapter_config.json", '{"a":' * 100_000), "not valid JSON"),
    "retrained head": (retrained_head, "changes the model's head"),
}  # fmt: skip


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_hostile_adapter_ends_in_a_sentence(name, tmp_path, watched):
    """Would break if PEFT read files, or imported modules, that an adapter names."""
    spoil, message = ADAPTERS[name]
    folder = make_adapter_folder(tmp_path, "llama-untied")
    spoil(folder)
    watched.clear()
    with pytest.raises(UserError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert watched == []
