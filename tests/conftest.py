"""Order: files that take minutes are begun first, so that no process waits for another at the end."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

if not Path("/dev/nvidiactl").exists():  # Triton reads it when it is imported, which peft does
    os.environ.setdefault("TRITON_INTERPRET", "1")

from rkld.errors import UserError
from rkld.pipeline import health
from rkld.reporting.writing import find_browser

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


def pytest_collection_finish() -> None:
    """A run frees memory six times, each time through every object of every imported library: .6 of a tiny run's time,
    unless these are passed over."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def few_everyday_prompts():
    """Each run asks them twice; four show as well as all that they are asked."""
    asked = health.everyday_prompts()[:4]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(health, "everyday_prompts", lambda: asked)
        yield


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    """No test writes into the cache of whoever runs it, or finds what tests of other files left: a purge takes that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")  # no longer: while one is open, nothing else in the process may start an event loop
def browser():
    """An installed Chromium, driven by Playwright; without either the test is skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra dev)")
    try:
        program = find_browser()
    except UserError as error:
        pytest.skip(f"needs a browser: {error}")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()
