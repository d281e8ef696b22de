"""A method from outside the package, by each of the three ways, trains through the objective."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rkld.errors import UserError
from rkld.losses.divergences import to_uniform
from rkld.methods.method import Method
from rkld.methods.registry import METHODS, get_method
from rkld.registry import Registry
from rkld.teacher.cache import HiddenCache
from rkld.teacher.logits import Teacher
from rkld.training.terms import build_objective
from rkld.training.trainer import ObjectiveTrainer, fit
from tests.helpers import config, model, records

FILE = """
from dataclasses import dataclass
from rkld.losses.divergences import to_uniform
from rkld.methods import Method

@dataclass(frozen=True)
class Mine(Method):
    weight: float = 0.5
    def loss(self, teacher):
        return lambda logits, inputs, spare: to_uniform(logits, spare[0])
"""


@pytest.fixture
def registry(monkeypatch) -> Registry:
    """The real one, which forgets afterwards what a test registered."""
    METHODS.names()
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    return METHODS


def by_decorator(registry, folder, monkeypatch) -> str:
    @registry.register("mine")
    @dataclass(frozen=True)
    class Mine(Method):
        weight: float = 0.5

        def loss(self, teacher):
            return lambda logits, inputs, spare: to_uniform(logits, spare[0])

    return "mine"


def by_entry_point(registry, folder, monkeypatch) -> str:
    info = folder / "more-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: more\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rkld.methods]\nmine = outside_methods:Mine\n")
    (folder / "outside_methods.py").write_text(FILE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(METHODS, "_loaded", False)
    monkeypatch.delitem(sys.modules, "outside_methods", raising=False)
    return "mine"


def by_file(registry, folder, monkeypatch) -> str:
    (folder / "mine.py").write_text(FILE)
    return f"{folder / 'mine.py'}:Mine"


@pytest.mark.parametrize("way", [by_decorator, by_entry_point, by_file])
def test_a_method_from_outside_trains(way, registry, tmp_path, monkeypatch):
    name = way(registry, tmp_path, monkeypatch)
    assert get_method(name, ["weight=0.25"]).weight == 0.25
    lm, sets = model(), {"forget": records("f", [9, 14, 11, 6], 1)}
    before = copy.deepcopy(lm.model.state_dict())
    args = config(tmp_path / "run", method=name, score="answer", max_steps=3, learning_rate=1e-2)
    teacher = Teacher(HiddenCache(tmp_path / "cache", {}), alpha=8.0)
    trainer = ObjectiveTrainer(lm, args, build_objective(sets, teacher, lm, args))
    fit(trainer)
    values = [line["forget"] for line in trainer.state.log_history if "forget" in line]
    assert values[-1] < values[0]
    assert any((lm.model.state_dict()[key] - before[key]).abs().max() > 1e-4 for key in before)
    plain = ObjectiveTrainer(model(), replace(args, output_dir=str(tmp_path / "again")), trainer.objective)
    assert plain.objective.terms[0].weight == 0.5


def test_the_registry_holds_methods_alone():
    """A module beside the methods must not turn up among them, nor a class that methods are built on."""
    shipped = {path.stem for path in (Path(sys.modules["rkld.methods"].__file__).parent).glob("*.py")}
    assert set(METHODS.names()) == shipped - {"__init__", "method", "registry", "two_models"}
    for _, cls in METHODS.items():
        assert issubclass(cls, Method)


def test_a_method_knows_its_name_whoever_asks(registry):
    """Messages of one that a model's folder names would otherwise call it by its class."""
    assert {name: method.name for name, method in registry.items()} == {name: name for name in registry.names()}
    npo = registry.get("npo")
    registry.register("npo_again")(npo)
    assert npo.name == "npo"


@pytest.mark.parametrize("value", ["nan", ".nan", "1e999", "-.inf"])
def test_hyper_parameters_must_be_finite(value):
    """Else the training diverges after minutes, and its learning rate is blamed."""
    with pytest.raises(UserError, match="'beta' is"):
        get_method("npo", [f"beta={value}"])


def test_a_value_nested_too_deeply_is_refused():
    with pytest.raises(UserError, match="expected a number"):
        get_method("npo", ["beta=" + "[" * 20_000])


@pytest.mark.parametrize(("base", "missing"), [("WeightArithmetic", "weights"), ("LogitArithmetic", "logits")])
def test_a_method_that_is_not_whole_is_refused_before_it_trains(tmp_path, base, missing):
    (tmp_path / "own.py").write_text(f"from rkld.methods.method import {base}\nclass Own({base}): pass\n")
    with pytest.raises(UserError, match=f"Own leaves out what a method must define: {missing}"):
        get_method(f"{tmp_path / 'own.py'}:Own")


def test_a_method_without_a_loss_says_so(tmp_path):
    (tmp_path / "own.py").write_text("from rkld.methods.method import Method\nclass Own(Method): pass\n")
    with pytest.raises(UserError, match=r"Own defines neither loss\(\) nor terms\(\)"):
        get_method(f"{tmp_path / 'own.py'}:Own").loss(None)
