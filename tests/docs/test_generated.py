"""What is made from the code is up to date, and reads as it should."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    try:
        spec.loader.exec_module(found)
    finally:
        sys.path[:] = path
    return found


def test_the_generated_parts_of_the_documentation_are_up_to_date(generate: ModuleType) -> None:
    stale = [document for document in (*generate.WHOLE, *generate.PARTS) if not fresh(generate, document)]
    assert not stale, "run: python docs/generate.py"


def fresh(generate: ModuleType, document: str) -> bool:
    return bool((ROOT / document).read_text(encoding="utf-8") == generate.generated(document))


def test_a_document_that_somebody_changed_by_hand_is_stale(generate: ModuleType) -> None:
    document = "docs/reference/stopping-rules.md"
    text = (ROOT / document).read_text(encoding="utf-8")
    assert "| `placebo` |" in text and fresh(generate, document)
    assert generate.generated(document) != text.replace("| `placebo` |", "| `placebos` |")


def test_metrics_that_say_the_same_share_a_row(generate: ModuleType) -> None:
    from rkld.evaluation.registry import METRICS

    rows = generate.interfaces.metrics().splitlines()[2:]
    assert len(rows) < len(METRICS.names())
    assert all(sum(f"`{name}`" in row.split(" | ")[0] for row in rows) == 1 for name in METRICS.names())


def test_a_docstring_becomes_paragraphs_and_lists(generate: ModuleType) -> None:
    text = generate.interfaces._docstring(
        """Do it.

        See :func:`rkld.audit`.

        Args:
            model: a folder
                or a name.
            first, second: two.

        Raises:
            UserError: bad input.
        """
    )
    assert text.splitlines()[0] == "Do it." and "See `rkld.audit`." in text
    assert "- `model`: a folder or a name." in text and "- `first, second`: two." in text
    assert text.endswith("**Raises**\n\n- `UserError`: bad input.")
