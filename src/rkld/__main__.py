"""``python -m rkld``."""

from .cli import main

main(prog_name="rkld")
