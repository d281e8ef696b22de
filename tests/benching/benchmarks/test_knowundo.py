"""KnowUnDo in its published layout, made up: figures by plain transformers, who learns what, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rkld.benching.benchmarks import knowundo as module
from rkld.benching.benchmarks.knowundo import CUT, Knowundo
from rkld.benching.cells import Cell
from rkld.benching.comparing import bench, plan
from rkld.benching.registry import open_benchmark
from rkld.errors import UserError
from rkld.progress import NoProgress


def row(question: str, answer: str) -> dict[str, str]:
    return {"text": question, "labels": answer, "other": "not read"}


DATA = {
    "unlearn": {
        "train": [row("Where does Mira live?", "In Oslo.")],
        "val": [row("What is Mira's phone number?", "It is 7000."), row("Who is she?", "A sailor of Oslo.")],
    },
    "retention": {"train": [row("What is Oslo?", "A city.")], "val": [row("Is Oslo large?", "Rather large.")]},
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "KnowUnDo" / "privacy"
    folder.mkdir(parents=True)
    for name, parts in DATA.items():
        (folder / f"{name}.json").write_text(json.dumps([parts], indent=1), encoding="utf-8")
    return folder


@pytest.fixture
def given(data: Path, small: Path, tmp_path: Path) -> dict:
    return {
        "data": str(data.parent),
        "original": str(small),
        "retrained": str(small),
        "methods": "gradient_ascent",
        "epochs": 1,
        "out": str(tmp_path / "out"),
    }


def opened(given: dict, **settings: object) -> Knowundo:
    found = open_benchmark("knowundo", {**given, **settings})
    assert isinstance(found, Knowundo)
    return found


def plainly(lm, rows) -> tuple[float, float]:
    """Accuracy and perplexity, as the authors' script has them: a mean over answers, without an end of text."""
    accuracies, losses = [], []
    for one in rows:
        before = lm.tokenizer(one["text"]).input_ids
        ids = [*before, *lm.tokenizer("\n\n" + one["labels"]).input_ids][:CUT]
        if len(ids) <= len(before):
            continue
        with torch.no_grad():
            log_p = lm.model(torch.tensor([ids])).logits[0, len(before) - 1 : -1].log_softmax(-1)
        gold = torch.tensor(ids[len(before) :])
        accuracies.append(float((log_p.argmax(-1) == gold).float().mean()))
        losses.append(-float(log_p.gather(1, gold[:, None]).mean()))
    return 100 * float(np.mean(accuracies)), math.exp(float(np.mean(losses)))


def test_figures_are_those_of_a_plain_evaluator(given, data):
    long = row("Tell me of the sea. " * 60, "It is wide."), row("Tell me of it. " * 20, "The sea is wide. " * 30)
    parts = {**DATA["retention"], "val": [*DATA["retention"]["val"], *long]}
    (data / "retention.json").write_text(json.dumps(parts), encoding="utf-8")  # an object alone is read as well
    benchmark = opened(given)
    lm, encoder = benchmark.load(given["original"])
    task = benchmark.task("privacy", 0)
    found = benchmark.evaluator(Cell("privacy", 0, "x"), task, encoder, {})(lm, NoProgress()).figures
    for name, rows in (("unlearn", DATA["unlearn"]["val"]), ("retention", parts["val"])):
        accuracy, perplexity = plainly(lm, rows)
        assert found[f"{name}_accuracy"] == pytest.approx(accuracy)
        assert found[f"{name}_perplexity"] == pytest.approx(perplexity, rel=1e-4)
    assert found["n"] == 2
    assert [record.answer for record in task.asked["unlearn"]] == ["\n\nIt is 7000.", "\n\nA sailor of Oslo."]


def test_a_right_answer_is_100_and_what_is_measured_is_not_given_to_a_run(given, monkeypatch):
    taught = {}

    def learn(recipe, records, folder, **settings):
        taught[settings["title"]] = {record.answer.strip() for record in records}
        return None

    monkeypatch.setattr(module, "learn", learn)
    benchmark = opened({**given, "original": None, "retrained": None, "model": given["original"]})
    for role in benchmark.references:
        benchmark.train_model(role, "privacy", 0, Path("x"), NoProgress())
    kept = {"A city.", "Rather large."}
    assert taught == {"retrained": kept, "original": kept | {"In Oslo.", "It is 7000.", "A sailor of Oslo."}}
    task = benchmark.task("privacy", 0)
    assert [one["completion"] for one in task.forget] == ["\n\nIn Oslo."]
    assert [one["completion"] for one in task.retain] == ["\n\nA city."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is broken JSON"),
        ("[" * 100_000, "is broken JSON"),
        ('[{"train": []}]', "must hold an object with the lists 'train' and 'val'"),
        ('[{"train": "Mira", "val": [1]}]', "must hold an object with the lists"),
        ('[{"train": [{"text": "Mira"}], "val": [1]}]', "train record 1: 'labels' must hold a text"),
        (
            '[{"train": [{"text": "Mira", "labels": {"a": 1}}], "val": [1]}]',
            "'labels' must hold a text, and holds dict",
        ),
    ],
)
def test_what_is_none_of_knowundos_is_refused_without_its_contents(given, data, text, message):
    (data / "unlearn.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        opened(given).check()
    assert "Mira" not in str(error.value)


def test_settings_that_cannot_be_are_refused(given, tmp_path):
    for settings, message in (
        ({"data": str(tmp_path / "none")}, "give a local folder of KnowUnDo"),
        ({"domain": "copyright"}, "lacks copyright/unlearn, copyright/retention"),
        ({"tune": True}, "--tune: KnowUnDo has no"),
        ({"retrained": None, "model": None}, "no model"),
    ):
        with pytest.raises(UserError, match=message):
            opened(given, **settings).check()


@pytest.mark.slow
def test_it_runs_from_end_to_end(given):
    assert "3 cells, 3 to run" in "\n".join(plan("knowundo", **given))
    rows = {(row["method"], row["moment"]): row for row in bench("knowundo", **given).rows}
    assert {name for name, _ in rows} == {"retrained", "original", "gradient_ascent"}
    same = [rows[name, "as it is"]["unlearn_accuracy"] for name in ("retrained", "original")]
    assert same[0] == same[1]
    assert rows["gradient_ascent", "last epoch"]["retention_perplexity"] > 0
