"""Which records steered the stop of the audited model's run, and how far that can be known: what steers is no evidence.

These are forget records that every check read, and holdout records whose probability was the aim.

A run's manifest names them by hashes of their content, salted by the run. They are known by these wherever they stand;
in other words than then they are not. A manifest is believed only about the very weights that the run wrote.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rkld.records.record import Record
from rkld.runfolder.checksums import weights_hash
from rkld.runfolder.manifest import read_manifest, run_of
from rkld.stopping.steering import steering_hash

_HASH = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class SteeringRecords:
    """What is known of the records that steered the stop."""

    left_out: frozenset[str] = frozenset()
    """Keys of the forget records that steered; no figure is made of them."""
    holdout: frozenset[str] = frozenset()
    """Keys of the holdout records that the aim was read from; no figure is made of them, either."""
    doubts: tuple[str, ...] = ()
    """Why the audit can establish nothing, where it cannot: such an audit does not pass."""
    notes: tuple[str, ...] = ()
    """What else a reader of the figures must know."""


def find_steering_records(model: str, forget: Sequence[Record], holdout: Sequence[Record] = ()) -> SteeringRecords:
    """The records that decided when the audited model's run stopped.

    Args:
        model: the run's folder, or the model's inside it; any other model has no run, and nothing steered.
        forget, holdout: all that the user gave, before any are cut off.
    """
    run = run_of(model)
    manifest = read_manifest(run) if run else None
    if run is None or manifest is None:
        return SteeringRecords()
    steering = _steering(manifest)
    if not steering:
        return SteeringRecords()
    if not isinstance(steering, Mapping):
        return SteeringRecords(
            doubts=(
                "the run was made by rkld 0.1, which named the records that steered its stop by their place in a "
                "file: which they are is unknown, so none is left out. Run rkld unlearn anew",
            )
        )
    if not _wrote(run, manifest, model):
        return SteeringRecords(
            notes=(
                "the weights are not those that the run in this folder wrote, so nothing is left out on the word of "
                "its manifest",
            )
        )
    salt, hashes = manifest.get("salt"), hashes_in(steering, "hashes")
    if not isinstance(salt, str) or not hashes:
        n = steering.get("n")
        number = f"{n} records" if isinstance(n, int) else "some records"
        return SteeringRecords(
            doubts=(
                f"{number} decided how far the run went, and which they are is unknown since it was purged: they "
                "are not left out. Audit a run before it is purged",
            )
        )
    known = _known(hashes, salt, forget)
    compared = hashes_in(steering, "holdout")
    left_out = frozenset(record.key for record in holdout if steering_hash(record, salt) in compared)
    if not left_out:
        return known
    note = f"{len(left_out)} of {len(holdout)} holdout records set the aim of the stop and are left out" + (
        ": nothing is left to compare with. Give others with --holdout" if len(left_out) == len(holdout) else ""
    )
    return replace(known, holdout=left_out, notes=(*known.notes, note))


def run_manifest(model: str) -> Mapping[str, Any] | None:
    """The manifest of the run that wrote the weights of a model; None of any other model.

    Args:
        model: the run's folder, or the model's inside it.
    """
    run = run_of(model)
    manifest = read_manifest(run) if run else None
    return manifest if run is not None and manifest is not None and _wrote(run, manifest, model) else None


def _wrote(run: Path, manifest: Mapping[str, Any], model: str) -> bool:
    folder = Path(model) if Path(model) != run else run / "model"
    return folder.is_dir() and weights_hash(folder) == _text(phase_of(manifest, "model").get("weights"))


def hashes_in(noted: Mapping[str, Any], name: str) -> set[str]:
    """The hashes in what a phase noted; nothing else that may stand there."""
    found = noted.get(name)
    if not isinstance(found, list):
        return set()
    return {one for one in found if isinstance(one, str) and _HASH.fullmatch(one)}


def _known(hashes: set[str], salt: str, forget: Sequence[Record]) -> SteeringRecords:
    content = {record.key: steering_hash(record, salt) for record in forget}
    left_out = frozenset(key for key, value in content.items() if value in hashes)
    doubts: list[str] = []
    notes: list[str] = []
    if missing := len(hashes - set(content.values())):
        notes.append(
            f"{missing} of the {len(hashes)} records that steered are not among the audited ones as they were then: "
            "those that are among them in other words are audited, too"
        )
    if len(left_out) == len(forget):
        doubts.append(f"all {len(forget)} records decided how far the run went, so none is evidence; they are shown")
        left_out = frozenset()
    elif 2 * len(left_out) > len(forget):
        doubts.append(
            f"{len(left_out)} of {len(forget)} records decided how far the run went and are left out: more than half, "
            "so what is left establishes nothing"
        )
    return SteeringRecords(left_out, doubts=tuple(doubts), notes=tuple(notes))


def _steering(manifest: Mapping[str, Any]) -> Any:
    """As the manifest has it, whatever its form: it may be another program's or an attacker's."""
    return phase_of(manifest, "distillation").get("steering") or phase_of(manifest, "stop").get("steering")


def phase_of(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What a phase noted in a manifest of any form."""
    phases = manifest.get("phases")
    found = phases.get(name) if isinstance(phases, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
