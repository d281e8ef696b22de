"""Folders of two models: what is written, what is read again, and what a folder cannot do."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from rkld.errors import UserError
from rkld.losses.divergences import composite_logits
from rkld.methods.registry import get_method
from rkld.methods.two_models import open_model, save_two_models, two_models
from tests.helpers import model

OWN = """
from dataclasses import dataclass
from rkld.methods import LogitArithmetic
open({ran!r}, "w").close()

@dataclass(frozen=True)
class Mine(LogitArithmetic):
    scale: float = 2.0
    def logits(self, original, assistant, alpha):
        return original - self.scale * assistant

class Trained(LogitArithmetic.__bases__[0]):
    pass
"""
IDS = torch.tensor([[5, 6, 7]])


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_two_models(
        model(seed=0, dtype=torch.float32), model(seed=1, dtype=torch.float32), folder,
        method="whp", method_arg=[], alpha=3.0,
    )  # fmt: skip
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """The saved models, with a pair.json that may be changed."""
    folder = tmp_path / "model"
    folder.mkdir()
    for part in ("original", "assistant"):
        (folder / part).symlink_to(saved / part)
    (folder / "pair.json").write_text((saved / "pair.json").read_text())
    return folder


def edit(folder: Path, **values: object) -> None:
    path = folder / "pair.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def own_file(folder: Path) -> str:
    path = folder / "mine.py"
    path.write_text(OWN.format(ran=str(folder / "ran")))
    return str(path)


def test_a_folder_may_be_named_from_home(folder, monkeypatch):
    """As folders of one model may."""
    monkeypatch.setenv("HOME", str(folder.parent))
    assert open_model(f"~/{folder.name}").source == open_model(folder).source


@pytest.mark.parametrize("name", ["{path}:Mine", "mine.py:Mine", "./mine.py:Mine", "../mine.py:Mine"])
def test_a_folder_runs_no_file(folder, tmp_path, monkeypatch, name):
    """A downloaded model would otherwise run any Python, whatever --trust-remote-code says."""
    path = own_file(tmp_path)
    own_file(folder)
    monkeypatch.chdir(tmp_path)
    edit(folder, method=name.format(path=path))
    with pytest.raises(UserError, match=r"no file is run because a folder names it.*--method-file FILE.py:Mine"):
        open_model(folder)
    assert not (tmp_path / "ran").exists()
    assert not (folder / "ran").exists()


def test_a_file_in_a_folder_is_not_taken_for_the_registered_method_of_its_name(folder):
    """Version 0.1 wrote the user's "FILE.py:NAME": by another method of that name the model would be another model."""
    edit(folder, method="mine.py:whp")
    with pytest.raises(UserError, match=r"--method-file FILE\.py:whp"):
        open_model(folder)


@pytest.mark.parametrize("name", ["Mine", "gone.py:Mine"], ids=["now", "as version 0.1 wrote it"])
def test_the_users_own_file_is_run_where_the_user_names_it(folder, tmp_path, name):
    edit(folder, method=name, method_arg=["scale=0.5"])
    both = open_model(folder, method_files=(f"{own_file(tmp_path)}:Mine",))
    original, assistant = (model(seed=seed, dtype=torch.float32).model(input_ids=IDS).logits for seed in (0, 1))
    torch.testing.assert_close(both.model(input_ids=IDS).logits, original - 0.5 * assistant, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("spec", "message"), [
    ("mine.py", "write it as FILE.py:NAME"),
    ("gone.py:Mine", "there is no file"),
    ("{path}:Nothing", "defines no Nothing"),
])  # fmt: skip
def test_a_wrong_method_file_is_said(folder, tmp_path, spec, message):
    with pytest.raises(UserError, match=message):
        open_model(folder, method_files=(spec.format(path=own_file(tmp_path)),))


