"""The benchmark of fictitious people."""

from __future__ import annotations

from rkld.benching.registry import open_benchmark


def test_what_is_replayed_is_not_what_is_measured():
    """A student rehearses the original's answers to replayed prompts: kept there is not kept elsewhere."""
    found = open_benchmark("people", {"questions": 1000}).task("people", 0)
    measured = {record.question for record in found.asked["retain"]}
    assert measured
    assert not measured & {row["question"] for row in found.replay}
    assert measured <= {row["question"] for row in found.retain}
