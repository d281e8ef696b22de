"""The recipes of docs/architecture.md, as somebody outside the package follows them: its files, its commands."""

from __future__ import annotations

import csv
import importlib
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model
from rkld.cli import main
from rkld.commands.options import SettingsCommand, settings_options
from rkld.errors import UserError
from rkld.files import write_jsonl
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from rkld.registry import Registry
from rkld.settings import table
from rkld.settings.specification import make
from rkld.training.config import RKLDConfig
from rkld.training.trainer import fine_tune

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", TEXT, re.S))
COMMANDS = re.findall(r"^```\nrkld (.*\w+\.py:.*)\n```$", TEXT, re.M)
ROWS = [{k: r[k] for k in ("question", "answer", "subject", "aliases")} for r in people(n=4, seed=0).forget([0])][:8]
QUICK = {
    "unlearn": [
        "--epochs",
        "4",
        "--strengthen-epochs",
        "1",
        "--lr",
        "1e-3",
        "--replay",
        "none",
        "--max-new-tokens",
        "4",
        "--batch-size",
        "8",
    ],
    "audit": ["--max-new-tokens", "48", "--questions", "4"],
    "bench": [],
}

KINDS = {
    cells[0]: cells[1:]
    for line in re.findall(r"^\| (?:method|metric|attack|stopping rule|benchmark) \|.*$", TEXT, re.M)
    if (cells := [cell.strip(" `") for cell in line.strip("| ").split("|")])
}
"""Kind → base class, registry, folder, entry-point group and option, as the document has them."""

ENTRIES = {
    "method": "uniform:Uniform",
    "metric": "answer_length:ANSWER_LENGTH",
    "attack": "please:Please",
    "stopping rule": "tenth:Tenth",
    "benchmark": "colours:Colours",
}


def registry_of(kind: str) -> Registry[Any]:
    module, _, name = KINDS[kind][1].rpartition(".")
    found: Registry[Any] = getattr(importlib.import_module(module), name)
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that knows the records."""
    folder = tmp_path_factory.mktemp("original")
    plain, tokenizer = tiny_model(seed=0)
    lm = load_model(plain, tokenizer=tokenizer)
    args = RKLDConfig(
        str(folder / "t"), num_train_epochs=50, per_device_train_batch_size=8, learning_rate=3e-3, use_cpu=True
    )
    fine_tune(lm, [Encoder(lm.tokenizer).encode(record) for record in read_records(ROWS, "forget")], args)
    save_model(lm, folder / "model")
    return folder / "model"


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the recipes' files and records, which is no part of the package."""
    for name, source in FILES.items():
        (tmp_path / name).write_text(source, encoding="utf-8")
    write_jsonl(tmp_path / "records.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def follow(recipe: str, model: Path) -> None:
    """Give the document's command that names this file."""
    (command,) = [command for command in COMMANDS if f"{recipe}.py:" in command]
    words = [*command.replace("./my-model", str(model)).split(), *QUICK[command.split()[0]]]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    # Four questions, and no original: such an audit establishes nothing.
    assert done.exit_code == int(command.startswith("audit")), done.output


def phases(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "manifest.json").read_text())["phases"]
    return found


def test_a_method_is_what_the_model_is_trained_by(outside: Path, model: Path) -> None:
    follow("uniform", model)
    found = phases(outside / "runs/uniform")
    before, after = (found[when]["metrics"]["forget"]["probability"] for when in ("before", "after"))
    assert before > 0.5
    assert after < before / 2


def test_a_metric_is_in_the_evidence_and_can_be_a_gate(outside: Path, model: Path) -> None:
    follow("answer_length", model)
    document = json.loads((outside / "runs/length/audit.json").read_text())
    assert document["metrics"]["answer_length"]["figures"]["audited"]["value"] > 1
    (gate,) = [gate for gate in document["gates"] if not gate["default"]]
    assert gate["name"] == "answer_length" and gate["value"] > 1


