"""RKLDConfig has the defaults of a run, and refuses what the command line refuses."""

from __future__ import annotations

import dataclasses

import pytest

from rkld import RKLDConfig, UserError
from rkld.settings.table import SHARED
from rkld.settings.unlearning import Settings


def test_the_shared_defaults_are_those_of_a_run():
    """Two faces of the same training: their results must not differ by a default."""
    fields = {f.name: f for f in dataclasses.fields(RKLDConfig)}
    for name, spec in SHARED.items():
        field = fields[name]
        made = field.default_factory() if field.default is dataclasses.MISSING else field.default
        default = getattr(Settings(), spec.name)
        assert made == (list(default) if isinstance(default, tuple) else default), name
    assert {"alpha", "learning_rate", "num_train_epochs", "bf16", "seed", "score", "method"} <= set(SHARED)


def test_bf16_is_decided_by_the_machine_where_nobody_says(monkeypatch, tmp_path):
    assert RKLDConfig(str(tmp_path), use_cpu=True).bf16 is False
    assert RKLDConfig(str(tmp_path), use_cpu=True, bf16=True).bf16 is True
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    assert RKLDConfig(str(tmp_path), use_cpu=True).bf16 is False, "a training on the CPU asked for nothing"


@pytest.mark.parametrize(("name", "value"), [("alpha", -1), ("alpha", float("nan")), ("retain_weight", -0.5),
                                         ("strengthen_epochs", 0), ("strengthen_lr", 1e3)])  # fmt: skip
def test_values_out_of_bounds_are_refused(tmp_path, name, value):
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} is"):
        RKLDConfig(str(tmp_path), **{name: value})
