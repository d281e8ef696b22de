"""Requests one after another: each from the last one's model, earlier people left alone, nobody named in the tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import rkld
from rkld import UserError, cli
from rkld.benching import request_sequence as module
from rkld.benching.request_sequence import continual, requests
from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model, tiny_tokenizer
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.models.state import fingerprint
from rkld.pipeline import running
from rkld.pipeline.running import run_unlearning
from rkld.records.identity import identifiers
from rkld.records.reading import read_records

WORLD = people(n=4, seed=0)
FIELDS = ("question", "answer", "subject", "aliases", "spans")
FORGET = [{k: r[k] for k in FIELDS} for who in (2, 0) for r in WORLD.forget([who])[1:4]]
RETAIN = [{k: r[k] for k in FIELDS} for r in WORLD.forget([1])[:3]]
PROMPTS = [{"question": f"Where does {WORLD.names[who]} live?"} for who in (2, 0)] + [{"question": "What is tea?"}]
QUICK = {"epochs": 1, "strengthen_epochs": 1, "max_new_tokens": 2, "batch_size": 3, "bf16": False, "stop": "last",
         "lr": 1e-3, "strengthen_lr": 1e-3, "reword": 0}  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A tiny model that has learned nothing: what is measured is how the sequence is run."""
    folder = tmp_path_factory.mktemp("original") / "model"
    save_model(load_model(tiny_model(0)[0], tokenizer=tiny_tokenizer()), folder)
    return folder


@pytest.fixture(scope="module")
def finished(original, tmp_path_factory) -> module.Continual:
    out = tmp_path_factory.mktemp("sequence") / "out"
    return continual(original, FORGET, retain=RETAIN, replay=PROMPTS, out=str(out), keep_files=True, **QUICK)


def rows(found: module.Continual) -> list[dict[str, str]]:
    with open(found.files[0], newline="") as file:
        return list(csv.DictReader(file))


def manifest(found: module.Continual, request: int) -> dict:
    return json.loads((found.files[0].parent / f"request-{request}" / "manifest.json").read_text())


# Requests


