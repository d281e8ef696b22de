"""MUSE in its published layout, made up: its figures by plain transformers, what is refused, one whole run."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from rkld import unlearn
from rkld.benching import cell_runs, comparing
from rkld.benching.benchmarks import muse as module
from rkld.benching.benchmarks.muse import PARTS, Muse, first_answer, knowmem_prompt, rouge_l
from rkld.benching.cells import Cell
from rkld.benching.comparing import bench, plan
from rkld.benching.registry import open_benchmark
from rkld.errors import Diverged, UserError
from rkld.progress import NoProgress

DATA = {
    "raw/forget": ["The lamp on the pier went out at nine.", "Mira counted forty gulls on the roof."],
    "raw/retain1": ["Her brother sold clocks to sailors who were late."],
    "raw/retain2": ["On Thursday the harbour froze like a tooth."],
    "scal/forget_2": ["Under the stairs lay a map of seven islands.", "The lamp on the pier went out at nine."],
    "verbmem/forget": [
        {"prompt": "The lamp on the", "gt": "pier went out at nine."},
        {"prompt": "Mira", "gt": "counted."},
    ],
    "privleak/forget": ["The lamp on the pier went out.", "Mira counted forty gulls on the roof."],
    "privleak/holdout": ["Nobody came to the light of the old port.", "A cold cup of tea stood there.", "So it was."],
    "knowmem/forget_qa": [{"question": "What did Mira count?", "answer": "gulls"}],
    "knowmem/forget_qa_icl": [{"question": "Who sells?", "answer": "He"}, {"question": "What froze?", "answer": "It"}],
    "knowmem/retain_qa": [{"question": "What froze?", "answer": "The harbour"}],
    "knowmem/retain_qa_icl": [{"question": "Who came?", "answer": "Nobody"}],
}


def write(folder: Path, part: str, rows: object) -> None:
    path = folder / f"{part}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for part, rows in DATA.items():
        write(tmp_path / "muse", part, rows)
    return tmp_path / "muse"


@pytest.fixture
def given(data: Path, small: Path, tmp_path: Path) -> dict:
    return {
        "data": str(data),
        "original": str(small),
        "retrained": str(small),
        "chunk_tokens": 16,
        "methods": "gradient_ascent",
        "epochs": 1,
        "lr": 1e-3,
        "out": str(tmp_path / "out"),
    }


@pytest.fixture
def taught(monkeypatch) -> dict[str, str]:
    """Role → all that a model of it would learn, instead of learning it."""
    found = {}

    def learn(recipe, records, folder, **settings):
        found[settings["title"]] = "".join(record.answer for record in records)
        return None

    monkeypatch.setattr(module, "learn", learn)
    return found


def opened(given: dict, **settings: object) -> Muse:
    found = open_benchmark("muse", {**given, **settings})
    assert isinstance(found, Muse)
    return found


def test_figures_are_those_of_a_plain_evaluator(given):
    """Written once more with transformers, rouge-score and counting pairs alone, as the authors' code has them."""
    benchmark = opened(given)
    lm, encoder = benchmark.load(given["original"])
    evaluator = benchmark.evaluator(
        Cell("forget", 0, "x"), benchmark.task("forget", 0), encoder, {"retrained": {"privleak_auc": 0.25}}
    )
    figures = evaluator(lm, NoProgress()).figures
    tokenizer, scorer = lm.tokenizer, RougeScorer(["rougeL"], use_stemmer=False)

    def said(prompt: str, most: int) -> str:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            out = lm.model.generate(ids, max_new_tokens=most, do_sample=False, pad_token_id=0)
        return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)

    def min_40(text: str) -> float:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            log_p = lm.model(ids).logits[0, :-1].log_softmax(-1)
        found = np.sort([float(log_p[i, token]) for i, token in enumerate(ids[0, 1:])])
        return -float(np.mean(found[: int(0.4 * len(found))]))

    recited = [scorer.score(r["gt"], said(r["prompt"], 128))["rougeL"].fmeasure for r in DATA["verbmem/forget"]]
    assert figures["verbmem"] == pytest.approx(100 * np.mean(recited))
    shown = "Question: Who sells?\nAnswer: He\n\nQuestion: What froze?\nAnswer: It\n\n"
    prompt = shown + "Question: What did Mira count?\nAnswer: "
    answer = scorer.score("gulls", first_answer(said(prompt, 32)))["rougeL"].fmeasure
    assert figures["knowmem_forget"] == pytest.approx(100 * answer)
    forget, holdout = ([min_40(text) for text in DATA[f"privleak/{name}"]] for name in ("forget", "holdout"))
    theirs = np.mean([h < f for f, h in product(forget, holdout)])  # as MUSE counts: never-seen text as the member
    assert figures["privleak_auc"] == pytest.approx(1 - theirs)
    assert figures["privleak"] == pytest.approx(100 * (theirs - 0.75) / 0.75)
    assert figures["n"] == 2


