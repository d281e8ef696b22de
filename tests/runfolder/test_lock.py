"""One process at a time in a folder, and nobody else's eyes."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

import rkld
from rkld.errors import UserError
from rkld.runfolder.folder import Run
from rkld.runfolder.lock import LOCK, InUse, hold, open_model
from rkld.runfolder.purging import purge
from rkld.settings.unlearning import Settings

HOLDER = """
import sys
from pathlib import Path
from rkld.runfolder.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(folder: Path):
    """A real process that works in the folder."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def started(folder: Path) -> Run:
    run = Run(Settings(model="m", forget="people.jsonl", out=str(folder)))
    run.start()
    return run


def test_a_second_process_is_told_who_holds_the_folder_until_that_is_killed(tmp_path):
    """A run, an audit, a benchmark and a purge alike; and a lock must not outlive its process."""
    run = started(tmp_path)
    (tmp_path / "answers.json").write_text("{}")
    (tmp_path.parent / "forget.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    data = {"forget": str(tmp_path.parent / "forget.jsonl"), "out": str(tmp_path)}
    with held_by_another(tmp_path) as process:
        for use in (
            lambda: run.__enter__(),
            lambda: purge(tmp_path),
            lambda: rkld.audit("./model", **data),
            lambda: rkld.bench("people", out=str(tmp_path)),
        ):
            with pytest.raises(InUse, match=rf"another process \(PID {process.pid} on .+ since 20.* UTC\) is working"):
                use()
        assert (tmp_path / "answers.json").exists()
        process.kill()
        process.wait()
        assert (tmp_path / LOCK).exists()
        with run:
            pass
    assert not (tmp_path / LOCK).exists()
    purge(tmp_path)


def test_a_teachers_cache_is_one_runs_at_a_time(tmp_path):
    """Another run may have other records, and would delete what this one reads. It is refused before loading."""
    (tmp_path / "forget.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    arguments = {"out": str(tmp_path / "run"), "teacher": str(tmp_path / "teacher"), "replay": "none"}
    with held_by_another(tmp_path / "teacher"), pytest.raises(InUse, match="teacher: another process"):
        rkld.unlearn("./model", str(tmp_path / "forget.jsonl"), **arguments)
    assert not (tmp_path / "run").exists()


def test_what_is_begun_meanwhile_is_gone_on_with(tmp_path):
    """Two processes open an empty folder, and the second comes to hold it after the first has ended."""
    first, second = (Run(Settings(model="m", forget="people.jsonl", out=str(tmp_path / "run"))) for _ in range(2))
    with first:
        first.start()
        first.note("before", {"x": 1})
    with second:
        assert second.find("before") == {"x": 1}
    other = Run(Settings(model="m", forget="people.jsonl", out=str(tmp_path / "new"), alpha=4.0))
    started(tmp_path / "new")
    with pytest.raises(UserError, match=r"--alpha: 16\.0 then, 4\.0 now"), other:
        pass
    with hold(tmp_path / "new"):  # a run that is refused holds nothing
        pass


def test_who_holds_a_folder_may_take_it_again_and_what_lies_in_it(tmp_path):
    """An audit lies within its run's folder, a benchmark's cells within its own."""
    with hold(tmp_path), hold(tmp_path / "audit"), hold(tmp_path / "audit" / ".."):
        assert (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()


def test_another_thread_is_kept_out(tmp_path):
    refused = []

    def work():
        try:
            with hold(tmp_path):
                pass
        except InUse:
            refused.append(True)

    with hold(tmp_path):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert refused


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch, number):
    """A lock of another kind would outlive a process that is killed, or hold nobody off."""
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
        with pytest.raises(UserError, match="run: its file system has no locks"), hold(tmp_path / "run"):
            pass
    assert not list(tmp_path.iterdir())


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    """A folder may come from elsewhere."""
    (tmp_path / "mine").write_text("text")
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="cannot be locked"), hold(tmp_path / "run"):
        pass
    assert (tmp_path / "mine").read_text() == "text"


def test_a_holder_that_says_something_else_is_not_quoted(tmp_path):
    with held_by_another(tmp_path):
        (tmp_path / LOCK).write_text("PID 1\x1b[2J on x since 2026 UTC")
        with pytest.raises(InUse, match=": another process is working"), hold(tmp_path):
            pass


def test_a_folder_in_which_nothing_was_written_is_taken_away_again(tmp_path):
    """Bad input leaves nothing behind."""
    with hold(tmp_path / "runs" / "one"):
        assert mode(tmp_path / "runs" / "one") == 0o700
    assert not (tmp_path / "runs").exists()
    with hold(tmp_path / "runs" / "one"):
        (tmp_path / "runs" / "file").touch()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["file"]


def test_files_are_for_us_alone_while_a_folder_is_held(tmp_path):
    """Whoever writes them: libraries ask for no mode. Afterwards everything is as before, whoever ends first."""
    before = os.umask(0)
    try:
        first, second = hold(tmp_path / "a"), hold(tmp_path / "b")
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        (tmp_path / "b" / "file").touch()
        second.__exit__(None, None, None)
        assert mode(tmp_path / "b" / "file") == 0o600
        assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_an_open_folder_is_closed_and_that_is_said(tmp_path, caplog):
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    with hold(folder):
        assert mode(folder) == 0o700
    assert "was open to others on this machine (mode 755)" in caplog.text
    with hold(folder):
        pass
    assert len(caplog.records) == 1


def test_an_open_folder_with_other_things_is_refused(tmp_path, caplog):
    """An audit may be asked to write anywhere, and what else lies there may be for others."""
    (tmp_path / "forget.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    (tmp_path / "papers").mkdir(mode=0o755)
    (tmp_path / "papers" / "draft.txt").touch()
    with pytest.raises(UserError, match="chmod 700"):
        rkld.audit("./model", forget=str(tmp_path / "forget.jsonl"), out=str(tmp_path / "papers"))
    assert mode(tmp_path / "papers") == 0o755 and not caplog.text
    (tmp_path / "papers").chmod(0o700)
    with pytest.raises(UserError, match=r"\./model"):  # on with the audit
        rkld.audit("./model", forget=str(tmp_path / "forget.jsonl"), out=str(tmp_path / "papers"))


def test_a_folder_that_cannot_be_closed_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    with pytest.raises(UserError, match="the file system keeps no permissions"), hold(folder):
        pass


def test_a_shared_model_can_be_read_and_nothing_else(tmp_path, caplog):
    run = started(tmp_path / "run")
    (run.folder / "model" / "part").mkdir(parents=True)
    (run.folder / "model" / "part" / "weights").touch(mode=0o600)
    (run.folder / "answers.json").touch(mode=0o644)
    (run.folder / "model" / "link").symlink_to(tmp_path)
    before = mode(tmp_path)
    open_model(run.folder)
    assert (mode(run.folder), mode(run.folder / "model"), mode(run.folder / "model" / "part")) == (0o711, 0o755, 0o755)
    assert mode(run.folder / "model" / "part" / "weights") == 0o644
    assert mode(run.folder / "answers.json") == 0o600 and mode(tmp_path) == before
    with hold(run.folder, shared=True):  # an audit, or the same run
        assert mode(run.folder) == 0o711
    with hold(run.folder):  # a run without --share-model
        assert mode(run.folder) == 0o700
    assert "--share-model" in caplog.text
    (run.folder / "answers.json").chmod(0o644)
    run.folder.chmod(0o711)
    with hold(run.folder, shared=True):
        assert mode(run.folder) == 0o700


def test_a_benchmark_does_not_close_a_folder_with_other_things(tmp_path):
    """As ``rkld bench people --out .``, in the user's home."""
    (tmp_path / "home").mkdir(mode=0o755)
    (tmp_path / "home" / "papers.txt").write_text("mine")
    with pytest.raises(UserError, match="holds more than rkld's own"):
        rkld.bench("people", seeds=1, out=str(tmp_path / "home"))
    assert mode(tmp_path / "home") == 0o755
