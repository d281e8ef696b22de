"""Errors that a user can mend: each says what is wrong, the value that was found, and what to do."""

from __future__ import annotations

import difflib
import reprlib
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


LONGEST_NAME = 100
"""Characters up to which what was meant by a name is looked for, which takes time with its length."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint ``" Did you mean 'x'?"`` when ``name`` is close to one of ``choices``, else ``""``."""
    if len(name) > LONGEST_NAME:
        return ""
    match = difflib.get_close_matches(name, list(choices), n=1)
    return f" Did you mean '{match[0]}'?" if match else ""


class _Short(reprlib.Repr):
    """Nothing that is nested or long, and no number of more digits than Python would write."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 2
        self.maxstring = self.maxlong = self.maxother = LONGEST_NAME

    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if abs(x) < 10**LONGEST_NAME else "a number of over 100 digits"


_SHORT = _Short()


def shown(value: object) -> str:
    """A value as a message shows it: as Python writes it, on one line, cut where it is long; no character acts."""
    return _SHORT.repr(value)
