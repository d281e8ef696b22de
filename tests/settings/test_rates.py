"""Learning rates where none is given."""

from __future__ import annotations

import pytest

from rkld.settings.table import peak_lr


@pytest.mark.parametrize(("lr", "adapter", "parameters", "rate"), [
    (None, False, 135_000_000, 1e-4), (None, False, 1_000_000, 1e-4), (None, False, 540_000_000, 5e-5),
    (None, False, 7_000_000_000, 1.4e-5), (None, True, 7_000_000_000, 5e-4), (3e-6, False, 1, 3e-6),
    (3e-6, True, 1, 3e-6),
])  # fmt: skip
def test_a_large_model_takes_small_steps(lr, adapter, parameters, rate):
    assert peak_lr(lr, adapter, parameters) == pytest.approx(rate)
