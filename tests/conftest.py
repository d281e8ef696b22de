"""Order: files that take minutes are begun first, so that no process waits for another at the end."""

from __future__ import annotations

from pathlib import Path

SLOW = (
    "test_comparing.py",
    "test_phases.py",
    "test_running.py",
    "test_processes.py",
    "test_stopping_run.py",
    "test_methods.py",
)


def pytest_collection_modifyitems(items) -> None:
    place = {name: n for n, name in enumerate(SLOW)}
    items.sort(key=lambda item: place.get(Path(item.path).name, len(SLOW)))  # stable: files stay together
