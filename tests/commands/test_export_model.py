"""A GGUF file is written by an installed converter, of whole models; without one a sentence says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from rkld.cli import main
from rkld.models.adapters import new_adapter
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from tests.helpers import TOKENIZER, model

CONVERTER = """
import json, sys
from pathlib import Path
folder, out = Path(sys.argv[1]), Path(sys.argv[sys.argv.index("--outfile") + 1])
if "q8_0" in sys.argv:
    sys.exit("no such type")
out.write_text(json.dumps(sorted(path.name for path in folder.iterdir())))
"""


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(LanguageModel(model(dtype=torch.float32).model, TOKENIZER, "tiny"), tmp_path / "model")
    return tmp_path / "model"


def run(*arguments: object) -> object:
    return CliRunner().invoke(main, ["export", "--gguf", *map(str, arguments)])


@pytest.mark.parametrize(("there", "said"), [(False, "is no folder"), (True, "holds no convert_hf_to_gguf.py")])
def test_a_wrong_folder_of_llama_cpp_is_called_wrong(saved, monkeypatch, tmp_path, there, said):
    """It was said that none is installed."""
    wrong = tmp_path if there else tmp_path / "nonexist"
    monkeypatch.setenv("LLAMA_CPP", str(wrong))
    found = run(saved)
    assert found.exit_code == 2 and f"LLAMA_CPP names {wrong}, which {said}" in found.stderr


def test_without_a_converter_a_sentence_says_what_to_install(saved, monkeypatch):
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", "")
    found = run(saved)
    assert found.exit_code == 2
    assert "convert_hf_to_gguf.py" in found.stderr and "LLAMA_CPP" in found.stderr
    assert run(saved, "--converter", saved / "none.py").exit_code == 2


def test_whole_models_are_converted_adapters_merged(saved, tmp_path, monkeypatch):
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "convert_hf_to_gguf.py").write_text(CONVERTER)
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path / "llama"))
    done = run(saved)
    assert done.exit_code == 0, done.stderr
    assert "model.safetensors" in json.loads((tmp_path / "model.gguf").read_text())
    assert "is there already" in run(saved).stderr

    save_model(new_adapter(load_model(saved), rank=2), tmp_path / "adapter")
    assert run(tmp_path / "adapter", "--out", tmp_path / "merged.gguf").exit_code == 0
    converted = json.loads((tmp_path / "merged.gguf").read_text())
    assert "model.safetensors" in converted and "adapter_config.json" not in converted

    failed = run(saved, "--outtype", "q8_0", "--out", tmp_path / "other.gguf")
    assert failed.exit_code == 2 and "no such type" in failed.stderr
    assert not list(tmp_path.glob("*other.gguf*"))
