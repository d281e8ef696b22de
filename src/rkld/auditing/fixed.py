"""Whether the audit's questions and gates stood fixed before the run that made the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rkld.auditing.gates import fingerprint
from rkld.auditing.inputs import Task
from rkld.auditing.steering import run_manifest
from rkld.pipeline.fixing import FIXED, questions_hash


def fixed_before_the_run(task: Task) -> dict[str, Any]:
    """As it stands in audit.json: when the run noted them, and whether "questions" and "gates" are still the same.

    None: not known, as of a model that no run wrote, or of a run that was purged. Probes that were given beside the
    records are questions that the run did not know.
    """
    settings = task.settings
    manifest = {} if settings.endpoint else run_manifest(settings.model) or {}
    noted, salt = manifest.get(FIXED), manifest.get("salt")
    if not isinstance(noted, Mapping):
        return {"at": None, "questions": None, "gates": None}
    at, gates, asked = noted.get("at"), noted.get("gates"), noted.get("questions")
    same = None
    if isinstance(salt, str) and asked is not None:
        same = not task.given_probes and asked == questions_hash(task.given, salt)
    return {
        "at": at if isinstance(at, str) else None,
        "questions": same,
        "gates": None if gates is None else gates == fingerprint(settings.gates()),
    }