def test_each_subject_is_a_request_in_the_order_of_the_file():
    found = requests(read_records([FORGET[3], *FORGET[:3], *FORGET[4:]], "forget"))
    assert [some[0].subject for some in found] == [WORLD.names[0], WORLD.names[2]]
    assert len(found[0]) == 3


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (FORGET[:3], "3 forget records all have the same 'subject'"),
        ([*FORGET, {"question": "Who?", "answer": "Ada Lund."}], "1 of 7 forget records have no 'subject'"),
    ],
)
def test_what_is_no_sequence_is_refused_and_nobody_named(records, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        continual("no-model", records, out=str(tmp_path / "out"))
    assert not any(name in str(error.value) for name in WORLD.names)
    assert not (tmp_path / "out").exists()


def test_what_cannot_go_on_is_refused_before_anything_runs(tmp_path):
    """Two models that speak as one cannot be trained further: the second request would fail after the first's hours."""
    for changed, message in [({"method": "whp"}, "two models"), ({"subject": ("Ada Lund",)}, "--subject")]:
        with pytest.raises(UserError, match=message):
            continual("no-model", FORGET, out=str(tmp_path / "out"), **changed)


# The sequence


def test_each_request_goes_on_from_the_last_ones_model(original, finished):
    """From the original again the first person would be back with the second request."""
    first = finished.model_path.parents[1] / "request-1" / "model"
    assert manifest(finished, 1)["records"]["model"] == fingerprint(load_model(original))
    assert manifest(finished, 2)["records"]["model"] == fingerprint(load_model(first))
    assert fingerprint(load_model(first)) != fingerprint(load_model(original))


def test_earlier_people_are_neither_forgotten_again_nor_replayed(finished):
    """Later ones may be: nobody knows of their requests yet."""
    sets = [manifest(finished, request)["records"] for request in (1, 2)]
    assert [some["forget records"]["n"] for some in sets] == [3, 3]
    of_the_retained = 3  # each forget question with the one name among the retain records in it
    assert [some["replay prompts"]["n"] - of_the_retained for some in sets] == [2, 1]


def test_the_tables_say_what_was_measured_and_what_came_back(finished):
    table = rows(finished)
    assert [row["after"] for row in table] == ["0", "1", "2", "came back: request 1"]
    assert table[0].keys() == {"after"} | {
        f"{name}_{figure}" for name in ("request_1", "request_2", "retain") for figure in module.FIGURES
    }
    for state, row in zip(finished.measured, table):
        assert float(row["request_2_probability"]) == pytest.approx(state["request 2"]["probability"], rel=1e-4)
    after = [float(row["request_1_probability"]) for row in table]
    assert len(set(after[:3])) == 3
    assert after[3] == pytest.approx(after[2] - after[1], rel=1e-3)
    assert not table[3]["retain_probability"]
    assert not table[3]["request_2_probability"]
    text = finished.files[1].read_text()
    assert "request 1: 3, request 2: 3, retain: 3" in text
    assert "| none | " in text
    assert "What came back" in text


def manifest_phases(run):
    """Nothing of it was done again where these are the same: the time that each took is in them."""
    return json.loads((run / "manifest.json").read_text())["phases"]


def numbers(figures):
    """Without those that were not measured, because the answers were cut."""
    return {name: value for name, value in figures.items() if value is not None}


def same(row, figures):
    """All that a row has is what the run measured, which measured more."""
    row, figures = numbers(row), numbers(figures)
    assert row and row == pytest.approx({name: figures.get(name) for name in row}, rel=1e-4)


def test_rows_are_of_the_model_after_that_request(finished):
    """A model measured one request too late would hide what its own erasure did."""
    after = [manifest(finished, request)["phases"]["after"]["metrics"] for request in (1, 2)]
    for request, found in enumerate(after, 1):
        same(finished.measured[request][f"request {request}"], found["forget"])
        same(finished.measured[request]["retain"], found["retain"])
    before = manifest(finished, 1)["phases"]["before"]["metrics"]
    same(finished.measured[0]["request 1"], before["forget"])


def test_no_personal_data_in_the_tables(finished):
    names = [part for name in identifiers(read_records(FORGET, "forget"), ()) for part in (name, name.split()[-1])]
    facts = [span for record in FORGET for span in record["spans"]]
    for path in [*finished.files, *finished.files[0].parent.glob("after-*.json")]:
        assert not any(text in path.read_text() for text in (*names, *facts)), path.name


def test_a_finished_sequence_is_not_run_again(finished, original, monkeypatch):
    before = [path.read_bytes() for path in finished.files]
    monkeypatch.setattr(module, "load_with_encoder", None)
    monkeypatch.setattr(running, "prepare", None)
    out = str(finished.files[0].parent)
    again = continual(original, FORGET, retain=RETAIN, replay=PROMPTS, out=out, keep_files=True, **QUICK)
    assert [path.read_bytes() for path in again.files] == before
    assert again.model_path == finished.model_path
    with pytest.raises(UserError, match=r"request 2: 3.* then, 'request 1: 3, request 2: 2"):
        continual(original, FORGET[:-1], retain=RETAIN, replay=PROMPTS, out=out, **QUICK)
    with pytest.raises(UserError, match="holds a run of rkld unlearn"):
        continual(original, FORGET, out=str(finished.model_path.parent), **QUICK)


@pytest.mark.slow
def test_an_interrupted_lora_sequence_goes_on_and_its_adapter_keeps_its_base(original, tmp_path, monkeypatch):
    """The adapter of the first request is trained further; its folder goes, and nothing may point to it."""
    out = tmp_path / "out"
    arguments = {"model": original, "forget": FORGET, "replay": "none", "out": str(out), "lora": True, **QUICK}
    calls = []

    def cut(data, values, **how):
        calls.append(values["out"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run_unlearning(data, values, **how)

    with monkeypatch.context() as patch:
        patch.setattr(module, "run_unlearning", cut)
        with pytest.raises(KeyboardInterrupt):
            continual(**arguments)
    first = out / "request-1/model"
    phases, adapter = manifest_phases(first.parent), fingerprint(load_model(first))
    found = continual(**arguments)
    assert manifest_phases(first.parent) == phases
    assert not first.exists()
    assert manifest(found, 2)["records"]["model"] == adapter
    assert len(found.measured) == 3
    config = json.loads((found.model_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(original)
    assert load_model(found.model_path).is_adapter


def test_what_each_request_is_given(original, tmp_path, monkeypatch):
    """An adapter merged before the end would not be trained further; one teacher's folder cannot serve two models."""
    given = []

    def fake(data, values, progress):
        given.append({**data, **values})
        return rkld.Result(Path(values["out"]) / "model", Path(values["out"]), {}, [])

    monkeypatch.setattr(module, "run_unlearning", fake)
    monkeypatch.setattr(module._Sequence, "_measure", lambda self, *_: self.measured.append(
        {name: {"n": len(some), **dict.fromkeys(module.FIGURES)} for name, some in self.sets.items()}
    ))  # fmt: skip
    (tmp_path / "out").mkdir()
    found = continual(original, FORGET, out=str(tmp_path / "out"), lora=True, merge=True, teacher="t", **QUICK)
    assert [values["merge"] for values in given] == [False, True]
    assert [values["teacher"] for values in given] == ["t/request-1", "t/request-2"]
    assert [values["model"] for values in given] == [str(original), str(tmp_path / "out/request-1/model")]
    assert [WORLD.names[2] in values["subject"] for values in given] == [False, True]
    for values, records in zip(given, (FORGET[:3], FORGET[3:])):
        read, written = read_records(values["forget"], "forget"), read_records(records, "forget")
        assert [(r.turns, r.subject, r.aliases, r.spans) for r in read] == [
            (r.turns, r.subject, r.aliases, r.spans) for r in written
        ]
    assert "| 1 | – | – | – |" in found.files[1].read_text(), "no spans: nothing to say, not a crash"


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Who?", "answer": "Ada.", "paraphrased_answer": "It is Ada."}, {"text": "Ada lives in Oslo."},
        {"prompt": "Who?", "completion": "Ada."}, {"messages": [{"role": "system", "content": ""},
        {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]},
    ],
)  # fmt: skip
def test_records_of_every_form_come_through(row):
    (record,) = read_records([{**row, "subject": "Ada", "spans": ["Ada"]}], "forget")
    (again,) = read_records([record.row()], "forget")
    for name in ("form", "turns", "subject", "spans", "extra"):
        assert getattr(again, name) == getattr(record, name)


def test_the_command(tmp_path, monkeypatch):
    """It takes the settings of rkld unlearn and says where everything lies."""
    asked = {}

    def fake(*, progress, **settings):
        asked.update(settings)
        return module.Continual([], [Path("out/continual.csv")], Path("out/request-2/model"), ["request 2: known"])

    monkeypatch.setattr(rkld, "continual", fake)
    called = ["bench", "continual", "./model", "--forget", "people.jsonl", "--alpha", "4", "--out", "out"]
    result = CliRunner().invoke(cli.main, called)
    assert result.exit_code == 0
    assert asked.items() >= {"model": "./model", "alpha": 4.0, "out": "out"}.items()
    assert "out/continual.csv" in result.stdout
    assert "out/request-2/model" in result.stdout
    assert "Warning: request 2" in result.stderr
    result = CliRunner().invoke(cli.main, ["bench", "continual", "--forget", "people.jsonl"])
    assert result.exit_code == 2
    assert "rkld bench continual MODEL" in result.output
