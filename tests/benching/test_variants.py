"""Names of variants."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rkld
from rkld import UserError
from rkld.benching.variants import variant, variants


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nop+rt", "Did you mean 'npo'"), ("npo+rtt", r"\+rtt"), ("npo+rt+kl", "not both"), ("npo@lr", "name=value"),
        ("npo@learning_speed=1", "unknown setting"), ("npo@seed=1", "benchmark's to set"),
        ("npo@epochs=0", "at least 1"), ("simnpo@betta=2", "unknown setting"), ("npo@beta=high", "beta"),
        ("rkld@alpha=2@alpha=4", "sets 'alpha' twice"), ("npo@beta=0.1@method_arg=beta=0.2", "sets 'beta' twice"),
    ],
)  # fmt: skip
def test_names_that_mean_nothing_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        variant(name)


def test_what_a_name_sets():
    """+rt and +kl bring retain records; a method that needs them has them unasked, with its own loss."""
    assert variant("npo+rt").settings() == {
        "method": "npo",
        "score": "answer",
        "reword": 0,
        "retain_loss": "rt",
        "replay": False,
        "retain": True,
    }
    assert variant("graddiff").settings() == {
        "method": "graddiff",
        "score": "answer",
        "reword": 0,
        "retain_loss": "auto",
        "replay": False,
        "retain": True,
    }
    assert not variant("rkld+replay").settings()["retain"]
    assert variant("rkld+replay").settings()["replay"]
    assert not variant("uld+replay").settings()["retain"], "replay will do where the method says so"
    assert variant("npo@lr=1e-4@method_arg=beta=0.5").settings()["method_arg"] == ("beta=0.5",)
    assert variant("npo+rt@beta=0.5").settings() == variant("npo+rt@method_arg=beta=0.5").settings()
    assert variant("uld@floor=true").settings()["floor"] is True, "a run's own setting comes first"


def test_all_names_every_method_once():
    names = [one.name for one in variants("all")]
    assert len(names) == len(set(names))
    assert {"rkld", "whp", "npo+rt", "rkld+replay"} <= set(names)


def test_importing_the_groups_imports_no_method():
    """Every method is imported when all are asked for, and not before: it takes as long as importing torch."""
    code = "import sys, rkld.benching.variants; assert 'rkld.methods.npo' not in sys.modules"
    source = str(Path(rkld.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": source})
