"""A control must be another model: known by its weights, and by the losses of the records where these were changed."""

from __future__ import annotations

from typing import Any

import pytest

from rkld.auditing.control import SAME, check_control, check_other_folder, one_model
from rkld.errors import UserError


def read(forget: list[float], holdout: list[float] = ()) -> dict[str, Any]:  # type: ignore[assignment]
    found: dict[str, Any] = {"likelihood": {str(i): {"loss": loss} for i, loss in enumerate(forget)}}
    if holdout:
        rows = {str(i): {"loss": loss} for i, loss in enumerate(holdout)}
        found["membership"] = {"forget": found["likelihood"], "holdout": rows}
    return found


MODELS = {role: {"fingerprint": role} for role in ("audited", "control", "original")}


@pytest.mark.parametrize(("role", "name"), [("audited", "audited model"), ("original", "original")])
def test_a_control_with_the_same_losses_is_no_control(role, name):
    """However it was saved, merged or cast: its weights are then others."""
    rounded = [1.0 + SAME / 2, 2.0 - SAME / 2, 3.0]
    readings = {"control": read([1.0, 2.0, 3.0], [4.0]), role: read(rounded, [4.0 + SAME / 2])}
    with pytest.raises(UserError, match=f"--control is the {name}.*same losses"):
        check_control(MODELS, readings)


def test_a_control_that_differs_on_either_set_is_one():
    """A model that knows the records as well may still be another; what it says is judged elsewhere."""
    control = read([0.01, 0.02], [4.0, 5.0])
    check_control(MODELS, {"control": control, "audited": read([1.0, 2.0], [4.0, 5.0])})
    check_control(MODELS, {"control": control, "original": read([0.01, 0.02], [3.0, 6.0])})
    check_control(MODELS, {"audited": control, "original": control})
    check_control(MODELS, {"control": {}, "audited": control})


def test_the_same_folder_is_refused_before_anything_is_loaded():
    for role in ("audited", "original"):
        with pytest.raises(UserError, match="same folder"):
            check_other_folder({"control": "/models/one", role: "/models/one"})
    check_other_folder({"control": "/models/one", "original": "/models/two"})
    check_other_folder({"audited": "/models/one", "original": "/models/one"})
    check_other_folder({})


def test_the_same_weights_are_refused_before_anything_is_read():
    for role in ("audited", "original"):
        with pytest.raises(UserError, match="same weights"):
            check_control({**MODELS, role: MODELS["control"]}, {})
    served = {"audited": {"fingerprint": None}, "control": {"fingerprint": None}}
    check_control(served, {})


def test_an_original_that_is_the_audited_model_is_said_to_be():
    """Else the audit says that there was nothing to forget, which reads as good news."""
    assert "--original is the audited model" in (one_model({**MODELS, "original": MODELS["audited"]}) or "")
    assert one_model(MODELS) is None
    assert one_model({"audited": {"fingerprint": None}, "original": {"fingerprint": None}}) is None
    assert one_model({"audited": MODELS["audited"]}) is None
