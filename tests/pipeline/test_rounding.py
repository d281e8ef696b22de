"""In which dtype the unlearned model is written, and what is said of it."""

import json

import pytest
import torch
from safetensors.torch import load_file

import rkld
from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.pipeline import phases
from rkld.pipeline.rounding import HELD, saved_dtype
from rkld.progress import NoProgress
from rkld.runfolder.checksums import weights_hash

FORGET = people(n=2, seed=0).forget([0])[:3]
QUICK = {"epochs": 1, "strengthen_epochs": 1, "lr": 1e-4, "max_new_tokens": 2, "batch_size": 3, "bf16": False,
         "stop": "last", "replay": "none", "reword": 0, "keep_files": True}  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """As models are published: in bfloat16, with a licence."""
    folder, (model, tokenizer) = tmp_path_factory.mktemp("original") / "model", tiny_model(0)
    save_model(load_model(model, tokenizer=tokenizer), folder, dtype=torch.bfloat16)
    (folder / "LICENSE").write_text("licence")
    return folder


def dtypes(folder):
    return {t.dtype for file in folder.rglob("*model.safetensors") for t in load_file(file).values()}


def noted(result):
    return json.loads((result.run / "manifest.json").read_text())["phases"]["model"]


@pytest.mark.parametrize("how", [{}, {"lora": True, "merge": True}, {"method": "whp"}], ids=["whole", "merged", "two"])
def test_a_model_is_written_as_its_source_was_where_that_moves_nothing(original, tmp_path, how):
    """Would break if a model came back twice as large, without its licence, or told not to use its cache."""
    result = rkld.unlearn(original, FORGET, out=str(tmp_path / "run"), **QUICK, **how)
    assert dtypes(result.model_path) == {torch.bfloat16}
    note = noted(result)
    assert note["saved_dtype"] == "bfloat16" and note["weights"] == weights_hash(result.model_path)
    assert 0 < max(map(abs, note["rounding"].values())) <= HELD
    for config in result.model_path.rglob("config.json"):
        found = json.loads(config.read_text())
        assert found["use_cache"] is True and found["torch_dtype"] == "bfloat16"
        assert (config.parent / "LICENSE").read_text() == "licence"


def test_a_model_that_rounding_changes_is_written_as_it_was_trained(original, tmp_path, monkeypatch):
    """Rounding can bring back what was unlearned. What is written must be the trained weights, to the last bit."""
    monkeypatch.setattr(phases, "HELD", 0.0)
    said, progress = [], NoProgress()
    monkeypatch.setattr(progress, "say", said.append)
    result = rkld.unlearn(original, FORGET, out=str(tmp_path / "run"), progress=progress, **QUICK)
    assert dtypes(result.model_path) == {torch.float32} and noted(result)["saved_dtype"] == "float32"
    trained, stored = load_file(result.run / phases.STUDENT), load_file(result.model_path / "model.safetensors")
    assert all(torch.equal(trained[name], tensor) for name, tensor in stored.items())
    assert any("written in float32: rounded to bfloat16" in line for line in said), said


def test_another_dtype_is_written_where_it_is_asked_for_and_what_it_moves_is_said(original, tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "HELD", 0.0)
    result = rkld.unlearn(original, FORGET, out=str(tmp_path / "a"), save_dtype="float16", **QUICK)
    assert dtypes(result.model_path) == {torch.float16}
    assert any("As --save-dtype asks" in line for line in result.warnings)
    result = rkld.unlearn(original, FORGET, out=str(tmp_path / "b"), save_dtype="bfloat16", lora=True, **QUICK)
    assert dtypes(result.model_path) == {torch.bfloat16}


def test_the_dtype_is_never_widened_unasked():
    half, whole = torch.bfloat16, torch.float32
    assert saved_dtype("auto", half, whole) == half and saved_dtype("auto", whole, half) == half
    assert saved_dtype("auto", None, whole) == whole and saved_dtype("float32", half, half) == whole
