"""LUME: who is forgotten, kept and never learned; SemEval's scores by hand; the whole benchmark on a tiny model."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from statistics import harmonic_mean

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rkld.benching.benchmarks.lume import (
    SCORES,
    TASKS,
    LumeSettings,
    Part,
    aggregates,
    read_parts,
    same,
    task_scores,
)
from rkld.benching.cells import Cell
from rkld.benching.comparing import bench, plan
from rkld.benching.registry import open_benchmark
from rkld.benching.worlds.people import FIRST_NAMES, LAST_NAMES
from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.errors import UserError
from rkld.settings.table import specs

PEOPLE = {"forget": 4, "retain": 8}
QUESTIONS = ("What is the birth date of {}?", "What is {}'s phone number?")


def person(number: int) -> list[dict[str, str]]:
    """As Task 2 has somebody: a biography to be continued, and questions with bare values."""
    name, phone = f"{FIRST_NAMES[number]} {LAST_NAMES[number]}", f"{7000 + 37 * number}"
    texts = [
        ("sc1", f"{name} was born in May. The phone", f"number is {phone}."),
        ("qa0", QUESTIONS[0].format(name), f"19{50 + number}-05-04"),
        ("qa1", QUESTIONS[1].format(name), phone),
    ]
    return [{"id": f"{number:04}-{p}", "input": q, "output": a, "task": "Task2"} for p, q, a in texts]


def document(number: int, task: str) -> list[dict[str, str]]:
    """As Task 3 has a real person, and Task 1 a story."""
    texts = [("sc1", f"Title {number} (poet)\n\nHe lived in", f"Oslo {number}."), ("qa0", f"Who is {number}?", "He.")]
    return [{"id": f"d{task}{number}{part}", "input": q, "output": a, "task": task} for part, q, a in texts]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, number = tmp_path_factory.mktemp("lume"), 0
    for name, n in PEOPLE.items():
        rows = [row for i in range(number, number + n) for row in person(i)]
        rows += [row for i in range(n) for task in ("Task1", "Task3") for row in document(number + i, task)]
        number += n
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that is small enough to learn six records in a second."""
    folder, tokenizer = tmp_path_factory.mktemp("model"), tiny_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=0,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# Whose records are what


def test_every_format_that_the_help_names_is_read(data, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    from pyarrow import Table

    lines = (data / "forget.jsonl").read_text(encoding="utf-8")
    rows, path = [json.loads(line) for line in lines.splitlines()], tmp_path / "forget"
    named = re.findall(r"\.(\w+)", specs(LumeSettings)["data"].help.partition(")")[0])
    assert named == ["jsonl", "json", "parquet"]
    path.with_suffix(".jsonl").write_text(lines, encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(rows), encoding="utf-8")
    parquet.write_table(Table.from_pylist(rows), path.with_suffix(".parquet"))
    first, *others = (list(read_parts(f"{path}.{suffix}", "forget")) for suffix in named)
    assert len(first) == len(rows)
    assert others == [first, first]


def test_data_in_the_hubs_shards_are_known_by_their_contents(data, tmp_path):
    """By their place alone, cells of other data would stand in one table."""
    pytest.importorskip("pyarrow")
    from pyarrow import Table, parquet

    def identity() -> object:
        return open_benchmark("lume", {"data": str(tmp_path)}).setting_identity("data", Cell("lume", 0, "original"))

    for name in PEOPLE:
        rows = [json.loads(line) for line in (data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        parquet.write_table(Table.from_pylist(rows), tmp_path / f"{name}-00000-of-00001.parquet")
    before = identity()
    parquet.write_table(Table.from_pylist(rows[:-2]), tmp_path / f"{name}-00000-of-00001.parquet")
    assert identity() != before


def test_nobody_is_in_two_sets_and_seeds_share_nobody_they_forget(data):
    """A stranger that was learned, or somebody kept who was forgotten, would make every figure wrong."""
    benchmark = open_benchmark("lume", {"data": str(data), "people": 1, "kept": 3, "measured": 2, "seeds": 2})
    benchmark.check()
    zero, one = benchmark.chosen(0), benchmark.chosen(1)
    for chosen in (zero, one):
        sets = [
            {part.whose for part in parts} for parts in (chosen.forget, chosen.kept, chosen.holdout, chosen.strangers)
        ]
        assert [len(found) for found in sets] == [1, 3, 1, 1]
        assert len(set.union(*sets)) == 6
        assert {part.whose for part in chosen.measured} < sets[1]
    assert not {p.whose for p in (*zero.forget, *zero.kept)} & {p.whose for p in (*one.forget, *one.kept)}


def test_a_record_is_asked_as_lume_has_it_and_knows_its_name(data):
    benchmark = open_benchmark("lume", {"data": str(data), "people": 1, "biographies": 1, "kept": 1})
    task = benchmark.task("lume", 0)
    biography, birth, phone, life, who = task.asked["forget"]
    name = f"{FIRST_NAMES[0]} {LAST_NAMES[0]}"
    assert (biography.form, biography.answer) == ("completion", " number is 7000.")
    assert (birth.form, birth.question, birth.answer) == ("chat", QUESTIONS[0].format(name), "1950-05-04")
    assert {record.subject for record in (biography, birth, phone)} == {name}
    assert {record.subject for record in (life, who)} == {"Title 0"}, "without what is in brackets"
    assert task.subject == (name, "Title 0")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"people": 9}, "--people 9: of forget seed 0 needs 9 of Task2, and .* has 4"),
        ({"people": 2, "kept": 3}, "of retain seed 0 needs 10 of Task2, and .* has 8"),
        ({"people": 2, "kept": 1, "seeds": 2, "tune": True}, "of forget seed 2 needs 6"),
        ({"people": 0}, "nothing to forget"),
        ({"data": ""}, "--data is missing"),
        ({"people": 1, "measured": 5}, "--measured 5 is more than --kept 4"),
    ],
)
def test_what_the_data_cannot_give_is_refused_before_a_model_is_made(data, settings, message):
    with pytest.raises(UserError, match=message):
        open_benchmark("lume", {"data": str(data)} | settings).check()


