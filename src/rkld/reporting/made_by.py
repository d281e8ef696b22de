"""The commands that made what a page shows, without names: in place of files and texts stands what they are."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from rkld.reporting.run import Run
from rkld.settings.auditing import AuditSettings
from rkld.settings.specification import Spec, flag
from rkld.settings.table import specs
from rkld.settings.unlearning import Settings

SHOWN = ("KIND", "NAME=VALUE", "NAME,…", "TASK", "TRACKER")
"""What texts stand for that are shown: rkld's own words, and figures with their limits."""


def commands(run: Run) -> list[str]:
    """``rkld unlearn`` and ``rkld audit`` with the options that are not the defaults, where each was run.

    Of no file, folder, model, prompt or address more is said than that one was given. ``--subject`` is not in them:
    neither the manifest nor an audit has it.
    """
    found = []
    for verb, cls, settings in (
        ("unlearn", Settings, run.manifest.get("settings")),
        ("audit", AuditSettings, (run.audit or {}).get("settings")),
    ):
        if isinstance(settings, Mapping) and settings:
            found.append(" ".join(["rkld", verb, "MODEL", *_options(cls, settings)]))
    return found


def _options(cls: type, settings: Mapping[str, Any]) -> Iterator[str]:
    for name, spec in specs(cls).items():
        if name == "model":
            continue
        value = settings.get(name, spec.default)
        value = tuple(value) if isinstance(value, list) else value
        if name == "forget":
            yield f"{flag(name)} {_kind(spec)}"
        elif value == spec.default or value is None:
            continue
        elif isinstance(value, bool):
            yield flag(name) if value else f"--no-{flag(name)[2:]}"
        else:
            for one in value if isinstance(value, tuple) else (value,):
                yield f"{flag(name)} {without_names(spec, one)}"


def without_names(spec: Spec, value: Any) -> str:
    """A setting's value as it is typed, or what stands for one that may name somebody."""
    if value is None:
        return "none"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    text = str(value)
    words = spec.metavar.split("|")
    if text in words or text in (spec.choices or ()) or spec.metavar in SHOWN:
        return shlex.quote(text)
    if "NAME" in words and "FILE.py:NAME" in words:  # a registered name, or that in a file of one's own
        return shlex.quote(text if ".py:" not in text else f"FILE.py:{text.rpartition(':')[2]}")
    return _kind(spec)


def _kind(spec: Spec) -> str:
    """What stands for a value in the help, the last where there are several."""
    return spec.metavar.split("|")[-1] or "TEXT"
