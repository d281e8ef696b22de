"""Jobs in other processes."""

from __future__ import annotations

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
