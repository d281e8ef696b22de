"""What an audit will ask and judge by, as it stood before the run: its fingerprint is noted before any training.

Questions that were chosen once the answers are known, and limits that were set once the figures are, show nothing. The
audit compares its own with these (:mod:`rkld.auditing.fixed`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from rkld.records.identity import content
from rkld.records.record import Record
from rkld.runfolder.manifest import salted

FIXED = "fixed"
"""The key in a manifest and in audit.json."""


def questions_hash(records: Iterable[Record], salt: str) -> str:
    """Of all that is asked about the forget records: what they say, their marked facts, and the fields beside them
    (paraphrased questions, wrong answers). In any order."""
    return salted(salt, sorted(salted(salt, [content(r), sorted(r.spans), r.extra]) for r in records))


def before_the_run(records: Iterable[Record], salt: str, gates: str | None) -> dict[str, Any]:
    """What stands in the manifest: when it was noted (UTC), and the fingerprints.

    Args:
        gates: of the gates that an audit judges by (:func:`rkld.auditing.gates.fingerprint`); None where nobody said.
    """
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"at": at, "questions": questions_hash(records, salt), "gates": gates}