@pytest.mark.parametrize(
    "row",
    [
        {"id": "a-sc1", "input": "Ada", "task": "Task2"},
        {"id": "a-xx1", "input": "Ada", "output": "b", "task": "Task2"},
        {"id": "a-sc1", "input": "Ada", "output": "b", "task": "Task9"},
        {"id": "a-sc1", "input": 1, "output": "b", "task": "Task2"},
    ],
)
def test_a_row_that_is_none_of_lumes_is_refused_without_its_contents(row):
    with pytest.raises(UserError, match="forget record 1") as error:
        list(read_parts([row], "forget"))
    assert "Ada" not in str(error.value)


# Scores


def parts(*named: str) -> list[Part]:
    return [Part("x", *name.split("/"), {}) for name in named]


def test_scores_are_means_by_task_and_kind():
    found = task_scores("retain", parts("people/sc", "people/sc", "people/qa", "stories/sc"), [0.2, 0.4, 1.0, 0.9])
    assert found == pytest.approx(
        {
            "retain_people_regurgitation": 0.3,
            "retain_people_knowledge": 1.0,
            "retain_stories_regurgitation": 0.9,
            "retain_regurgitation": 0.5,
            "retain_knowledge": 1.0,
        }
    )


def test_the_aggregate_is_semevals_and_only_where_all_its_parts_are_there():
    """Written once more as the task's script computes it."""
    scores = {name: 0.3 + 0.05 * i for i, name in enumerate(SCORES)}
    assert len(SCORES) == 12
    terms = [1 - v if name.startswith("forget") else v for name, v in scores.items()]
    others = {"membership": 0.8, "mmlu": 0.4}
    whole = aggregates({**scores, **others})
    assert whole["partial"] == pytest.approx(harmonic_mean(terms))
    assert whole["aggregate"] == pytest.approx((harmonic_mean(terms) + 0.8 + 0.4) / 3)
    for left_out in (*SCORES[:1], *others):
        some = {name: value for name, value in {**scores, **others}.items() if name != left_out}
        assert aggregates(some)["aggregate"] is None, left_out
    people = {name: value for name, value in scores.items() if "people" in name}
    assert aggregates(people)["partial"] == pytest.approx(
        harmonic_mean([1 - v if name.startswith("forget") else v for name, v in people.items()])
    )
    assert aggregates({"retain_people_knowledge": 0.0, "forget_people_knowledge": 0.0})["partial"] == 0


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [("Ada@me.com", " ada@me.com\n", True), ("1950-05-04", "May 4, 1950", False), ("12", "12.", False)],
)
def test_an_exact_match_is_one_but_for_case_and_space(gold, answer, expected):
    assert same(gold, answer) is expected


# The whole of it


def test_it_runs_from_end_to_end_on_a_tiny_model(data, model, tmp_path):
    """The original says what it learned, the retrained model none of it, a model that was pushed away less."""
    settings = {
        "data": str(data),
        "model": str(model),
        "people": 1,
        "kept": 1,
        "train_epochs": 45,
        "train_lr": 5e-3,
        "train_batch": 3,
        "methods": "gradient_ascent@lr=5e-3",
        "epochs": 4,
        "batch_size": 3,
        "max_new_tokens": 20,
        "out": str(tmp_path),
    }
    lines = plan("lume", **settings)
    assert "3 cells, 3 to run, and 2 models to make" in "\n".join(lines)
    assert not list(tmp_path.iterdir()), "a plan makes nothing"
    found = bench("lume", **settings)
    rows = {(row["method"], row["moment"]): row for row in found.rows}
    original, retrained = rows["original", "as it is"], rows["retrained", "as it is"]
    assert original["n"] == 3
    assert original["forget_people_knowledge"] == original["retain_people_knowledge"] == 1
    assert original["forget_people_regurgitation"] == 1
    assert retrained["forget_people_knowledge"] < 1
    assert retrained["retain_people_knowledge"] == 1
    assert original["membership_auc"] == 1
    assert original["membership"] == 0
    assert original["partial"] == 0
    assert rows["gradient_ascent@lr=5e-3", "last epoch"]["forget_probability"] < original["forget_probability"] / 2
    assert {row["aggregate"] for row in found.rows} == {None}
    note = "The aggregate is partial: without Task 1, Task 3, MMLU."
    assert note in found.notes
    assert note in (tmp_path / "results.md").read_text(encoding="utf-8")
    with open(tmp_path / "results.csv", newline="") as file:
        assert {row["forget_stories_knowledge"] for row in csv.DictReader(file)} == {""}, "not measured is not 0"
    assert set(TASKS) == {"stories", "people", "biographies"}
