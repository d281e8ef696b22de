"""Control and original must be other models: one that was compared with itself is as good as nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rkld.errors import UserError

SAME = 1e-2
"""Nats per token, on average over the records, within which two models are the same one, however it was saved, merged
or cast. On average, as single records differ by more: SmolLM2-135M in bfloat16 by .007, and .019 at most. Models that
were trained apart differ by .3 and more on records that neither has seen."""


def check_control(models: Mapping[str, Mapping[str, Any]], readings: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a control that is the audited model or the original.

    Args:
        models: role → what is known of the models opened so far, with their ``fingerprint``.
        readings: role → readings made so far; compared are losses of forget and holdout records.

    Raises:
        UserError: the weights are the same, or the records have the same losses under both.
    """
    for role in ("audited", "original"):
        if role not in models or "control" not in models:
            continue
        weights = [models[name]["fingerprint"] for name in ("control", role)]
        same = "has the same weights" if weights[0] == weights[1] is not None else _alike(readings, role)
        if same:
            raise _refusal(role, same)


def check_other_folder(folders: Mapping[str, str]) -> None:
    """Refuse a control that lies where the audited model or the original lies, before anything is loaded.

    Args:
        folders: role → where the model lies, of those that are named by a string.

    Raises:
        UserError: so.
    """
    for role in ("audited", "original"):
        if role in folders and folders.get("control") == folders[role]:
            raise _refusal(role, "is the same folder")


def one_model(models: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What to say where the original is the audited model itself, by its weights; None where it is another.

    It is not refused, as a run may have changed nothing; but nothing is shown by one model beside itself.
    """
    weights = [models.get(role, {}).get("fingerprint") for role in ("audited", "original")]
    if weights[0] is None or weights[0] != weights[1]:
        return None
    return (
        "--original is the audited model: it has the same weights, so nothing that was unlearned can show. Give the "
        "model as it was before unlearning; if it is that one, the run changed nothing"
    )


def _refusal(role: str, same: str) -> UserError:
    name = "audited model" if role == "audited" else role
    return UserError(
        f"--control is the {name}: it {same}. Give a model that never saw the records, such as one that was trained "
        "without them, or leave it out."
    )


def _alike(readings: Mapping[str, Mapping[str, Any]], role: str) -> str | None:
    control, other = (_losses(readings.get(name, {})) for name in ("control", role))
    if not control.keys() & other.keys():
        return None
    apart = float(np.mean([abs(control[key] - other[key]) for key in control.keys() & other.keys()]))
    return f"gives the records the same losses, within {SAME:g} nats" if apart <= SAME else None


def _losses(read: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """(Set, key) → mean loss."""
    sets: dict[str, Any] = {"likelihood": read.get("likelihood") or {}, **(read.get("membership") or {})}
    return {(name, key): row["loss"] for name, rows in sets.items() for key, row in rows.items()}
