"""What a source holds beside what is trained: what goes along, what never does, and what is refused in good time."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3_5Config, Qwen3_5ForConditionalGeneration

from rkld import methods
from rkld.benching.worlds.tiny import tiny_model, tiny_tokenizer
from rkld.errors import UserError
from rkld.models import source
from rkld.models.adapters import new_adapter
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.models.writing import round_in_place
from rkld.pipeline.preparing import check_trainable
from rkld.settings.unlearning import Settings
from rkld.training.rkld_trainer import load_student

TEXT = {
    "vocab_size": 1800, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
VISION = {
    "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32, "patch_size": 4,
    "num_position_embeddings": 16,
}  # fmt: skip


def plain(folder: Path, dtype: torch.dtype | None = None) -> Path:
    model, tokenizer = tiny_model(0)
    save_model(load_model(model, tokenizer=tokenizer), folder, dtype=dtype)
    return folder


@pytest.fixture(scope="module")
def seeing(tmp_path_factory) -> Path:
    """A model that reads text and sees, of which AutoModelForCausalLM loads the text half, without a word."""
    folder = tmp_path_factory.mktemp("seeing")
    Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=TEXT, vision_config=VISION)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_vision_tower_is_not_dropped_without_a_word(seeing, tmp_path):
    """Would break if hours of training left a model that cannot see any more. An adapter leaves it where it is."""
    (seeing / "preprocessor_config.json").write_text("{}")
    lm, method = load_model(seeing), methods.get_method("rkld", ())
    lost = source.left_out(lm.inner)
    stored = load_file(seeing / "model.safetensors")
    assert set(lost) == {name for name in stored if name.startswith("model.visual.")} and len(lost) > 10
    settings = {"model": str(seeing), "forget": "x"}
    with pytest.raises(
        UserError, match=rf"lack {len(lost)} of its tensors, model\.visual \({len(lost)}\).*--text-only"
    ):
        check_trainable(Settings(**settings), lm, method)
    check_trainable(Settings(**settings, text_only=True), lm, method)
    check_trainable(Settings(**settings, lora=True), lm, method)
    with pytest.raises(UserError, match="lack"):
        check_trainable(Settings(**settings, lora=True, merge=True), lm, method)
    with pytest.raises(UserError, match="as an object"):
        load_student(seeing)
    load_student(AutoModelForCausalLM.from_pretrained(seeing), lm.tokenizer)
    save_model(lm, tmp_path / "text")
    assert not (tmp_path / "text/preprocessor_config.json").exists(), "it would promise eyes"


def test_weights_of_no_use_are_seen_whether_transformers_reports_them_or_not(tmp_path):
    """Masks and the like, which older versions saved, are made anew and are no loss."""
    folder = plain(tmp_path)
    weights = load_file(folder / "model.safetensors")
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), "h.0.attn.bias": torch.ones(1)}
    save_file(weights | extra, folder / "model.safetensors", {"format": "pt"})
    assert source.left_out(load_model(folder).inner) == ()
    save_file(weights | {"mtp.head.weight": torch.ones(4)}, folder / "model.safetensors", {"format": "pt"})
    assert source.left_out(load_model(folder).inner) == ("mtp.head.weight",)


def test_licences_and_processor_files_go_along_and_nothing_else(tmp_path):
    """Would break if a licence were left behind, or if a folder could bring code, or files from elsewhere, along."""
    folder = plain(tmp_path / "source")
    (tmp_path / "secret").write_text("secret")
    go = {"LICENSE": "a", "LICENSE.txt": "b", "LICENSE-APACHE-2.0": "c", "NOTICE": "d", "USE_POLICY.md": "e",
          "processor_config.json": "{}", "preprocessor_config.json": '{"size": 1}'}  # fmt: skip
    stay = {"LICENSE.py": "x", "LICENSE-run.sh": "x", "NOTICE.so": "x", "modeling.py": "x", "licenses.txt": "x",
            "video_preprocessor_config.json": '{"auto_map": {"AutoVideoProcessor": "owner/code--x.X"}}'}  # fmt: skip
    for name, text in (go | stay).items():
        (folder / name).write_text(text)
    (folder / "LICENSE").chmod(0o755)
    (folder / "COPYING").symlink_to(tmp_path / "secret")
    (folder / "LICENSE.rst").mkdir()
    (folder / "NOTICE.txt").write_bytes(b"x" * (source.LARGEST + 1))
    os.mkfifo(folder / "LICENCE")
    (folder / "LICENSE.md").symlink_to(folder / "LICENSE.txt")
    go["LICENSE.md"] = "b"
    bare = {path.name for path in plain(tmp_path / "bare").iterdir()}

    for name, lm in {"whole": load_model(folder), "adapter": new_adapter(load_model(folder))}.items():
        save_model(lm, tmp_path / name)
        found = {path.name: path for path in (tmp_path / name).iterdir()}
        assert {n for n in found if n not in bare and "adapter" not in n} == go.keys(), name
        for file, text in go.items():
            assert found[file].read_text() == text and not found[file].is_symlink()
            assert not os.access(found[file], os.X_OK)


def test_licences_in_the_hubs_cache_are_links_and_go_along(tmp_path, monkeypatch):
    """There every file is a link into the model's blobs; one that leads further stays behind. Nothing is fetched."""
    snapshot = tmp_path / "models--owner--model/snapshots/1"
    plain(snapshot)
    blobs = tmp_path / "models--owner--model/blobs"
    blobs.mkdir()
    (blobs / "1").write_text("licence")
    (tmp_path / "secret").write_text("secret")
    (snapshot / "LICENSE").symlink_to("../../blobs/1")
    (snapshot / "NOTICE").symlink_to(tmp_path / "secret")
    asked = []
    monkeypatch.setattr(source, "snapshot_download", lambda name, **how: asked.append(how) or str(snapshot))
    lm = load_model(snapshot)
    lm.source = lm.inner.name_or_path = "owner/model"
    os.mkfifo(snapshot / "processor_config.json")  # whoever reads it waits for ever
    save_model(lm, tmp_path / "out")
    assert (tmp_path / "out/LICENSE").read_text() == "licence" and not (tmp_path / "out/NOTICE").exists()
    assert all(how == {"local_files_only": True} for how in asked) and asked


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_written_rounded_and_the_model_in_memory_stays(tmp_path, dtype):
    """Would break if what is measured in memory, rounded in place, were another model than the one on disk."""
    model, tokenizer = tiny_model(0)
    lm = load_model(model, tokenizer=tokenizer)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    save_model(lm, tmp_path / "model", dtype=dtype)
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())
    stored = load_file(tmp_path / "model/model.safetensors")
    assert {t.dtype for t in stored.values()} == {dtype} and "lm_head.weight" not in stored, "tied weights stand once"
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == str(dtype).removeprefix("torch.")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == dtype
    again = load_model(tmp_path / "model")
    assert source.source_dtype(again) == dtype and source.source_dtype(lm) is None
    round_in_place(model, dtype)
    for name, p in model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], p) and p.dtype == torch.float32


@pytest.mark.parametrize(
    "card, base",
    [
        ("base_model: owner/base", "owner/base"),
        ("base_model: [owner/base]\nbase_model_relation: finetune", "owner/base"),
        ("base_model: [one/part, other/part]", None),
        ("base_model: owner/whole\nbase_model_relation: quantized", None),
        ("base_model: owner/knows-her\ntags: [unlearning, rkld]", None),
        ("base_model: 5", None),
        ("base_model: &a [*a, *a]", None),
        ("base_model: " + "a" * 5000, None),
        ("base_model: [", None),
        (None, None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_models_card_proposes_its_base(card, base, tmp_path):
    """Would break if the model before an unlearning were proposed: it knows the person."""
    text = "# A model\nbase_model: none/of-this" if card is None else f"---\n{card}\n---\n# A model\n"
    (tmp_path / "README.md").write_text(text)
    assert source.card_base(str(tmp_path)) == base


def test_a_card_that_leads_elsewhere_is_not_read(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "elsewhere.md").write_text("---\nbase_model: owner/base\n---\n")
    (tmp_path / "model" / "README.md").symlink_to(tmp_path / "elsewhere.md")
    assert source.card_base(str(tmp_path / "model")) is None