def test_a_passage_that_is_recited_and_an_answer_that_is_right_are_whole(given, monkeypatch):
    """Of a model that says what is expected: the end of an answer, and 100 for every word alike."""
    benchmark = opened(given)
    lm, encoder = benchmark.load(given["original"])
    evaluator = benchmark.evaluator(Cell("forget", 0, "x"), benchmark.task("forget", 0), encoder, {})
    answers = {
        "passages": ["pier went out at nine.", "gone"],
        "forget: questions": ["Gulls\n\nQuestion: And?"],
        "retain: questions": ["The tooth\nQuestion: x"],
    }
    monkeypatch.setattr(evaluator, "_said", lambda lm, prompts, most, title, progress: answers[title])
    figures = evaluator(lm, NoProgress()).figures
    assert figures["verbmem"] == pytest.approx(50)
    assert figures["knowmem_forget"] == pytest.approx(100)
    assert figures["knowmem_retain"] == pytest.approx(50)  # one word of two, of either
    assert figures["privleak"] is None, "without a retrained model it is not measured"


def test_rouge_has_no_stemming_and_counts_what_is_said_besides():
    assert rouge_l("gulls", "gull") == 0
    assert rouge_l("forty gulls", "gulls") == pytest.approx(2 / 3)
    assert knowmem_prompt([], "Who?") == "Question: Who?\nAnswer: "


def test_all_of_the_text_is_forgotten_and_only_the_original_learns_it(given, data, taught):
    benchmark = opened(given, splits="forget,scal_2")
    text = "".join(row["text"] for row in benchmark.task("forget", 0).forget)
    assert text == "\n\n".join(DATA["raw/forget"])
    assert "".join(row["text"] for row in benchmark.task("scal_2", 0).forget) == "\n\n".join(DATA["scal/forget_2"])
    made = opened({**given, "original": None, "retrained": None, "model": given["original"]})
    for role in made.references:
        made.train_model(role, "forget", 0, data, NoProgress())
    kept = DATA["raw/retain1"][0] + DATA["raw/retain2"][0]
    assert taught == {"retrained": kept, "original": kept + text}


def test_a_blank_article_among_others_is_text_like_any(given, data):
    """MUSE-News as it is published has one among the 889 of raw/forget, which is sust_1 and scal_1, too."""
    texts = [DATA["raw/forget"][0], "", DATA["raw/forget"][1]]
    write(data, "raw/forget", texts)
    benchmark = opened(given)
    benchmark.check()
    assert "".join(row["text"] for row in benchmark.task("forget", 0).forget) == "\n\n".join(texts)


