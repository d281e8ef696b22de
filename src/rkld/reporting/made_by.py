"""The commands that made what a page shows, without names: in place of files and texts stands what they are."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from rkld.registry import file_and_name, without_file
from rkld.reporting.run import Run
from rkld.settings.auditing import AuditSettings
from rkld.settings.specification import Spec, flag
from rkld.settings.table import specs
from rkld.settings.unlearning import Settings

OWN = "FILE.py:NAME"
"""What is typed for an entry of the user's own."""

OWN_OF = {
    "method": "a method",
    "stop": "a stopping rule",
    "attacks": "an attack",
    "metric": "a metric",
    "method_file": "a method",
}
"""Setting that takes :data:`OWN` → what it names, in words."""

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
    if spec.entries or OWN in words:  # a registered name, or that in a file of one's own
        return ",".join(OWN if file_and_name(part) else shlex.quote(part) for part in text.split(","))
    if text in words or text in (spec.choices or ()) or spec.metavar in SHOWN:
        return shlex.quote(text)
    return _kind(spec)


def in_words(spec: Spec, value: Any) -> str:
    """A setting's value in a sentence or a document: as :func:`without_names`, but for what is the user's own."""
    found = without_file(str(value), OWN_OF.get(spec.name, "code"))
    return found if found != str(value) else without_names(spec, value)


def without_files(text: str, *settings: Mapping[str, Any]) -> str:
    """A sentence of a run in which an entry of the user's own stood by its file's name."""
    for given in settings:
        for name, what in OWN_OF.items():
            values = given.get(name)
            for value in values if isinstance(values, list | tuple) else [values]:
                if isinstance(value, str) and file_and_name(value):
                    text = text.replace(value, without_file(value, what))
    return text


def _kind(spec: Spec) -> str:
    """What stands for a value in the help, the last where there are several."""
    return spec.metavar.split("|")[-1] or "TEXT"
