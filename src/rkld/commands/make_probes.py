"""``rkld probes``: questions that would bring the facts of records to light, written to a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rkld.files import check_new_file, write_jsonl
from rkld.records.identity import check_disjoint, identifiers
from rkld.records.probes import make_probes
from rkld.records.reading import read_records, read_subjects


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        kinds: kind of probe → how many.
        without: how many have no wrong answers.
    """

    kinds: Mapping[str, int]
    without: int


def write_probes(forget: str, retain: str | None, subject: Sequence[str], seed: int, out: Path) -> Written:
    """Make probes of the records' facts and write them as JSON lines.

    Args:
        forget: the person's records; retain: records about others, whose facts are the wrong answers.
        subject: names, aliases and identifiers, or files of them.
        seed: of the choice among wrong answers.
        out: a file that does not exist yet.

    Raises:
        UserError: ``out`` exists already or cannot be written; records that cannot be read.
    """
    check_new_file(out)
    records = read_records(forget, "forget")
    others = read_records(retain, "retain") if retain else []
    check_disjoint(records, others)
    made = make_probes(records, others, identifiers(records, read_subjects(subject)), seed)
    write_jsonl(out, (probe.row() for probe in made))
    without = sum("perturbed_answer" not in probe.row() for probe in made)
    return Written(Counter(probe.kind for probe in made), without)
