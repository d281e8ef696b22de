"""Jobs in other processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rkld import UserError
from rkld.benching.jobs import Jobs
from rkld.progress import NoProgress


def test_a_job_that_fails_in_another_process_ends_the_work_with_its_own_error():
    """Else a bad setting would be reported as a broken pool."""
    with pytest.raises(UserError, match="unknown split 'x'"), Jobs(2, NoProgress()) as jobs:
        list(jobs.each(_refuse, [("x",)]))


def _refuse(name: str, progress: NoProgress) -> None:
    raise UserError(f"unknown split '{name}'")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_jobs_end_with_a_parent_that_is_killed(number):
    """Else they would go on for minutes, and write what a new start writes, too."""
    command = [sys.executable, str(Path(__file__).resolve())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
        process.send_signal(number)
        process.communicate(timeout=60)  # until the last of them lets go of the pipe


def _endless(progress: NoProgress) -> None:
    print("begun", flush=True)
    while True:
        pass


if __name__ == "__main__":
    with Jobs(2, NoProgress()) as jobs:
        list(jobs.each(_endless, [(), ()]))
