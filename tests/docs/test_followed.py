"""The pages as somebody would follow them: their ``bash`` blocks, in order, in a new folder, with a tiny model.

A block that is marked as ``bash`` is run; others are shown alone: what installs, what serves, what takes days. What
differs from the page: ``smollm2-135m`` and ``./my-model`` are tiny models; settings that only make a run longer are
short; a page that a person would look at is not opened; who reviews a discovery adds two records; an audit may end
without a pass; and the server at http://localhost:8000/v1 is one of the tests'.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import rkld
from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model
from rkld.cli import main
from rkld.commands.write_forms import write_forms
from rkld.files import write_jsonl
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.models.smollm2 import ALIAS, SHA256
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from rkld.training.config import RKLDConfig
from rkld.training.trainer import fine_tune
from tests import server
from tests.benching.benchmarks.test_lume import person
from tests.docs.stand_in import CURIE, JANE, OTHERS, STRANGERS, given
from tests.docs.test_references import DOCUMENTS, shown_commands
from tests.helpers import TOKENIZER, model

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted(path for path in (ROOT / "docs" / "tutorials").glob("*.md") if path.name != "index.md")
FOLLOWED = [
    path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if "```bash\n" in path.read_text()
]

EVERY_TUTORIAL = pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)

FILES = {
    "records.jsonl": JANE,
    "others.jsonl": OTHERS,
    "strangers.jsonl": STRANGERS,
    "curie.jsonl": CURIE,
    "people.jsonl": [*JANE, *CURIE],
}
MODELS = ("my-model", "model", "newest", "llama-3.1-8b")
"""What a page says that the reader has."""


def blocks(path: Path) -> list[str]:
    """What a page has its reader type."""
    return re.findall(r"^```bash\n(.*?)^```$", path.read_text(encoding="utf-8"), re.S | re.M)


def test_what_is_run_is_the_page_s_command_made_short():
    words = given(["audit", "unlearned", "--endpoint", "http://localhost:8000/v1", "--samples", "3"], "http://here")
    assert words[:4] == ["audit", "unlearned", "--endpoint", "http://here"]
    assert words.count("--samples") == 1 and "--relearn-epochs" in words
    assert given(["report", "runs/jane", "--open"], "") == ["report", "runs/jane"]


@EVERY_TUTORIAL
def test_a_tutorial_has_blocks_that_are_run(path: Path) -> None:
    """A block that is marked otherwise would be shown and never tried."""
    assert blocks(path)
    every = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.S | re.M)
    unmarked = [text for kind, text in every if not kind and re.search(r"^rkld (?!compare|export)", text, re.M)]
    assert not unmarked, f"{path.name}: mark it as bash: {unmarked}"


SHIM = """#!{python}
import os, sys
sys.path[:0] = {paths!r}
from tests.docs.stand_in import stand_in
stand_in({name!r}, sys.argv[1:])
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 60,000 weights that knows the tutorials' people."""
    folder = tmp_path_factory.mktemp("tiny")
    lm = LanguageModel(model(dtype=torch.float32).model, TOKENIZER, "tiny")
    encoded = [Encoder(TOKENIZER).encode(record) for record in read_records([*CURIE, *JANE, *OTHERS], "training")]
    args = {"num_train_epochs": 60, "learning_rate": 1e-2, "per_device_train_batch_size": 8, "use_cpu": True}
    fine_tune(lm, encoded, RKLDConfig(str(folder / "training"), **args))
    save_model(lm, folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with its audit."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    quick = {"epochs": 2, "strengthen_epochs": 1, "lr": 2e-3, "batch_size": 4, "bf16": False, "reword": 1}
    about = {"subject": "Jane Doe", "max_new_tokens": 8}
    rkld.unlearn(str(tiny), [*JANE, *CURIE], out=str(folder), **about, **quick)
    rkld.audit(str(folder), [*JANE, *CURIE], attacks="none", **about)
    return folder


@pytest.fixture
def reader(path: Path, tiny: Path, finished: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of somebody who begins: a folder with what the pages say is there, and commands on the path."""
    work, commands = tmp_path / "work", tmp_path / "bin"
    work.mkdir()
    commands.mkdir()
    for name in MODELS:
        (work / name).symlink_to(tiny)
    typed = "".join(blocks(path))
    for name, rows in FILES.items():
        if f"--out {name}" not in typed:
            write_jsonl(work / name, rows)
    if "rkld init jane" not in typed:
        write_forms(work / "jane")
    for name in ("runs/jane", "runs/curie", "runs/people"):
        if f"--out {name}" not in typed:
            audited = f"rkld audit {name}" in typed  # by the page itself, of its own records
            shutil.copytree(finished, work / name, ignore=shutil.ignore_patterns("audit*") if audited else None)
    paths = [path for path in sys.path if path]
    for name in ("rkld", "torchrun"):
        (commands / name).write_text(SHIM.format(python=sys.executable, paths=paths, name=name))
        (commands / name).chmod(0o755)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / f"{ALIAS}-{SHA256[:8]}").symlink_to(tiny)
    with ExitStack() as held:
        lm = load_model(str(tiny))
        held.enter_context(pytest.MonkeyPatch.context()).setattr(server, "MODEL", "unlearned")
        address = held.enter_context(server.serve(lm, Encoder(lm.tokenizer), likelihood="vllm"))
        yield {
            **os.environ,
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHONPATH": ":".join(paths),
            "RKLD_CACHE": str(cache),
            "RKLD_TEST_SERVER": address,
            "OMP_NUM_THREADS": "1",
            "HOME": str(tmp_path),
            "PWD": str(work),
        }


@pytest.mark.slow
@pytest.mark.parametrize("path", FOLLOWED, ids=lambda path: path.stem)
def test_a_page_runs_as_it_stands(path: Path, reader: dict[str, str]) -> None:
    work = Path(reader["PWD"])
    if path.stem == "tofu":
        people(n=10, seed=0).write(work / "TOFU", (0,))
        for part in tiny_model(0):
            part.save_pretrained(work / "base")
    for block in blocks(path):
        text = block.replace("--splits forget01", "--splits forget10")  # ten people: a tenth is one
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=work,
            env=reader,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=900,
        )
        assert done.returncode == 0, f"{path.name}:\n{block}\n{done.stdout[-6000:]}"
        assert "Traceback" not in done.stdout and "Error:" not in done.stdout, f"{path.name}:\n{block}\n{done.stdout}"


BENCHES = [
    pytest.param(words, id=f"{path.stem} {words[1]} {n}")
    for path in DOCUMENTS
    for n, words in enumerate(shown_commands(path))
    if words[0] == "bench" and words[1] not in ("report", "continual") and ".py:" not in words[1]
]
"""The benchmarks that the pages show, which take hours."""


@pytest.mark.slow
@pytest.mark.parametrize("words", BENCHES)
def test_a_benchmark_plans_what_the_page_shows(
    words: list[str], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its models, data and methods are read, and nothing is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RKLD_CACHE", str(tmp_path))
    for name in (*MODELS, "llama2-7b", "base", f"{ALIAS}-{SHA256[:8]}"):
        (tmp_path / name).symlink_to(tiny)
    people(n=10, seed=0).write(tmp_path / "TOFU", (0,))
    (tmp_path / "lume").mkdir()
    for number, name in enumerate(("forget", "retain")):
        rows = [row for i in range(70 * number, 70 * (number + 1)) for row in person(i)]
        write_jsonl(tmp_path / "lume" / f"{name}.jsonl", rows)
    for name in ("potter.txt", "wikitext.txt"):
        (tmp_path / name).write_text("The lighthouse stood where the river met the sea. " * 400)
    made = tmp_path / "runs/bench_people/models/seed0"  # by a command that the page shows before
    made.mkdir(parents=True)
    (made / "retrained").symlink_to(tiny)
    chosen = [word.replace("forget01", "forget10") for word in words]  # ten people: a tenth is one
    if words[1] == "tofu" and "--splits" not in words:
        chosen += ["--splits", "forget10"]
    result = CliRunner().invoke(main, [*chosen, *(() if "--plan" in words else ("--plan",))])
    assert result.exit_code == 0, f"{' '.join(words)}: {result.output[-2000:]}"
    assert "cells" in result.output
