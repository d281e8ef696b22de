"""Keywords of the public functions, as a type checker and an editor see them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rkld.settings.auditing import AuditSettings
from rkld.settings.discovering import DiscoverSettings
from rkld.settings.specification import fields
from rkld.settings.typed import AuditKeywords, DiscoverKeywords, UnlearnKeywords
from rkld.settings.unlearning import Settings

ROOT = Path(__file__).resolve().parents[2]

RIGHT = """
from pathlib import Path
import rkld
rkld.unlearn("m", "f.jsonl", alpha=4.0, subject="Ada", score="spans", out=Path("x"), lr=None)
rkld.check("m", [{"question": "q", "answer": "a"}], lora=True, method_arg=["beta=0.2"])
rkld.audit("m", "f.jsonl", attacks=("sampling",), k=4, original=object())
"""
WRONG = {
    'rkld.unlearn("m", "f", alhpa=4.0)': 'Unexpected keyword argument "alhpa"',
    'rkld.unlearn("m", "f", alpha="much")': 'Argument "alpha" to "unlearn" has incompatible type',
    'rkld.check("m", "f", score="span")': 'Argument "score" to "check" has incompatible type',
    'rkld.audit("m", "f", samples=2.5)': 'Argument "samples" to "audit" has incompatible type',
}


def test_every_setting_is_a_keyword():
    """Beside the data and models, which the functions name themselves."""
    named = {"model", "forget", "retain", "replay", "holdout", "control"}
    assert set(UnlearnKeywords.__annotations__) == set(fields(Settings)) - named
    assert set(AuditKeywords.__annotations__) == set(fields(AuditSettings)) - {"model", "forget"}
    of_command = {"model", "subject", "out", "review"}
    assert set(DiscoverKeywords.__annotations__) == set(fields(DiscoverSettings)) - of_command


@pytest.mark.slow
def test_a_type_checker_accepts_right_calls_and_refuses_wrong_ones(tmp_path):
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text("import rkld\n" + "\n".join(WRONG))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--follow-imports=silent",
         "--cache-dir", str(tmp_path / "cache"), str(tmp_path / "right.py"), str(tmp_path / "wrong.py")],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert "right.py" not in done.stdout, done.stdout
    for line, message in enumerate(WRONG.values(), 2):
        assert any(f"wrong.py:{line}: error: {message}" in found for found in done.stdout.splitlines()), done.stdout
