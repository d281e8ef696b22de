"""``rkld init``: everything that a request needs, as commented files to edit.

Settings files and the request form are made from the settings and the form themselves; the records are examples.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from rkld.commands.options import choices
from rkld.errors import UserError
from rkld.files import DATA, make_folder, write_text
from rkld.runfolder.manifest import SETTINGS
from rkld.runfolder.request import Copy, RequestForm
from rkld.settings.auditing import AuditSettings
from rkld.settings.specification import Spec, flag
from rkld.settings.table import specs
from rkld.settings.unlearning import Settings

REQUEST_FILE, AUDIT_FILE = "request.yaml", "audit.yaml"

EXAMPLES = ("records.yaml", "others.yaml", "holdout.yaml", "questions.yaml")
"""Shipped as they are, in ``rkld/data/forms``."""

SMALL = "smollm2-135m"
"""The model of the examples: an alias, fetched once."""

WIDTH = 100

OF_A_RUN = (
    "model", "forget", "subject", "request", "out", "retain", "holdout", "replay", "score", "own_words", "reword",
    "instead", "method", "alpha", "epochs", "stop", "lr", "batch_size", "lora", "merge", "max_new_tokens", "seed",
    "save_dtype", "keep_files",
)  # fmt: skip
"""Settings that a beginner may want, in the order of the file."""

OF_AN_AUDIT = (
    "model", "forget", "subject", "original", "retain", "holdout", "control", "probes", "attacks", "k", "samples",
    "max_new_tokens", "max", "min", "margin", "redact", "out",
)  # fmt: skip


def write_forms(folder: Path) -> list[Path]:
    """Write all of them into a folder, which is made where it is not there.

    Returns:
        what was written, in the order in which a user will edit it.

    Raises:
        UserError: a file of one of the names is there already; nothing is written then.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file. Give a folder.")
    texts = dict(_texts(folder))
    if there := [name for name in texts if (folder / name).exists()]:
        raise UserError(f"{folder} holds {', '.join(there)} already. Give another folder: nothing is written over.")
    make_folder(folder)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Name → content. Paths in the settings are as the folder was given: they count from where a command is run."""
    records, others, holdout, questions = (str(folder / name) for name in EXAMPLES)
    run = str(Path("runs") / (folder.resolve().name or "request"))
    of_all = {"forget": records, "subject": ["Jane Doe"]}
    settings, audit = folder / SETTINGS, folder / AUDIT_FILE
    yield EXAMPLES[0], _example(EXAMPLES[0])
    given = {"model": SMALL, **of_all, "request": str(folder / REQUEST_FILE), "out": run}
    offered = {"retain": others, "holdout": holdout}
    commands = f"rkld check --config {settings}\nrkld unlearn --config {settings}"
    yield SETTINGS, _settings_file(Settings, OF_A_RUN, given, offered, commands)
    given = {"model": run, **of_all, "original": SMALL, "retain": others}
    offered = {"holdout": holdout, "probes": questions}
    yield AUDIT_FILE, _settings_file(AuditSettings, OF_AN_AUDIT, given, offered, f"rkld audit --config {audit}")
    yield REQUEST_FILE, request_form()
    yield from ((name, _example(name)) for name in EXAMPLES[1:])


def _example(name: str) -> str:
    return (DATA / "forms" / name).read_text(encoding="utf-8")


def _settings_file(
    cls: type, names: tuple[str, ...], given: Mapping[str, Any], offered: Mapping[str, Any], commands: str
) -> str:
    """Settings with what each means.

    Args:
        given: those that are set; offered: values of those that are commented out, where they are not the defaults.
        commands: that take the file, a line each.
    """
    known = specs(cls)
    head = f"{commands}\n\nWhat begins with # is a comment: take the sign away to set it. There are more: --help."
    parts = [_comment(head)]
    for name in names:
        spec = known[name]
        value = given.get(name, offered.get(name, spec.default))
        line = yaml.safe_dump(
            {name: list(value) if isinstance(value, tuple) else value}, allow_unicode=True, width=WIDTH
        )
        parts.append(_comment(_meaning(spec)) + (line if name in given else _comment(line.rstrip("\n"), "#")))
    return "\n".join(parts)


def _meaning(spec: Spec) -> str:
    """A setting's help, and what its named values mean, a line each."""
    lines = [f"{flag(spec.name)}: {spec.help}"]
    lines += [f"  {value}: {meaning}" for value, meaning in choices(spec).items()]
    return "\n".join(lines)


def _comment(text: str, sign: str = "# ") -> str:
    """Every line behind a sign, long ones broken."""
    lines = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()))
        lines += textwrap.wrap(line, WIDTH, subsequent_indent=f"{indent}  ") or [""]
    return "".join(f"{sign}{line}".rstrip() + "\n" for line in lines)


def request_form() -> str:
    """The form of a request, with what each field means; nothing is stated."""
    head = (
        "The request, as you state it: it is kept with the evidence and shown on its first page, and nothing of it is "
        "measured. What stays empty is shown as not stated. rkld unlearn --request THIS-FILE; the same command again, "
        "once the run is finished, takes what has changed here."
    )
    parts = [_comment(head)]
    for field in dataclasses.fields(RequestForm):
        help = field.metadata["help"] + (" A purge takes it out." if field.metadata["personal"] else "")
        form = f"{field.name}:\n"
        if field.name == "copies":
            form += "".join(
                f"  {'- ' if n == 0 else '  '}{part.name}:\n" for n, part in enumerate(dataclasses.fields(Copy))
            )
        parts.append(_comment(f"{field.metadata['label']}. {help}") + form)
    return "\n".join(parts)
