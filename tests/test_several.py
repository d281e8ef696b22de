"""What several processes do as one, as far as one process can show it; tests/training/test_processes.py starts two."""

from __future__ import annotations

import pytest

from rkld import processes
from rkld.auditing.attacks.relearning import Relearning
from rkld.auditing.running import _check_served
from rkld.errors import UserError
from rkld.pipeline.arguments import check_engine, training_arguments
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


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_engines_that_take_the_model_away_are_refused(monkeypatch, variable):
    check_engine()
    monkeypatch.setenv(variable, "true")
    with pytest.raises(UserError, match="whole in every process"):
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
