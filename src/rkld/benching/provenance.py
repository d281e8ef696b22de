"""How a benchmark's figures were made: ``bench.json`` beside its tables, with command, model, date and machine."""

from __future__ import annotations

import dataclasses
import datetime
import platform
from importlib.metadata import version
from typing import Any

import torch

from rkld.benching.benchmark import Benchmark
from rkld.files import write_json
from rkld.processes import cores
from rkld.settings.specification import flag

PROVENANCE = "bench.json"

PERSONAL = ("subject",)
"""Settings that name people: they stand in no command that is shown."""

NOT_SHOWN = (*PERSONAL, "methods", "jobs", "keep_models")


def note_provenance(benchmark: Benchmark) -> None:
    """Write :data:`PROVENANCE`; the last command in a folder counts."""
    table, settings = benchmark.shown, benchmark.settings
    models = (getattr(settings, name, None) for name in ("model", "original", "preset"))
    content = {
        "benchmark": benchmark.name,
        "command": command(benchmark),
        "model": next((str(name) for name in models if name), "tiny"),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "versions": {package: version(package) for package in ("rkld", "torch", "transformers")},
        "titles": dict(table.titles),
        "forgotten": list(table.forgotten),
        "utility": list(table.utility),
        "remaining": table.remaining,
    }
    write_json(settings.folder / PROVENANCE, content)


def command(benchmark: Benchmark) -> list[str]:
    """The words of the command line that ran it, without ``--methods`` and what names people."""
    settings = benchmark.settings
    name = benchmark.origin if isinstance(benchmark.origin, str) else benchmark.name
    words = ["rkld", "bench", name]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name not in NOT_SHOWN and value != field.default and value is not None:
            words += _option(field.name, value)
    return words


def _option(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag(name) if value else f"--no-{flag(name)[2:]}"]
    values = value if isinstance(value, tuple) else (value,)
    return [word for one in values for word in (flag(name), str(one))]


def machine() -> str:
    """What this process runs on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{platform.machine()}, {cores()} cores, {device}"
