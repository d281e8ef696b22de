"""Errors that a user can mend: each says what is wrong, the value that was found, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input or settings. The command line prints the message alone and exits with code 2."""


class NotFinite(UserError):
    """A model whose logits are infinite or undefined."""


class Diverged(UserError):
    """A training whose figures are no numbers any more: its model is ruined."""

    def __init__(self, what: str):
        super().__init__(
            f"the training diverged: {what}. Take a lower learning rate; a run folder keeps its settings, so give "
            "another one with it (--out), and delete this one."
        )


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint ``" Did you mean 'x'?"`` when ``name`` is close to one of ``choices``, else ``""``."""
    match = difflib.get_close_matches(name, list(choices), n=1)
    return f" Did you mean '{match[0]}'?" if match else ""
