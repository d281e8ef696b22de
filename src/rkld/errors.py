"""Errors that a user can mend: each says what is wrong, the value that was found, and what to do."""

from __future__ import annotations

import difflib
import errno
import re
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Bad input or settings. The command line prints the message alone and exits with code 2.

    Attributes:
        elsewhere: whether another process of the same run met it, and says so (:mod:`rkld.processes`).
    """

    elsewhere: bool = False


ODD_VALUES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What reading a document ends in whose values are of other kinds than is expected."""


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


_REASONS = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "your quota of the disk is used up: free some space",
    errno.EFBIG: "files may not become that large here (ulimit -f, or the file system): raise the limit, or give "
    "another folder",
    errno.EROFS: "it lies where nothing can be written: give another folder",
    errno.EACCES: "permission is denied: change its permissions or its owner, or give another folder",
    errno.EPERM: "it is not permitted: change its permissions or its owner, or give another folder",
    errno.EMFILE: "too many files are open (ulimit -n): raise the limit",
    errno.ENFILE: "too many files are open on this machine: close some",
    errno.EIO: "the disk reports an error: see whether it is sound",
    errno.ESTALE: "the network's file system lost it: give the same command again",
    errno.ENAMETOOLONG: "a name is too long for the file system: give a shorter one",
    errno.EISDIR: "it is a folder where a file should be: move it away",
    errno.ENOTDIR: "a file lies where a folder should be: move it away",
    errno.ELOOP: "links lead in a circle there: mend them",
}
"""What of the machine a user can mend, and how."""

_OS_ERROR = re.compile(r"os error (\d+)")
_HALF_WRITTEN = re.compile(r"PytorchStreamWriter|unexpected pos \d+ vs \d+|file write failed|inline_container")


def of_the_machine(error: BaseException) -> UserError | None:
    """The sentence for an error of disk, file system or permissions, whoever raised it; None for any other error.

    safetensors tells the system's number in its message alone, torch does not tell it at all.
    """
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        number = one.errno if isinstance(one, OSError) else None
        if number is None and (match := _OS_ERROR.search(str(one))):
            number = int(match[1])
        if number in _REASONS:
            # Of a renaming the second is the user's, the first ours.
            named = (one.filename2 or one.filename) if isinstance(one, OSError) else None
            where = f"{named}: " if named else ""
            return UserError(f"{where}{_REASONS[number]}. The same command goes on from what is whole.")
        if isinstance(one, RuntimeError) and _HALF_WRITTEN.search(str(one)):
            return UserError(
                "a file could not be written whole: the disk is full, or files may not become that large here "
                "(ulimit -f). Make room; the same command goes on from what is whole."
            )
        one = one.__cause__  # not what it was raised beside: that may be mended already
    return None


@contextmanager
def machine_errors_explained() -> Iterator[None]:
    """Raise errors of disk, file system and permissions as :class:`UserError` (:func:`of_the_machine`).

    Also as a decorator.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        explained = of_the_machine(error)
        if explained is None:
            raise
        raise explained from error
