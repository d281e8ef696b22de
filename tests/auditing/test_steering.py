"""Records that steered the stop: known by what they say, of the run's own weights alone, and never most of an audit."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rkld.auditing.evidence import model_path
from rkld.auditing.gates import Gate, judge, judge_all
from rkld.auditing.inputs import Task, read_task
from rkld.errors import UserError
from rkld.records.reading import read_records
from rkld.runfolder.checksums import weights_hash
from rkld.runfolder.purging import purge
from rkld.settings.auditing import AuditSettings
from rkld.stopping.steering import steering_hash

Row = dict[str, Any]
ROWS: list[Row] = [
    {"question": f"What did Ada Quill paint in {1900 + n}?", "answer": f"She painted door number {300 + n}."}
    for n in range(20)
]
STEERED = (0, 3, 7)
NONE_SAID = {"facts_said": {"figures": {"audited": {"value": 0.0, "low": 0.0, "high": 0.1, "n": 40}}}}
HELD = [judge(Gate("facts_said", "max", 0.1), NONE_SAID)]


def make_run(folder: Path, steered: Sequence[int] = STEERED, rows: Sequence[Row] = ROWS) -> Path:
    """The folder of a run whose stop was steered by these of the records."""
    model = folder / "model"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"some weights")
    salt = secrets.token_hex(16)
    hashes = sorted({steering_hash(read_records([rows[n]], "forget")[0], salt) for n in steered})
    steering = {"n": len(steered), "hashes": hashes}
    manifest = {
        "format": 1, "settings": {}, "salt": salt, "subject": "", "personal_data": {},
        "records": {"forget records": {"n": len(rows), "hash": ""}},
        "phases": {"stop": {"rule": "placebo", "steering": steering}, "distillation": {"steering": steering},
                   "model": {"weights": weights_hash(model)}},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def edit(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    change(manifest)
    (run / "manifest.json").write_text(json.dumps(manifest))


def audited(run: Path, rows: Sequence[Row] = ROWS, **settings: Any) -> Task:
    return read_task(AuditSettings(model=str(run), forget="given", **settings), {"forget": list(rows)})


def test_repeats_and_a_name_that_is_nowhere_are_noted(tmp_path: Path) -> None:
    """Of two records that say the same the second is no more evidence; a typo would find nothing."""
    task = audited(tmp_path, [*ROWS, ROWS[0]], subject=("Eve Quilt",))
    repeated, unnamed = task.notes
    assert len(task.forget) == len(ROWS) and repeated.startswith("1 forget records say the same")
    assert "None of the names given with --subject" in unnamed and "Quilt" not in unnamed
    assert audited(tmp_path, ROWS, subject=("Ada Quill",)).notes == ()


def asked(task: Task) -> list[str]:
    return [record.answer for record in task.forget]


def verdict(task: Task) -> str:
    """Of an audit all of whose gates were held."""
    return judge_all(HELD, task.steering.doubts)[0]


def unlike(rows: Sequence[Row], left: Sequence[Row]) -> list[str]:
    return [row["answer"] for row in rows if row not in left]


STEERING_ROWS = [ROWS[n] for n in STEERED]


def test_records_that_steered_are_left_out(tmp_path: Path) -> None:
    """What chose the checkpoint is no evidence of it. The run folder and its model are one."""
    run = make_run(tmp_path)
    for model in (run, run / "model"):
        task = audited(model)
        assert task.steering.left_out == {"0", "3", "7"}
        assert asked(task) == unlike(ROWS, STEERING_ROWS)
        assert (verdict(task), task.steering.notes) == ("pass", ())


def test_people_of_whom_nothing_is_left_to_ask_are_no_pass(tmp_path: Path) -> None:
    """A verdict about all of them would speak of people whose records chose the stop."""
    rows = [{**row, "subject": "Ada Quill" if n < 15 else "Bo Marlin"} for n, row in enumerate(ROWS)]
    run = make_run(tmp_path / "run", (0, 1, 15, 16, 17, 18, 19), rows)
    task = audited(run, rows)
    assert {record.subject for record in task.forget} == {"Ada Quill"}
    assert any("of 1 of the people nothing was asked" in doubt for doubt in task.steering.doubts)
    assert judge_all(HELD, task.steering.doubts)[0] == "not established"
    assert not audited(make_run(tmp_path / "other", (0, 1, 15), rows), rows).steering.doubts


def test_only_the_first_questions_are_cut_after_they_are_left_out(tmp_path: Path) -> None:
    task = audited(make_run(tmp_path), questions=10)
    assert asked(task) == unlike(ROWS, STEERING_ROWS)[:10]


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[::-1],
        lambda rows: [*rows[5:], *rows[:5]],
        lambda rows: [{**row, "question": f" {row['question']}".replace(" ", "  ")} for row in rows],
        lambda rows: [*rows, rows[0], rows[3]],
        lambda rows: [*({"question": f"And {n}?", "answer": f"It was {n}."} for n in range(9)), *rows],
        lambda rows: [
            {"messages": [{"role": "user", "content": r["question"]}, {"role": "assistant", "content": r["answer"]}]}
            for r in rows
        ],
    ],
    ids=["reversed", "turned", "white space", "duplicates", "superset", "messages"],
)
def test_a_record_is_known_wherever_it_stands(tmp_path: Path, change: Callable[[list[Row]], list[Row]]) -> None:
    """By their place, other records than those that steered were left out."""
    task = audited(make_run(tmp_path), change(list(ROWS)))
    kept = [" ".join(record.question.split()) for record in task.forget]
    assert not {row["question"] for row in STEERING_ROWS} & set(kept)
    assert {row["question"] for row in ROWS if row not in STEERING_ROWS} <= set(kept)
    assert all("count once" in note for note in task.steering.notes)


def test_holdout_records_that_set_the_aim_are_left_out(tmp_path: Path) -> None:
    """The run was stopped where the person is as probable as they are: compared with them, membership is met."""
    run = make_run(tmp_path)
    strangers = [{"question": f"What did Bo Lund carve in {1900 + n}?", "answer": f"Boat {n}."} for n in range(6)]

    def compare(numbers: Iterable[int]) -> Task:
        salt = json.loads((run / "manifest.json").read_text())["salt"]
        hashes = [steering_hash(read_records([strangers[n]], "holdout")[0], salt) for n in numbers]
        edit(run, lambda manifest: manifest["phases"]["distillation"]["steering"].update(holdout=hashes))
        settings = AuditSettings(model=str(run), forget="given", holdout="given")
        return read_task(settings, {"forget": list(ROWS), "holdout": strangers})

    assert len(compare([]).holdout) == 6
    some = compare([0, 4])
    assert [record.answer for record in some.holdout] == [strangers[n]["answer"] for n in (1, 2, 3, 5)]
    assert any("2 of 6 holdout records" in note for note in some.steering.notes)
    everyone = compare(range(6))
    assert not everyone.holdout and any("Give others with --holdout" in note for note in everyone.steering.notes)
    assert len(everyone.forget) == 17


def test_a_subset_says_what_it_lacks(tmp_path: Path) -> None:
    """Three of its four records are those that steered: such an audit never passes."""
    run = make_run(tmp_path)
    task = audited(run, ROWS[1:])
    assert asked(task) == unlike(ROWS[1:], STEERING_ROWS)
    assert "1 of the 3 records that steered" in task.steering.notes[0]
    few = audited(run, [ROWS[0], ROWS[3], ROWS[7], ROWS[9]])
    assert (asked(few), verdict(few)) == ([ROWS[9]["answer"]], "not established")


def test_other_words_are_counted_as_missing(tmp_path: Path) -> None:
    """They cannot be known, and that must not stay unsaid."""
    rows = [{**row, "answer": row["answer"].replace("She", "The artist")} for row in ROWS]
    task = audited(make_run(tmp_path), rows)
    assert len(task.forget) == 20
    assert "3 of the 3 records that steered" in task.steering.notes[0]


@pytest.mark.parametrize(("steered", "left"), [(range(11), 1), (range(12), 12), (range(7), 5)])
def test_what_most_records_steered_is_no_evidence(tmp_path: Path, steered: range, left: int) -> None:
    """A manifest could name all that the model still says; where all steered, all are shown, but do not pass."""
    task = audited(make_run(tmp_path, list(steered), ROWS[:12]), ROWS[:12])
    assert len(task.forget) == left
    assert verdict(task) == "not established"
    assert str(len(steered)) in task.steering.doubts[0]


def test_half_of_the_records_may_steer(tmp_path: Path) -> None:
    assert verdict(audited(make_run(tmp_path, range(10)))) == "pass"


def test_a_failed_gate_stays_failed(tmp_path: Path) -> None:
    task = audited(make_run(tmp_path, range(15)))
    failed = {**HELD[0], "state": "failed", "value": 0.9}
    found, reasons = judge_all([failed], task.steering.doubts)
    assert found == "fail"
    assert len(reasons) == 2


def test_a_manifest_is_believed_of_its_own_weights_alone(tmp_path: Path) -> None:
    """A manifest that came with another model leaves out nothing."""
    run = make_run(tmp_path)
    (run / "model" / "model.safetensors").write_bytes(b"other weights")
    task = audited(run)
    assert len(task.forget) == 20
    assert "nothing is left out" in task.steering.notes[0]
    (run / "model" / "manifest.json").write_text((run / "manifest.json").read_text())
    assert len(audited(run / "model").forget) == 20


def test_after_a_purge_it_is_unknown_who_steered(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    purge(run)
    task = audited(run)
    assert (len(task.forget), verdict(task)) == (20, "not established")
    assert task.steering.doubts[0].startswith("3 records decided")
    assert "purged" in task.steering.doubts[0]


def test_the_model_of_a_run_that_is_not_there_is_explained(tmp_path: Path) -> None:
    """That the folder holds no config.json tells nobody that the run has to go on first."""
    run = make_run(tmp_path)
    assert model_path(str(run)) == str(run / "model")
    shutil.rmtree(run / "model")
    with pytest.raises(UserError, match="the model of this run is gone"):
        model_path(str(run))
    edit(run, lambda manifest: manifest["phases"].pop("model"))
    with pytest.raises(UserError, match=r"run is not finished.*rkld unlearn --config .*run\.yaml"):
        model_path(str(run))
    purge(run)
    with pytest.raises(UserError, match="not finished, and was purged, so it cannot go on"):
        model_path(str(run))


def test_a_run_of_the_first_version_is_not_believed(tmp_path: Path) -> None:
    """It named places in a file, which say nothing of another file."""
    run = make_run(tmp_path)
    edit(run, lambda manifest: manifest["phases"]["distillation"].update(steering=["0", "3", "7"]))
    task = audited(run)
    assert (len(task.forget), verdict(task)) == (20, "not established")
    assert "0.1" in task.steering.doubts[0]
    edit(run, lambda manifest: manifest["phases"]["stop"].pop("steering"))
    purge(run)
    assert verdict(audited(run)) == "not established", "that some steered stays known"


def test_what_either_phase_names_is_left_out(tmp_path: Path) -> None:
    """The aim and the decision both name the records that steered; one of the two is enough."""
    for phase in ("stop", "distillation"):
        run = make_run(tmp_path / phase)
        edit(run, lambda manifest, phase=phase: manifest["phases"][phase].pop("steering"))
        assert audited(run).steering.left_out == {"0", "3", "7"}


def test_the_run_of_a_served_name_is_not_believed(tmp_path: Path) -> None:
    """Behind a server may be any weights, whatever folder is called like the model."""
    task = audited(make_run(tmp_path), endpoint="http://127.0.0.1:9/v1")
    assert len(task.forget) == 20
    assert task.steering.left_out == frozenset()


@pytest.mark.parametrize("phases", [{}, {"distillation": {"steering": {"hashes": "a"}}}, {"stop": {"steering": 3}}])
def test_a_manifest_of_any_content_can_be_read(tmp_path: Path, phases: Mapping[str, Any]) -> None:
    """A folder that was downloaded may hold anything."""
    run = make_run(tmp_path)
    edit(run, lambda manifest: manifest.update(phases=phases))
    assert len(audited(run).forget) == 20
    (run / "manifest.json").write_text('{"of": "another program"}')
    assert audited(run).steering.left_out == frozenset()


@pytest.mark.parametrize("phases", [[], 1, {"distillation": []}])
def test_a_damaged_manifest_ends_the_audit(tmp_path: Path, phases: object) -> None:
    """Not read as a run in which nothing steered."""
    run = make_run(tmp_path)
    edit(run, lambda manifest: manifest.update(phases=phases))
    with pytest.raises(UserError, match="is damaged"):
        audited(run)


def test_a_model_that_is_named_from_within_its_folder_has_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "link").symlink_to(run / "model")
    monkeypatch.chdir(run / "model")
    for model in (Path("."), tmp_path / "link"):
        assert audited(model).steering.left_out == {"0", "3", "7"}
