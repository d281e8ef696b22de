"""lm-eval on a task of our own, without the network, against accuracies computed from plain log-probabilities."""

import importlib.util
import json
import logging
import math
import socket
import sys
from pathlib import Path

import pytest
import torch

from rkld.benching.worlds.tiny import tiny_model
from rkld.errors import UserError
from rkld.evaluation.general import PAPER_TASKS, general_ability
from rkld.models.loading import load_model

TASKS = Path(__file__).parent / "tasks"
needs_lm_eval = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="needs lm-eval: pip install 'rkld[general]'"
)


@pytest.fixture(scope="module")
def lm():
    made, tokenizer = tiny_model(seed=1)
    return load_model(made, tokenizer=tokenizer)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the task; connections are refused, and nothing is cached outside."""
    import datasets

    def refuse(*_):
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    made = tmp_path / "tasks"
    made.mkdir()
    yaml = (TASKS / "colours.yaml").read_text(encoding="utf-8")
    (made / "colours.yaml").write_text(yaml.replace("DATA", str(TASKS / "colours.jsonl")), encoding="utf-8")
    return made


def plainly(lm, rows):
    """Share of questions whose right choice has the largest log-probability."""
    right = []
    for row in rows:
        question = lm.tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"]
        scores = []
        for choice in row["choices"]:
            ids = lm.tokenizer(f"Question: {row['question']}\nAnswer: {choice}")["input_ids"]
            with torch.no_grad():
                log_p = lm.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            scores.append(sum(log_p[t - 1, ids[t]].item() for t in range(len(question), len(ids))))
        right.append(scores.index(max(scores)) == row["label"])
    return sum(right) / len(right)


@needs_lm_eval
def test_accuracy_is_that_of_the_likeliest_choices(lm, folder):
    """Few-shot prompts, a chat template or another model would give other accuracies."""
    rows = [json.loads(line) for line in (TASKS / "colours.jsonl").read_text(encoding="utf-8").splitlines()]
    padding, level = lm.tokenizer.padding_side, logging.getLogger("lm_eval").level
    lm.model.train()
    found = general_ability(lm, ["rkld_colours"], task_folder=folder)["rkld_colours"]
    assert lm.model.training and lm.tokenizer.padding_side == padding
    assert logging.getLogger("lm_eval").level == level
    lm.model.eval()
    p, n = plainly(lm, rows), len(rows)
    assert 0 < p < 1, "otherwise a constant would pass"
    assert found == {"accuracy": pytest.approx(p), "stderr": pytest.approx(math.sqrt(p * (1 - p) / (n - 1))), "n": n}
    few = general_ability(lm, ["rkld_colours"], task_folder=folder, limit=3, batch_size=1)["rkld_colours"]
    assert few["n"] == 3 and few["accuracy"] == pytest.approx(plainly(lm, rows[:3]))


@needs_lm_eval
def test_a_group_is_its_tasks_together(lm, folder):
    """MMLU is a group: it was said to be no task at all."""
    rows = [json.loads(line) for line in (TASKS / "colours.jsonl").read_text(encoding="utf-8").splitlines()]
    few = folder / "few.jsonl"
    few.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]), encoding="utf-8")
    yaml = (TASKS / "colours.yaml").read_text(encoding="utf-8")
    (folder / "few.yaml").write_text(
        yaml.replace("DATA", str(few)).replace("rkld_colours", "rkld_few"), encoding="utf-8"
    )
    (folder / "group.yaml").write_text(
        "group: rkld_both\ntask: [rkld_colours, rkld_few]\n"
        "aggregate_metric_list:\n  - metric: acc\n    weight_by_size: true\nmetadata:\n  version: 1.0\n",
        encoding="utf-8",
    )
    found = general_ability(lm, ["rkld_both"], task_folder=folder)["rkld_both"]
    assert found["accuracy"] == pytest.approx(plainly(lm, [*rows, *rows[:2]]))
    assert found["n"] == len(rows) + 2


@needs_lm_eval
def test_tasks_that_cannot_be_had_are_user_errors(lm, folder, monkeypatch):
    """A task that lm-eval has renamed, or a machine without network, would end in a trace of someone else's code."""
    from lm_eval import tasks

    index = tasks.TaskManager(include_path=str(folder))  # which takes half a minute to make
    monkeypatch.setattr(tasks, "TaskManager", lambda **_: index)
    assert set(PAPER_TASKS) <= set(index.all_subtasks)
    with pytest.raises(UserError, match=r"no task 'rkld_colour'\. Did you mean 'rkld_colours'"):
        general_ability(lm, ["piqa", "rkld_colour"])

    def load(_):
        raise ConnectionError("no network here")

    monkeypatch.setattr(index, "load", load)
    with pytest.raises(UserError, match=r"cannot load the task 'piqa' .ConnectionError: no network here"):
        general_ability(lm, ["piqa"])


def test_without_lm_eval_one_is_told_what_to_install(lm, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.evaluator", None)
    with pytest.raises(UserError, match=r"pip install 'rkld\[general\]'"):
        general_ability(lm)
    with pytest.raises(ValueError, match="limit is 1"):
        general_ability(lm, limit=1)
