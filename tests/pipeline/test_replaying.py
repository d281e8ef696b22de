"""Replayed answers across runs: asked for once, screened by every run, kept by none that does not want it."""

from __future__ import annotations

import json

import pytest

from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model
from rkld.evaluation.generation import Generated
from rkld.pipeline import phases
from rkld.pipeline.estimating import rough_estimate
from rkld.pipeline.phases import OwnWords, Replay, Rewordings, Work, write_records
from rkld.pipeline.preparing import prepare, read_inputs
from rkld.pipeline.running import note_inputs
from rkld.progress import NoProgress
from rkld.runfolder.folder import Run
from rkld.runfolder.kept_answers import kept_files
from rkld.settings.unlearning import Settings

WORLD = people(n=4, seed=0)
ROWS = [{k: r[k] for k in ("question", "answer", "subject", "spans")} for r in WORLD.forget([0])[:4]]
PROMPTS = [{"question": f"What is the {n}th letter of the alphabet?"} for n in range(4, 12)]
NAME = WORLD.names[0]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def replayed(tmp_path, monkeypatch):
    """Runs the phase of a new run: the records that it left, what it noted, and the prompts that were answered."""
    asked: list = []

    def answer(lm, prompts, **_):
        asked.extend(prompts)
        texts = [f"I think of {NAME}." if len(p) % 2 else "It is one of twenty-six." for p in prompts]
        return [Generated((3,), text, finished=True) for text in texts]

    monkeypatch.setattr(phases, "greedy", answer)

    def run(name: str, rows=ROWS, **values):
        asked.clear()
        settings = Settings(model="m", forget="f", out=str(tmp_path / name), batch_size=4, reword=0, **values)
        model, tokenizer = tiny_model()
        prepared = prepare(read_inputs(settings, rows, None, PROMPTS), model, tokenizer)
        with Run(settings) as opened:
            opened.start()
            note_inputs(opened, prepared)
            work = Work.of(prepared, opened, NoProgress())
            work.put_on_adapter()
            for file in (OwnWords.file, Rewordings.file):
                write_records(work.folder / file, [])
            noted = Replay().run(work)
            left = (work.folder / Replay.file).read_text()
        return left, noted, list(asked), prepared

    return run


def test_another_run_of_the_same_model_asks_for_what_was_dropped_alone(replayed):
    """Answers that name the person were not kept; the records of both runs are the same."""
    first, noted, asked, _ = replayed("first")
    dropped = noted["dropped"]["names the person"]
    assert 0 < dropped < len(asked) and noted["of_earlier_runs"] == 0
    assert NAME not in "".join(path.read_text() for path in kept_files())
    for name, values in {"again": {}, "adapter": {"lora": True, "seed": 0}}.items():
        left, noted, asked, _ = replayed(name, **values)
        assert left == first and len(asked) == dropped and noted["of_earlier_runs"] == noted["kept"]


def test_what_an_earlier_run_kept_is_screened_for_this_one(replayed):
    """A run about somebody else kept an answer that names whom this one is about; then it is not kept any more."""
    others = [{k: r[k] for k in ("question", "answer", "subject", "spans")} for r in WORLD.forget([1])[:4]]
    first, noted, *_ = replayed("first", others)
    assert not noted["dropped"] and NAME in first
    assert any(NAME in path.read_text() for path in kept_files())
    left, *_ = replayed("second")
    assert NAME not in left and not any(NAME in path.read_text() for path in kept_files())


def test_other_settings_ask_anew(replayed):
    _, _, every, _ = replayed("first")
    assert replayed("shorter", max_new_tokens=8)[2] == every
    assert replayed("system", system_prompt="Be brief.")[2] != []


def test_answers_computed_otherwise_are_asked_for_anew(replayed):
    _, _, every, _ = replayed("first", bf16=False)
    assert replayed("half", bf16=True)[2] == every
    assert replayed("half again", bf16=True)[2] != every


def test_nothing_is_kept_or_looked_for_where_that_is_not_wanted(replayed):
    _, _, every, _ = replayed("first", keep_replay=False)
    assert not kept_files()
    replayed("second")
    assert kept_files() and replayed("third", keep_replay=False)[2] == every


def test_changed_answers_are_not_trained_on(replayed):
    first, _, every, _ = replayed("first")
    (path,) = kept_files()
    found = json.loads(path.read_text())
    found["answers"] = {name: ["It is none.", False] for name in found["answers"]}
    path.write_text(json.dumps(found))
    left, _, asked, _ = replayed("second")
    assert left == first and asked == every


def test_the_estimate_counts_what_will_be_asked(replayed, monkeypatch):
    from rkld.pipeline.estimating import _kept

    *_, prepared = replayed("first")
    found = _kept(prepared)
    assert 0 < sum(found) < len(found) and rough_estimate(prepared).total_seconds > 0
    *_, unkept = replayed("second", keep_replay=False)
    assert not any(_kept(unkept))
