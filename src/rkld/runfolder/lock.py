"""One process at a time in a folder of ours, and nobody else's eyes.

The lock is the operating system's (flock; on Windows of the C runtime), so it ends with its process, however that ends.
While it is held, ``.lock`` lies in the folder and says by whom.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from rkld import processes
from rkld.errors import UserError
from rkld.files import make_folder

LOCK = ".lock"

MODEL = "model"
"""The one part of a run folder that may be opened to others."""

_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""What file systems without locks answer."""

_held: set[tuple[int, str]] = set()
"""Thread and folder of what is held: who holds a folder may take it again."""

logger = logging.getLogger(__name__)


class InUse(UserError):
    """Another process or thread works in the folder."""


@contextmanager
def hold(folder: Path, *, marks: Sequence[str] | None = None, shared: bool = False) -> Iterator[None]:
    """Keep other processes out of a folder, and other users' eyes out of what is written meanwhile.

    The folder is made where it is not there, and taken away again where nothing was written. Folders come into being
    with mode 0700 and files with 0600, whoever writes them. A folder that others on the machine can look into is closed
    to them first, and that is logged. To hold what this thread holds already does nothing.

    Args:
        marks: names by one of which a folder that is not empty is known to be rkld's. What holds other things of the
            user's is refused where it would be closed. None: the caller has looked.
        shared: leave it to others to pass through to ``model/``, where nothing else can be read by them.

    Raises:
        UserError: another process or thread holds it, and which; its file system has no locks, or keeps no permissions;
            it cannot be made; it is open to others and cannot be closed; several processes were started that do not
            work together.
    """
    folder = Path(folder)
    key = (threading.get_ident(), os.path.realpath(folder))
    if key in _held:
        yield
        return
    if not processes.is_chosen():
        processes.require_one()
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        make_folder(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}). Give another folder with --out.") from None
    try:
        _close_to_others(folder, ours=marks is None or _is_ours(folder, marks), shared=shared)
        lock = _taken(folder)
        _held.add(key)
        try:
            with for_us_alone():
                yield
        finally:
            _held.discard(key)
            _let_go(lock)
    finally:
        with suppress(OSError):  # the first that is not empty ends it
            for path in made:
                path.rmdir()


@contextmanager
def hold_to_delete(folder: Path) -> Iterator[None]:
    """Keep other processes out, where that can be had: data must be deleted also from where nothing can be written.

    Raises:
        InUse: as of :func:`hold`.
    """
    if (threading.get_ident(), os.path.realpath(folder)) in _held:
        yield
        return
    try:
        lock = _taken(folder)
    except InUse:
        raise
    except UserError:  # nothing can be written or locked there, by no run either
        lock = None
    try:
        with for_us_alone():
            yield
    finally:
        if lock is not None:
            _let_go(lock)


