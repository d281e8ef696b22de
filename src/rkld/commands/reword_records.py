"""``rkld reword``: records said in other words, written to a file for review."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rkld.files import check_new_file, write_jsonl
from rkld.pipeline.writers import check_writer
from rkld.pipeline.writers import write_rewordings as ask_writer
from rkld.progress import NoProgress
from rkld.records.identity import each_once, identifiers
from rkld.records.reading import read_records, read_rewordings, read_subjects
from rkld.records.record import Rewording
from rkld.records.rewording import Made, reword
from rkld.records.rewording_rules import check_kinds
from rkld.settings.specification import make
from rkld.settings.unlearning import Settings


def write_rewordings(records: str, *, out: Path, progress: NoProgress | None = None, **given: Any) -> Made:
    """Reword the records and write them, each with its rewordings, as JSON lines.

    Args:
        out: a file that does not exist yet.
        given: the settings of a run that say how (:data:`rkld.commands.options.REWORDING`).

    Raises:
        UserError: ``out`` exists already or cannot be written; records that cannot be read; a writer that cannot be
            opened.
    """
    settings = make({**given, "forget": records}, "the command line", Settings)
    check_new_file(out)
    check_kinds(settings.reword_kinds)
    check_writer(settings)
    found, _ = each_once(read_records(settings.forget, "forget"))
    if settings.rewordings is not None:
        found, _strange = read_rewordings(settings.rewordings, found)
    known = identifiers(found, read_subjects(settings.subject))
    written = ask_writer(found, settings, progress or NoProgress())
    made = reword(found, known, settings.reword, kinds=settings.reword_kinds, written=written, seed=settings.seed)
    own: dict[str, list[Rewording]] = {record.key: [] for record in found}
    for one in made.records:
        own[one.source].append(Rewording(one.question, one.answer, one.kind))
    write_jsonl(out, (replace(record, rewordings=tuple(own[record.key])).row() for record in found))
    return made