def test_a_metric_has_a_test_of_its_own_and_stands_on_the_page(outside: Path, model: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_answer_length.py"],
        cwd=outside,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
    follow("answer_length", model)
    every = (outside / "runs/length/report.html").read_text(encoding="utf-8").partition("Every figure")[2]
    assert "<code>answer_length</code>" in every


def test_an_attack_is_read_and_its_metrics_are_in_the_evidence(outside: Path, model: Path) -> None:
    write_jsonl(outside / "records.jsonl", [*ROWS, {"text": "A note without a question."}])
    follow("please", model)
    document = json.loads((outside / "runs/please/audit.json").read_text())
    assert document["metrics"]["Please_facts_said"]["figures"]["audited"]["n"] > 0
    assert "paraphrases" in {entry["name"] for entry in document["not_run"]}


def test_a_stopping_rule_ends_the_run(outside: Path, model: Path) -> None:
    follow("tenth", model)
    found = phases(outside / "runs/tenth")
    assert found["stop"]["rule"].endswith("tenth.py:Tenth")
    gap = found["stop"]["original"]  # of the original: nine tenths of its probability
    assert gap == pytest.approx(9 * found["stop"]["aim"], rel=1e-6)
    assert found["distillation"]["stop"]["rule"].endswith("tenth.py:Tenth")


def test_a_benchmark_runs_its_cells_and_writes_its_table(outside: Path, model: Path) -> None:
    follow("colours", model)
    with open(outside / "runs/colours/results.csv", newline="") as opened:
        rows = {row["method"]: float(row["forget_probability"]) for row in csv.DictReader(opened)}
    assert list(rows) == ["original", "gradient_ascent"]
    assert rows["gradient_ascent"] < rows["original"]


@pytest.mark.parametrize("kind", ENTRIES)
def test_the_table_of_ways_in_is_that_of_the_registries(kind: str) -> None:
    base, _, folder, group, option = KINDS[kind]
    registry = registry_of(kind)
    assert (registry.kind, registry.base, registry.group, registry.option) == (kind, base, group, option)
    assert registry.package == "rkld." + folder.rstrip("/").replace("/", ".")


@pytest.fixture
def emptied(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry[Any]]:
    """The real registry, which forgets afterwards what a test registered."""
    registry = registry_of(kind)
    registry.names()
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    yield registry


@pytest.mark.parametrize("kind", ENTRIES)
def test_another_package_registers_it_by_an_entry_point(
    kind: str, emptied: Registry[Any], outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, name = ENTRIES[kind].partition(":")
    info = outside / "more-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: more\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{KINDS[kind][3]}]\nmine = {ENTRIES[kind]}\n")
    monkeypatch.syspath_prepend(str(outside))
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(UserError, match="unknown"):
        emptied.get("mine")
    monkeypatch.setattr(emptied, "_loaded", False)
    assert emptied.get("mine") is getattr(sys.modules[module], name)
    assert "mine" in emptied.names()


@pytest.mark.parametrize("kind", ENTRIES)
def test_a_decorator_registers_it(kind: str, emptied: Registry[Any], outside: Path) -> None:
    file, _, name = ENTRIES[kind].partition(":")
    entry = emptied.resolve(f"{file}.py:{name}")
    assert name not in emptied.names(), "a file that is named is not registered by that"
    emptied.register("mine")(entry)
    assert emptied.get("mine") is entry


def test_a_setting_is_one_entry_and_one_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """They make the option, its help, its bounds and its default."""
    (entry,) = re.findall(r"```python\n# the entry\n(.*?)```", TEXT, re.S)
    (field,) = re.findall(r"```python\n# the field\n(\w+): int = (.*?)\n```", TEXT, re.S)
    monkeypatch.setattr(table, "TABLE", {**table.TABLE, "patience": eval(entry, vars(table))})

    @dataclass(frozen=True)
    class Settings:
        patience: int = eval(field[1], vars(table))

        def __post_init__(self) -> None:
            table.check_bounds(self)

    @click.command(cls=SettingsCommand)
    @settings_options(Settings, argument=False)
    def command(**_: Any) -> None: ...

    text = CliRunner().invoke(command, ["--help"]).output
    assert re.search(r"When to stop:\s+--patience INTEGER\s+Checks without progress", text)
    settings: Any = make({}, "test", Settings)
    assert settings.patience == 2
    with pytest.raises(UserError, match="--patience is 0"):
        make({"patience": 0}, "test", Settings)