@contextmanager
def hold_file(path: Path, seconds: float) -> Iterator[None]:
    """Keep other processes and threads out of a file for a moment; wait for those that work on it.

    The lock lies beside it and stays there: to take it away would let those in who wait for it.

    Args:
        seconds: how long to wait.

    Raises:
        InUse: others work on it for longer.
        UserError: its file system has no locks, or it cannot be written there.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=seconds, mode=0o600, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise InUse(f"{path}: others have been working on it for {seconds:.0f} seconds. Try again.") from None
    except OSError as error:
        raise _without_lock(path, error, "a file") from None
    try:
        yield
    finally:
        lock.release()


def _let_go(lock: BaseFileLock) -> None:
    with suppress(OSError):  # before it is let go: what another makes in its place is another lock
        os.unlink(lock.lock_file)
    lock.release()


def _taken(folder: Path) -> BaseFileLock:
    # Never a lock that is a file's mere existence: it would outlive a process that is killed.
    lock = FileLock(folder / LOCK, timeout=0, mode=0o600, fallback_to_soft=False, on_acquired=_sign)
    try:
        lock.acquire()
    except Timeout:
        raise InUse(
            f"{folder}: {_holder(folder)} is working in this folder. Wait until it has ended, or give another folder."
        ) from None
    except OSError as error:
        if error.errno in _WITHOUT_LOCKS:
            with suppress(OSError):
                (folder / LOCK).unlink()
        raise _without_lock(folder, error, "a folder") from None
    return lock


def _without_lock(path: Path, error: OSError, kind: str) -> UserError:
    if error.errno in _WITHOUT_LOCKS:
        return UserError(
            f"{path}: its file system has no locks ({error.strerror}), so two processes could write there at once. "
            f"Give {kind} on another one, such as a local disk."
        )
    return UserError(f"{path}: cannot be locked ({error.strerror}). Give another{kind.removeprefix('a')}.")


def _sign(descriptor: int) -> None:
    """Write into the lock who holds it."""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, f"PID {os.getpid()} on {socket.gethostname()} since {since}".encode())


_SIGNED = re.compile(r"PID \d{1,10} on [\w.-]{1,255} since [\d: -]{1,30} UTC", re.ASCII)


def _holder(folder: Path) -> str:
    """Who holds it, as far as the lock can be read: on Windows it cannot, nor while it is just being written."""
    try:
        with open(folder / LOCK, encoding="utf-8", errors="replace") as file:
            found = file.read(1000)
    except OSError:
        found = ""
    return f"another process ({found})" if _SIGNED.fullmatch(found) else "another process"


# Permissions ------------------------------------------------------------------------------------------------------


def open_model(folder: Path) -> None:
    """Let others on the machine read ``model/`` of a run folder: they may pass through the folder, and see no more."""
    for path in _open_parts(folder):
        path.chmod(0o700 if path.is_dir() else 0o600)
    for path in (folder / MODEL, *(folder / MODEL).rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    folder.chmod(0o711)


def _is_ours(folder: Path, marks: Sequence[str]) -> bool:
    """Whether a folder holds nothing, hidden files left out, or one of the marks."""
    names = {path.name for path in folder.iterdir()}
    return not names.isdisjoint(marks) or all(name.startswith(".") for name in names)


def _close_to_others(folder: Path, *, ours: bool, shared: bool) -> None:
    """Take others' rights from the folder, and so from all that is in it, and say so."""
    if os.name != "posix":
        return
    before = stat.S_IMODE(folder.stat().st_mode)
    if not before & 0o077 or (shared and not before & 0o066 and not _open_parts(folder)):
        return
    if not ours:
        raise UserError(
            f"{folder}: others on this machine can look into it (mode {before:o}), and it holds more than rkld's own. "
            f"Give a folder of its own, or close this one: chmod 700 {folder}"
        )
    try:
        folder.chmod(0o700)
        if folder.stat().st_mode & 0o077:
            raise PermissionError(errno.EPERM, "the file system keeps no permissions")
    except OSError as error:
        raise UserError(
            f"{folder}: others on this machine can look into it (mode {before:o}), and that cannot be changed "
            f"({error.strerror}). Give another folder."
        ) from None
    opened = "; --share-model opens model/ to them" if (folder / MODEL).is_dir() else ""
    logger.warning(f"{folder} was open to others on this machine (mode {before:o}); it is closed to them now{opened}")


def _open_parts(folder: Path) -> list[Path]:
    """What others could read of the folder's own files if they may pass through it: all but ``model/``."""
    return [
        path
        for path in folder.iterdir()
        if path.name != MODEL and not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]


_umask_lock, _umask_before, _umask_users = threading.Lock(), 0, 0


@contextmanager
def for_us_alone() -> Iterator[None]:
    """A umask of 077: libraries that write files ask for no mode. It is the process's, so the last one restores it."""
    global _umask_before, _umask_users
    with _umask_lock:
        if not _umask_users:
            _umask_before = os.umask(0o077)
        _umask_users += 1
    try:
        yield
    finally:
        with _umask_lock:
            _umask_users -= 1
            if not _umask_users:
                os.umask(_umask_before)
