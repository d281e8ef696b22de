"""What several processes do as one, as far as one process can show it; tests/training/test_processes.py starts two."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from rkld import processes
from rkld.auditing.attacks.relearning import Relearning
from rkld.auditing.running import _check_served
from rkld.cli import main
from rkld.errors import UserError
from rkld.pipeline.arguments import check_engine, training_arguments
from rkld.pipeline.preparing import check_shardable
from rkld.runfolder.lock import hold
from rkld.settings.auditing import AuditSettings
from rkld.settings.unlearning import Settings


def test_one_process_does_everything_itself_and_waits_for_nobody():
    with processes.together():
        assert processes.count() == 1 and processes.is_main() and processes.writes() and processes.is_alone()
        assert processes.by_main(lambda: 3) == processes.checked(lambda: 3) == 3
        assert processes.everyone(lambda: 3) == [3]
        told = []
        assert processes.shared([1, 2, 3], lambda some, advance: [advance(1) or 2 * n for n in some], told.append)
        assert told == [1, 1, 1]


@pytest.mark.parametrize("n", [0, 1, 3, 7])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_item_falls_to_one_process(monkeypatch, n, count):
    """Also where there are fewer items than processes."""
    monkeypatch.setattr(processes, "count", lambda: count)
    parts = []
    for index in range(count):
        monkeypatch.setattr(processes, "index", lambda index=index: index)
        parts.append(processes.part(range(n)))
    assert [i for part in parts for i in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_folder_is_not_taken_by_each_of_several_processes(monkeypatch, tmp_path):
    """Benchmarks would each write the same files."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="only unlearn and audit run in several"), hold(tmp_path / "run"):
        pass
    with processes.alone(), hold(tmp_path / "run"):  # by the one that does it for all
        pass


@pytest.mark.parametrize("command", [["bench", "people"], ["bench", "continual", "m", "--forget", "f"], ["demo"]])
def test_benchmarks_and_others_start_as_one_process_and_say_how_to_use_several(monkeypatch, tmp_path, command):
    """Nothing has been made then, and the first one alone says so."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        done = CliRunner().invoke(main, command)
        assert done.exit_code != 0
        told.append(done.output.count("started as 2 processes") and done.output.count("--jobs"))
    assert told == [1, 0]
    assert list(tmp_path.iterdir()) == []


def test_a_served_model_is_asked_by_one_process(monkeypatch):
    """Each would ask it everything."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="a served model is asked by one"):
        _check_served(AuditSettings(model="m", forget="f", endpoint="http://localhost:1"))


def test_relearning_that_processes_cannot_share_is_not_run(monkeypatch):
    """Of another number of records a step it would be another attack."""
    attack = Relearning("relearning")
    monkeypatch.setattr(processes, "count", lambda: 3)
    assert "cannot be split evenly over 3 processes" in attack.missing(None)


ZERO = "ACCELERATE_DEEPSPEED_ZERO_STAGE"


@pytest.mark.parametrize(
    "variables",
    [{"ACCELERATE_USE_FSDP": "true"}, {"ACCELERATE_USE_DEEPSPEED": "true", ZERO: "3"},
     {"ACCELERATE_USE_DEEPSPEED": "true"}],
    ids=["fsdp", "zero-3", "zero-of-a-file"],
)  # fmt: skip
def test_engines_that_take_the_model_away_are_refused(monkeypatch, variables):
    check_engine()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="whole in every process"):
        check_engine()


@pytest.mark.parametrize(
    ("values", "wanted"),
    [({"method": "base_vector"}, "another model beside"), ({"method": "task_arithmetic"}, "another model beside"),
     ({"merge": True, "lora": True}, "--merge"), ({"control": "retrained"}, "--control")],
)  # fmt: skip
def test_what_would_lie_whole_in_every_process_is_not_sharded(values, wanted):
    settings = {"model": "m", "forget": "f", "shard": True}
    check_shardable(Settings(**settings))
    with pytest.raises(UserError, match=wanted):
        check_shardable(Settings(**settings, **values))
    with pytest.raises(UserError, match="load_sharded"):
        check_shardable(Settings(**settings), model=object())


@pytest.mark.parametrize(
    ("values", "wanted"),
    [({"writer": "w"}, "rkld reword write"), ({"trust_remote_code": True}, "--trust-remote-code"),
     ({"gate": "sago"}, "--shard and --gate"), ({"sam": 0.1}, "--shard and --sam"),
     ({"method": "bs_s"}, "has the student answer"), ({"batch_size": 5}, "multiple of 2")],
)  # fmt: skip
def test_what_several_processes_cannot_do_is_refused_by_the_settings(monkeypatch, values, wanted):
    settings = {"model": "m", "forget": "f", "shard": True}
    for asked in ("launched", "count"):
        monkeypatch.setattr(f"rkld.processes.{asked}", lambda: 2)
    check_shardable(Settings(**settings))
    with pytest.raises(UserError, match=wanted):
        check_shardable(Settings(**settings, **values))
    if "writer" in values:
        check_shardable(Settings(**settings, **values, writer_endpoint="http://localhost:1/v1"))


def test_deepspeed_runs_where_it_leaves_the_weights_whole(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv(ZERO, "2")
    check_engine()


def test_the_records_of_a_step_are_shared_evenly_or_not_at_all(monkeypatch, tmp_path):
    """However many processes there are, a step sees as many records: the result does not depend on their number."""
    settings = Settings(model="m", forget="f", batch_size=12)
    monkeypatch.setattr(processes, "count", lambda: 3)
    args = training_arguments(settings, tmp_path)
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps * 3 == 12
    monkeypatch.setattr(processes, "count", lambda: 5)
    with pytest.raises(UserError, match=r"12.*evenly over 5 processes.*multiple of 5"):
        training_arguments(settings, tmp_path)