def test_of_an_own_method_the_name_is_written_and_never_the_path(saved, tmp_path):
    lm = open_model(saved / "original")
    save_two_models(lm, lm, tmp_path / "new", method=f"{own_file(tmp_path)}:Mine", method_arg=["scale=3"], alpha=1.0)
    text = (tmp_path / "new" / "pair.json").read_text()
    assert json.loads(text)["method"] == "Mine"
    assert "--method-file FILE.py:Mine" in json.loads(text)["note"]
    assert str(tmp_path) not in text


JSON_VALUES = [None, True, 0, -1, 1.5, "", "text", "../x", [], ["x"], [0], [None], {}, {"x": "y"}]


def test_a_broken_folder_is_one_sentence(folder):
    """Every type of JSON in every place; hyper-parameters that are no finite numbers, or grow without bound."""
    whole = json.loads((folder / "pair.json").read_text())
    cases: list[object] = [*JSON_VALUES, *({k: v for k, v in whole.items() if k != key} for key in whole)]
    cases += [whole | {"method": value} for value in [*JSON_VALUES, "rkld", "npo", "two_models", "x" * 10_000]]
    cases += [whole | {"method_arg": value} for value in JSON_VALUES if value != []]
    cases += [whole | {"alpha": value} for value in JSON_VALUES if value not in (0, 1.5) or value is False]
    cases += [whole | {"alpha": float(value)} for value in ("inf", "-inf", "nan", "1e7")]
    for value in (
        ".inf",
        ".nan",
        "1e999",
        "[1]",
        "{a: 1}",
        "&a [1]",
        "!!python/name:os.system",
        "2024-13-45",
        "x" * 300,
    ):
        cases.append(whole | {"method": "uld", "method_arg": [f"offset={value}"]})
    cases.append(whole | {"method": "uld", "method_arg": ["offset=1"] * 1000})
    texts = [json.dumps(case) for case in cases] + ["", "{", "[" * 100_000, '{"alpha": 1e999}']
    for text in texts:
        (folder / "pair.json").write_text(text)
        with pytest.raises(UserError) as caught:
            open_model(folder)
        assert len(str(caught.value)) < 1000 + len(str(folder)), text[:200]


def test_a_pipe_in_its_place_is_not_waited_for(folder):
    """The folder may come from anybody: who reads a pipe waits for ever."""
    (folder / "pair.json").unlink()
    os.mkfifo(folder / "pair.json")
    with pytest.raises(UserError, match="no regular file"):
        open_model(folder)


def test_models_of_two_vocabularies_are_refused(folder, tmp_path):
    other = model(seed=2, dtype=torch.float32)
    other.model.resize_token_embeddings(len(other.tokenizer) + 8)
    other.model.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    (folder / "assistant").unlink()
    (folder / "assistant").symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match="rows of logits"):
        open_model(folder)


@pytest.mark.parametrize("alpha", [4.0, 32.0])
@torch.no_grad()
def test_alpha_does_not_multiply_rounding(alpha):
    """bfloat16 logits, subtracted and multiplied by α, would be the formula's only in their first digit."""
    original, assistant = model(seed=0), model(seed=0)
    with torch.no_grad():
        for p in assistant.model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    for lm in (original, assistant):
        lm.model.to(torch.bfloat16)
    both = two_models(original, assistant, get_method("whp"), alpha)
    hidden = both.backbone(input_ids=IDS).last_hidden_state
    found = both.head(hidden)
    parts = hidden.double().split(16, dim=-1)
    exact = composite_logits(*(p @ lm.head.weight.double().T for p, lm in zip(parts, (original, assistant))), alpha)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-4)


def test_a_missing_half_is_not_asked_for_on_the_hub(tmp_path, monkeypatch):
    """By a relative path it would be the name of a repository of anybody's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pair").mkdir()
    (tmp_path / "pair" / "pair.json").write_text('{"method": "uld", "method_arg": [], "alpha": 1}')
    with pytest.raises(UserError, match=r"there is no folder .*pair/original"):
        open_model("pair")
