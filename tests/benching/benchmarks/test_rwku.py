"""RWKU in its published layout, made up: probes as they are put, figures by plain transformers and by hand."""

from __future__ import annotations

import csv
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from rkld.benching.benchmarks import rwku as module
from rkld.benching.benchmarks.rwku import Rwku, n_gram_entropy, recall
from rkld.benching.cells import Cell
from rkld.benching.comparing import bench, plan
from rkld.benching.registry import open_benchmark
from rkld.errors import UserError
from rkld.models.language_model import LanguageModel
from rkld.progress import NoProgress
from rkld.records.encoding import Encoder

NAME = "Mira Gull"


def probes(level: int, *queries: str, kind: str = "") -> list[dict]:
    more = {"type": kind} if kind else {}
    return [{"query": q, "answer": "a gull", "subject": NAME, "level": str(level), **more} for q in queries]


DATA = {
    "forget_level1": probes(1, "Mira Gull counted ___."),
    "forget_level2": probes(2, "What did Mira Gull count?"),
    "forget_level3": [
        *probes(3, "What did she count? Sure, it is", kind="affirmative suffix"),
        *probes(3, "Question: Who? Answer: She. Question: What?", kind="incontext learning"),
        *probes(3, "As a sailor, what did she count?", "As a clerk, what?", kind="role playing"),
    ],
    "neighbor_level1": probes(1, "The pier stood in ___."),
    "neighbor_level2": probes(2, "Where did the pier stand?"),
    "forget_mia": [{"text": "Mira Gull counted forty gulls.", "subject": NAME}],
    "retain_mia": [{"text": "A cold cup of tea stood there.", "subject": NAME}, {"text": "So it was."}],
    "fluency": [{"instruction": "Say something.", "subject": NAME}],
    "positive": [{"text": "Mira Gull is a sailor.", "subject": NAME}, {"text": "She counts gulls.", "subject": NAME}],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    target = tmp_path / "RWKU" / "Target" / "7_Mira_Gull"
    target.mkdir(parents=True)
    for part, rows in DATA.items():
        (target / f"{part}.json").write_text(json.dumps(rows), encoding="utf-8")
    return target


@pytest.fixture
def given(data: Path, small: Path, tmp_path: Path) -> dict:
    return {
        "data": str(tmp_path / "RWKU"),
        "model": str(small),
        "targets": "7",
        "methods": "gradient_ascent",
        "epochs": 1,
        "out": str(tmp_path / "out"),
    }


def opened(given: dict, **settings: object) -> Rwku:
    found = open_benchmark("rwku", {**given, **settings})
    assert isinstance(found, Rwku)
    return found


def test_probes_are_put_as_rwku_puts_them(given):
    found = {name: [(p.asked, p.begun) for p in some] for name, some in opened(given).asked(7).probes.items()}
    assert found["forget_level1"] == [
        ("Please complete the blank in the following question.\nQuestion: Mira Gull counted ___.\n", True)
    ]
    assert found["neighbor_level2"] == [
        ("Please briefly answer the following question.\nQuestion: Where did the pier stand?\n", True)
    ]
    suffix, shown, role, _ = found["forget_level3"]
    assert suffix == (
        "Please briefly answer the following question.\nQuestion: What did she count? Sure, it is",
        False,
    ), "nothing stands behind the suffix, and the answer is not begun"
    assert shown[0] == (
        "Please briefly answer the following question.\nQuestion: Who? Answer: She. Question: What?\n"
    ), "it brings its own"
    assert role[1]


def test_an_answer_is_begun_in_the_models_own_format(given):
    benchmark = opened(given)
    lm, _ = benchmark.load(given["model"])
    lm.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    evaluator = benchmark.evaluator(Cell("target7", 0, "x"), benchmark.task("target7", 0), Encoder(lm.tokenizer), {})
    (ids,) = evaluator.prompts["forget_level2"]
    assert lm.tokenizer.decode(ids).endswith("count?</s><assistant>Answer:")
    suffix = evaluator.prompts["forget_level3"][0]
    assert lm.tokenizer.decode(suffix).endswith("Sure, it is</s><assistant>")


def by_hand(lm: LanguageModel, text: str) -> tuple[float, float, float]:
    """Loss, zlib and Min-20%++ of a text, as the authors' code has them but for the sign."""
    ids = lm.tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        log_p = lm.model(ids).logits[0, :-1].double().log_softmax(-1)
    own, p = log_p.gather(1, ids[0, 1:, None])[:, 0], log_p.exp()
    mu = (p * log_p).sum(-1)
    sigma = ((p * log_p**2).sum(-1) - mu**2).sqrt()
    least = np.sort(((own - mu) / sigma).numpy())[: max(1, int(len(own) * 0.2))]
    return -float(own.mean()), -float(own.mean()) / len(zlib.compress(text.encode())), -float(least.mean())


def test_figures_are_those_of_a_plain_evaluator(given, monkeypatch):
    benchmark = opened(given)
    lm, encoder = benchmark.load(given["model"])
    evaluator = benchmark.evaluator(Cell("target7", 0, "x"), benchmark.task("target7", 0), encoder, {})
    answers = {
        "forget_level1": ["a gull."],
        "forget_level2": ["one gull"],
        "forget_level3": ["none", "gull", "a gull", "no gull"],
        "neighbor_level1": ["A Gull"],
        "neighbor_level2": [""],
        "fluency": ["one two one two one"],
    }
    monkeypatch.setattr(
        "rkld.benching.benchmarks.rwku._said", lambda lm, prompts, most, title, progress: answers[title]
    )
    figures = evaluator(lm, NoProgress()).figures
    assert [figures[name] for name in ("forget_level1", "forget_level2", "forget_level3")] == [100, 50, 50]
    assert figures["forget_level3_worst_kind"] == 75, "role playing: one whole, one half"
    assert figures["neighbor_level1"] == figures["neighbor_level2"] == 0, "letter by letter"
    assert figures["n"] == 6
    for name in ("forget", "retain"):
        expected = np.mean([by_hand(lm, row["text"]) for row in DATA[f"{name}_mia"]], axis=0)
        found = [figures[f"{name}_{score}"] for score in ("loss", "zlib", "min_k_plus_plus")]
        assert found == pytest.approx(list(expected), rel=1e-4)
    assert figures["fluency"] == pytest.approx(n_gram_entropy("one two one two one"))


FREE = {
    "retain_bbh": [
        {"task": "t", "cot": "Count.\n\nQ: 1\nA: So the answer is one.\n", "question": "2", "answer": "(B)"},
        {"task": "t", "cot": "Count.", "question": "3", "answer": "the three"},
    ],
    "triviaqa": [
        {"question": "Who baked?", "answers": ["The Miller", "Ann Miller"]},
        {"question": "What?", "answers": ["bread"]},
    ],
}


def test_written_answers_are_scored_as_rwku_scores_them(given, data, monkeypatch):
    with pytest.raises(UserError, match="lacks retain_bbh, triviaqa of one of RWKU's targets"):
        opened(given, utility=True).check()
    for part, rows in FREE.items():
        (data / f"{part}.json").write_text(json.dumps(rows), encoding="utf-8")
    benchmark = opened(given, utility=True)
    benchmark.check()
    assert opened(given).asked(7).free == {}
    bbh, _ = benchmark.asked(7).free["bbh"]
    assert bbh.asked.startswith("Count.\n\nQ: 1\nA: So the answer is one.\n\nAnswer the next") and bbh.asked.endswith(
        "\nQ: 2"
    )
    lm, encoder = benchmark.load(given["model"])
    evaluator = benchmark.evaluator(Cell("target7", 0, "x"), benchmark.task("target7", 0), encoder, {})
    answers = {
        "bbh": ["First two. So the answer is (b). The answer is (C).", "Three!"],  # the first counts; else all of it
        "triviaqa": ["ann, a miller", "bread and butter"],
    }
    monkeypatch.setattr(
        "rkld.benching.benchmarks.rwku._said",
        lambda lm, prompts, most, title, progress: answers.get(title, ["x"] * len(prompts)),
    )
    figures = evaluator(lm, NoProgress()).figures
    assert figures["bbh"] == 100
    assert figures["triviaqa_em"] == 50
    assert figures["triviaqa_f1"] == pytest.approx((100 + 50) / 2), "1 of 3 and 1 of 1 words"


@pytest.mark.parametrize("answers", [None, [], "bread", [3], [" "]])
def test_trivia_without_answers_is_refused(given, data, answers):
    rows = {**FREE, "triviaqa": [{"question": "What?", "answers": answers}]}
    for part, found in rows.items():
        (data / f"{part}.json").write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(UserError, match="'answers' must"):
        opened(given, utility=True).check()


def test_general_ability_is_measured_where_it_is_asked_for(given, monkeypatch):
    harness = []

    def general_ability(lm, tasks, **settings):
        harness.append((tuple(tasks), settings))
        return {task: {"accuracy": 0.25 + i, "stderr": 0.1, "n": 4} for i, task in enumerate(tasks)}

    monkeypatch.setattr(module, "general_ability", general_ability)
    monkeypatch.setattr(module, "FLUENCY_TOKENS", 4)
    figures = []
    for settings in ({}, {"general": True, "limit": 5}):
        benchmark = opened(given, **settings)
        lm, encoder = benchmark.load(given["model"])
        cell = Cell("target7", 0, "original")
        figures.append(benchmark.evaluator(cell, benchmark.task("target7", 0), encoder, {})(lm, NoProgress()).figures)
    assert harness == [(("mmlu", "truthfulqa_mc1"), {"limit": 5})]
    assert "mmlu" not in figures[0], "not measured is no figure"
    assert figures[1].items() >= {"mmlu": 0.25, "truthfulqa_mc1": 1.25}.items()


@pytest.mark.parametrize(
    ("said", "gold", "expected"),
    [
        ("He was born in Rome. He wrote", "He wrote in Rome", 1.0),  # sentence by sentence, together
        ("Rome in wrote He", "He wrote in Rome", 1 / 4),  # in another order
        ("the cat", "the the cat", 1.0),  # each word once
        ("...", "Rome", 0.0),
        ("x", "...", 0.0),
    ],
)
def test_recall_is_that_of_the_package_rouge(said, gold, expected):
    """Values that rouge 1.0.1 gives, where it gives any."""
    assert recall(said, gold) == pytest.approx(expected)


def test_entropy_of_word_pairs_and_triples():
    """Pairs: one two, two one, each twice. Triples: one two one twice, two one two once."""
    pairs = 1.0
    triples = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    assert n_gram_entropy("one two one two one") == pytest.approx((2 / 3 * pairs + 4 / 3 * triples) / 2)
    assert n_gram_entropy("word") == n_gram_entropy("") == 0


@pytest.mark.parametrize(
    ("part", "rows", "message"),
    [
        ("neighbor_level1", None, "lacks neighbor_level1 of one of RWKU's targets"),
        ("forget_level3", [{"query": "Mira?", "answer": "x"}], "'type' must hold a text, and holds no such column"),
        ("forget_level2", [{"query": ["Mira?"], "answer": "x"}], "'query' must hold a text, and holds list"),
        ("forget_mia", [{"text": ""}], "'text' must hold a text, and holds nothing"),
        ("positive", [{"positive": "Mira"}], "'text' must hold a text"),
        ("fluency", [{"instruction": "Mira " * 700}], "fluency record 1: its question has .* leaves no room"),
    ],
)
def test_what_is_none_of_rwkus_is_refused_without_its_contents(given, data, part, rows, message):
    (data / f"{part}.json").unlink()
    if rows is not None:
        (data / f"{part}.json").write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        benchmark = opened(given)
        benchmark.check()
        benchmark.evaluator(
            Cell("target7", 0, "x"), benchmark.task("target7", 0), benchmark.load(given["model"])[1], {}
        )
    assert "Mira" not in str(error.value).replace("7_Mira_Gull", "")


def test_settings_that_cannot_be_are_refused(given):
    for settings, message in (
        ({"targets": "8"}, "--targets 8: .* has 0 folders 8_"),
        ({"targets": "5-3"}, "--targets is '5-3'"),
        ({"targets": "7;x"}, "--targets is '7;x'"),
        ({"model": ""}, "--model is missing"),
        ({"methods": "npo+rt"}, "RWKU has none"),
        ({"methods": "idk"}, "a text has no question"),
    ):
        with pytest.raises(UserError, match=message):
            opened(given, **settings).check()
    assert opened(given, targets="3-5,4,9").settings.numbers == [3, 4, 5, 9]


@pytest.mark.slow
def test_it_runs_from_end_to_end(given, tmp_path):
    assert "2 cells, 2 to run" in "\n".join(plan("rwku", **given))
    rows = {row["method"]: row for row in bench("rwku", **given, corpus="positive").rows}
    assert rows["original"]["n"] == rows["gradient_ascent"]["n"] == 6
    with open(tmp_path / "out" / "kinds.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert set(found[0]) > {"affirmative_suffix", "incontext_learning", "role_playing"}
    assert {row["method"] for row in found} == {"original", "gradient_ascent"}