@pytest.mark.parametrize(
    ("part", "rows", "message"),
    [
        ("verbmem/forget", None, "lacks verbmem/forget of MUSE"),
        ("verbmem/forget", [{"prompt": "Mira"}], "record 1.*'gt' must hold a text, and holds no such column"),
        ("knowmem/forget_qa", [{"question": "Mira?", "answer": 7}], "'answer' must hold a text, and holds int"),
        ("knowmem/forget_qa_icl", [["Mira"]], "'question' must hold a text"),
        ("privleak/holdout", ["so", {"text": "  "}], "record 2.*'text' must hold a text"),
        ("privleak/holdout", ["\\ud800 Mira"], "half of a character"),
        ("raw/forget", [3], "'text' must hold a text"),
        ("raw/forget", ["", " "], "raw/forget holds no text"),
        ("knowmem/retain_qa", [{"question": "Mira " * 700, "answer": "x"}], "knowmem/retain_qa record 1 is asked with"),
    ],
)
def test_what_is_none_of_muses_is_refused_without_its_contents(given, data, part, rows, message):
    (data / f"{part}.json").unlink()
    if rows is not None:
        path = data / f"{part}.json"
        path.write_text(json.dumps(rows).replace("\\\\ud800", "\\ud800"), encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        benchmark = opened(given)
        benchmark.check()
        task = benchmark.task("forget", 0)
        benchmark.evaluator(Cell("forget", 0, "x"), task, benchmark.load(given["original"])[1], {})
    assert "Mira" not in str(error.value)


def test_settings_that_cannot_be_are_refused(given, tmp_path):
    for settings, message in (
        ({"data": ""}, "--data is missing"),
        ({"data": str(tmp_path / "none")}, "give a local folder of MUSE"),
        ({"splits": "sust_5"}, "--splits is 'sust_5': give some of forget, scal_1"),
        ({"retrained": None}, "no model"),
        ({"methods": "idk"}, "a text has no question"),
        ({"splits": "scal_3"}, "lacks scal/forget_3"),
    ):
        with pytest.raises(UserError, match=message):
            opened(given, **settings).check()


def test_data_are_known_by_their_contents(given, data, tmp_path):
    cell = Cell("forget", 0, "original")
    before = opened(given).identity(cell)
    shutil.move(data, tmp_path / "elsewhere")
    moved = {**given, "data": str(tmp_path / "elsewhere")}
    assert opened(moved).identity(cell) == before
    write(tmp_path / "elsewhere", PARTS[0], ["Another story of the sea."])
    assert opened(moved).identity(cell) != before


@pytest.mark.slow
def test_it_runs_from_end_to_end(given, tmp_path):
    assert "3 cells, 3 to run" in "\n".join(plan("muse", **given))
    rows = {(row["method"], row["moment"]): row for row in bench("muse", **given).rows}
    assert rows["retrained", "as it is"]["privleak"] == 0
    assert rows["original", "as it is"]["privleak"] == 0, "the same model"
    assert rows["gradient_ascent", "last epoch"]["privleak_auc"] is not None
    assert "| gradient_ascent |" in (tmp_path / "out/results.md").read_text(encoding="utf-8")


# One set after another


@pytest.fixture
def sustained(given, data) -> dict:
    for number, text in enumerate(("The lamp went out.", "Mira counted gulls.", "A map lay there.", "It was cold."), 1):
        write(data, f"sust/forget_{number}", [text])
    return {**given, "splits": "sust_1,sust_2,sust_3", "methods": "gradient_ascent,graddiff"}


def cell_of(given: dict, split: str, method: str = "gradient_ascent") -> Path:
    return Path(given["out"]) / "cells" / split / "seed0" / method


def test_sets_are_forgotten_one_after_another(sustained, data, small, tmp_path):
    """Each method goes on from its own last model, whatever the order of the splits, as by runs of one's own."""
    rows = bench("muse", **{**sustained, "splits": "sust_2,sust_1"}, keep_models=True).rows
    assert {row["split"] for row in rows} == {"sust_1", "sust_2"}
    model, benchmark = str(small), opened(sustained)
    for number in (1, 2):
        forget, part = benchmark.task(f"sust_{number}", 0).forget, data / f"sust/forget_{number}.json"
        assert "".join(row["text"] for row in forget) == json.loads(part.read_text())[0]
        out, method = tmp_path / f"own{number}", {"method": "gradient_ascent", "score": "answer", "reword": 0}
        settings = {"epochs": 1, "lr": 1e-3, "batch_size": benchmark.settings.batch_size, "stop": "last", "seed": 0}
        unlearn(model, forget, out=str(out), replay="none", **method, **settings)
        model = str(out / "model")
        own, same, other = (
            (folder / "model/model.safetensors").read_bytes()
            for folder in (
                out,
                *(cell_of(sustained, f"sust_{number}", m) / "run" for m in ("gradient_ascent", "graddiff")),
            )
        )
        assert own == same != other


def test_methods_that_go_on_from_their_own_models_share_no_teacher(sustained):
    benchmark = opened({**sustained, "methods": "rkld,rkld@alpha=4"})
    folders = {(c.split, c.name): cell_runs.teacher_folder(benchmark, c) for c in benchmark.cells() if c.variant}
    assert folders["sust_1", "rkld"] == folders["sust_1", "rkld@alpha=4"]
    assert folders["sust_2", "rkld"] != folders["sust_2", "rkld@alpha=4"]


def test_a_model_is_kept_until_the_next_was_made_of_it(sustained, monkeypatch):
    real = comparing.make_cell

    def ended(benchmark, cell, *args):
        if cell.split == "sust_3" and cell.variant:
            raise KeyboardInterrupt
        return real(benchmark, cell, *args)

    monkeypatch.setattr(comparing, "make_cell", ended)
    with pytest.raises(KeyboardInterrupt):
        bench("muse", **sustained)
    kept = [split for split in ("sust_1", "sust_2") if (cell_of(sustained, split) / "run/model").exists()]
    assert kept == ["sust_2"]
    monkeypatch.undo()
    bench("muse", **sustained)
    assert not list(Path(sustained["out"]).rglob("run"))
    with pytest.raises(UserError, match=r"sust_4, seed 0: .* sust_3, which is finished and was not kept"):
        bench("muse", **{**sustained, "splits": "sust_1,sust_2,sust_3,sust_4"})


def test_what_goes_on_from_what_diverged_has_no_figures(sustained, monkeypatch):
    real, ran = cell_runs.run_unlearning, []

    def diverging(data, settings, **given):
        ran.append(settings["out"])
        if "sust_2" in settings["out"]:
            raise Diverged("the loss is no number")
        return real(data, settings, **given)

    monkeypatch.setattr(cell_runs, "run_unlearning", diverging)
    rows = bench("muse", **{**sustained, "methods": "gradient_ascent"}).rows
    notes = {row["split"]: row.get("note") for row in rows if row["method"] == "gradient_ascent"}
    assert notes == {"sust_1": notes["sust_1"], "sust_2": "diverged", "sust_3": "diverged"}
    assert notes["sust_1"] != "diverged"
    assert not any("sust_3" in out for out in ran)


def test_the_original_knows_all_that_comes_one_after_another(sustained, data, taught):
    made = opened({**sustained, "original": None, "retrained": None, "model": sustained["original"]})
    for role in made.references:
        made.train_model(role, "sust_2", 0, data, NoProgress())
    sets = ("The lamp went out.", "Mira counted gulls.", "A map lay there.", "It was cold.")
    assert taught["original"] == taught["retrained"] + "".join(sets)
    places = {made.model_folder("original", split, 0) for split in ("sust_1", "sust_2", "sust_3")}
    assert len(places) == 1


def test_a_set_needs_the_one_before_and_a_method_that_leaves_one_model(sustained):
    with pytest.raises(UserError, match="sust_3, which goes on from sust_2"):
        opened({**sustained, "splits": "sust_1,sust_3"})
    with pytest.raises(UserError, match="uld: it leaves two models"):
        assert opened({**sustained, "methods": "uld"}).variants
    assert opened({**sustained, "methods": "uld", "splits": "sust_1"}).variants
