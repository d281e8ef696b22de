"""Cells: the single runs that a benchmark consists of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rkld.benching.variants import Variant
from rkld.methods.method import Assisted

Found = Mapping["Cell", Mapping[str, Any]]
"""Cell → what stands in its ``cell.json``."""


@dataclass(frozen=True)
class Cell:
    """One run: a variant, or a reference model, on one split with one seed."""

    split: str
    seed: int
    name: str
    """The variant's, or the reference model's: "original", "retrained"."""
    variant: Variant | None = None
    """None for the reference models, which are measured as they are."""
    tuning: bool = False
    """On people that are not reported on."""

    @property
    def title(self) -> str:
        return f"{self.split}, seed {self.seed}: {self.name}"

    @property
    def trains_student(self) -> bool:
        """False for reference models and for methods that train no student: one point, no trajectory."""
        return self.variant is not None and not isinstance(self.variant.make(), Assisted)

    def on(self, split: str) -> Cell:
        """The same on another split."""
        return replace(self, split=split)

    def folder(self, root: Path) -> Path:
        """Where it lies in the benchmark's folder ``root``."""
        part = re.sub(r"[^\w+.@=-]", "_", self.name)
        return root / "cells" / self.split / f"seed{self.seed}" / part
