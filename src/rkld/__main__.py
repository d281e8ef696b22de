"""``python -m rkld``."""

from __future__ import annotations

from rkld.cli import main

main(prog_name="rkld")
