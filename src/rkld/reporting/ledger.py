"""The ledger: what was erased when, and what came back since, as lines that hold on to each other.

One line of JSON an event, in the order of time. Each holds the SHA-256 of the line before it and a checksum by a key
that is kept apart, so that nobody without that key writes, changes or takes out a line unseen, but for the last ones:
that the newest lines are still there shows only who has noted the head elsewhere. People stand in it by pseudonyms,
HMACs of their names by the same key: still personal data to whoever has the key, or can ask its holder.

What was asked about a person may be kept sealed (:mod:`rkld.reporting.sealing`), one file a request in a folder beside
the ledger, under its SHA-256: a file can be deleted, and the lines still hold.

A ledger and its sealed files may have been written by others: nothing in them is trusted before it is checked.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rkld.errors import UserError
from rkld.files import flush_to_disk, json_object, make_folder, new_file, open_regular, read_bounded
from rkld.reporting.rechecked import Finding, count, share
from rkld.runfolder.checksums import sealed, unsealed
from rkld.runfolder.lock import hold_file
from rkld.text.normalising import normal
from rkld.text.printable import printable

FORMAT = 1

FIRST = "0" * 64
"""What the first line holds in place of the hash of the one before it."""

LONGEST_LINE = 64 * 1024
"""Bytes. An event has about a thousand."""

LONGEST_SEALED = 256 * 1024**2
"""Bytes of sealed questions."""

WAIT = 60.0
"""Seconds that a process waits for others that append."""

ERASED, RECHECKED = "unlearn", "recheck"
"""Events."""

_NOT_IN_IT = "the head that was noted is not in it: lines were taken out, or it is another ledger"

_NO_ENTRY = "is damaged, or no entry"

_LEFT = (
    " {} of sealed questions in {} {} named by no line, and may hold a person's records: --drop-unnamed "
    "--head HASH, with the newest head that was noted, deletes them, where no line has been lost."
)

_EMPTY = (
    "{}: has no line, which shows nothing: an empty file is also what is left of a ledger whose lines were lost. If "
    "there were any, restore it from a copy."
)

_LEFT_BY_ALL = " {} of sealed questions in {} {} named by no line, and may be what lost lines name: keep them."

_HASH = re.compile("[0-9a-f]{64}")

_KEPT = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{64}\.\d+")
"""Names of files with sealed questions: as they are, and while they are being written."""

_BEGUN = re.compile(rb'|\{|\{"[ -~]*')
"""How an entry begins."""

_PART = re.compile(r"|-|t(ru?)?|f(a(ls?)?)?|n(ul?)?|N(aN?)?|[.eE][-+]?\d*|\\?(u[0-9a-f]{0,4})?\"?")
"""What is left of a text of JSON behind the place where a reader stops, if all that is wrong with it is its end."""


@dataclass(frozen=True)
class Ledger:
    """What was read.

    Attributes:
        entries: the whole lines, in their order, up to the first that does not hold.
        hashes: the SHA-256 of each of them, which the one behind it holds.
        whole: bytes up to their end.
        torn: bytes of a last line that was not written whole.
        broken: what does not hold; "" in a sound ledger.
    """

    entries: Sequence[Mapping[str, Any]]
    hashes: Sequence[str]
    whole: int
    torn: int
    broken: str = ""

    @property
    def head(self) -> str:
        """What the next line will hold."""
        return self.hashes[-1] if self.hashes else FIRST

    def holds(self, head: str) -> bool:
        """Whether a line that was its last one is in it."""
        return head.strip().lower() in self.hashes

    def of(self, event: str) -> list[Mapping[str, Any]]:
        """The entries of one kind."""
        return [entry for entry in self.entries if entry["event"] == event]


# Reading


def read_ledger(path: Path, key: bytes | None = None) -> Ledger:
    """Read a ledger and check that its lines hold on to each other; with its key also who wrote them.

    Raises:
        UserError: it cannot be read.
    """
    entries, hashes, whole = list[Mapping[str, Any]](), list[str](), 0
    try:
        with open_regular(Path(path).resolve()) as file:
            for line in iter(lambda: file.readline(LONGEST_LINE), b""):
                found, number, head = _entry(line), len(entries) + 1, hashes[-1] if hashes else FIRST
                if found is None and not file.peek(1) and _is_torn(line, number, head, key):
                    return Ledger(entries, hashes, whole, torn=len(line))
                why = _why_not(line, found, number, head, key)
                if found is None or why:
                    return Ledger(entries, hashes, whole, 0, f"line {number} {why}")
                entries.append(found)
                hashes.append(hashlib.sha256(line).hexdigest())
                whole += len(line)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    return Ledger(entries, hashes, whole, 0)


def _is_torn(line: bytes, number: int, head: str, key: bytes | None) -> bool:
    """Whether a last line is what is left of an entry where writing was cut short; anything else was not so written.

    That is the beginning of an entry, down to nothing, and behind it perhaps bytes of zero, which a file has where the
    power failed before its data were on disk. Of an entry that lacks nothing but its end only the key tells that it is
    as it was written.
    """
    begun = line.rstrip(b"\0")
    if begun.endswith(b"\n") or not _BEGUN.fullmatch(begun):
        return False
    try:
        found = json_object(begun)
    except json.JSONDecodeError as error:
        return _ends_early(begun.decode(), error)
    except (ValueError, RecursionError):
        return False
    return key is not None and not _why_not(begun + b"\n", found, number, head, key)


def _ends_early(begun: str, error: json.JSONDecodeError) -> bool:
    """Whether what is wrong with a text of JSON is that it ends: in a string, or in one of its other shortest parts."""
    left = begun[error.pos :]
    if error.msg.startswith("Unterminated string"):
        return True
    return error.msg != "Extra data" and (_PART.fullmatch(left) is not None)


def _entry(line: bytes) -> dict[str, Any] | None:
    """The entry in a line; None where it is no whole one."""
    try:
        return json_object(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None


def _why_not(line: bytes, entry: Mapping[str, Any] | None, number: int, head: str, key: bytes | None) -> str:
    """Why a line does not hold; "" where it does."""
    if entry is None:
        lacks_end = key is None and _entry(line.rstrip(b"\0") + b"\n") is not None
        return "lacks its end: whether it is as written tells the key (--ledger-key)" if lacks_end else _NO_ENTRY
    if entry.get("previous") != head:
        return "does not hold the line before it: one of the two was changed, added or taken out"
    types = {"number": int, "time": str, "event": str}
    if entry.get("format") != FORMAT or any(type(entry.get(name)) is not kind for name, kind in types.items()):
        return "is no entry of this version of rkld"
    if entry["number"] != number or line != _line(entry):
        return "was changed"
    if key is not None and unsealed(entry, _line_key(key)) is None:
        return "was written or changed by somebody without this key"
    return ""


def _line(entry: Mapping[str, Any]) -> bytes:
    """An entry in the one way in which it is written."""
    return json.dumps(entry, ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _line_key(key: bytes) -> str:
    return hmac.new(key, b"rkld ledger line", "sha256").hexdigest()


def pseudonyms(names: Iterable[str], key: bytes) -> list[str]:
    """What stands for names in a ledger of this key: HMAC-SHA256 of each one's normal form, cut to 128 bits, sorted."""
    of_names = hmac.new(key, b"rkld ledger subject", "sha256").digest()
    return sorted({hmac.new(of_names, normal(name).encode(), "sha256").hexdigest()[:32] for name in names})


def run_mark(salt: str, key: bytes) -> str:
    """What stands for a run, so that the same one is noted once: HMAC-SHA256 of its salt, cut to 128 bits."""
    return hmac.new(key, f"rkld ledger run {salt}".encode(), "sha256").hexdigest()[:32]


# Writing


def check_appendable(path: Path, key: bytes) -> None:
    """Refuse what nothing can be appended to, before time is spent.

    Raises:
        UserError: there is no such folder, it cannot be written, or is no ledger of this key; its last line is torn.
    """
    path = Path(path).resolve()
    if not path.parent.is_dir():
        raise UserError(f"--ledger {path}: there is no folder {path.parent}. Make it first.")
    if os.path.lexists(path):
        with hold_file(path, WAIT):
            _sound(path, key)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"--ledger {path}: cannot be written. Change its permissions, or give another file.")


def append(
    path: Path, key: bytes, entry: Mapping[str, Any], unless: str = "", questions: bytes | None = None
) -> int | None:
    """Append an entry, on disk when this returns; processes that do so at once wait for each other.

    Args:
        entry: its "event" and whatever there is to say of it, as plain values.
        unless: a field of it: where an entry of this event has the same value there, nothing is appended.
        questions: sealed ones, which are kept beside the ledger; the line names them as "sealed".

    Returns:
        its number in the ledger, from 1; None where nothing was appended.

    Raises:
        UserError: as of :func:`check_appendable`, or it could not be written; the ledger is as before then.
    """
    path = Path(path).resolve()
    with hold_file(path, WAIT):
        known = _sound(path, key) if os.path.lexists(path) else Ledger((), (), 0, 0)
        if unless and any(found.get(unless) == entry[unless] for found in known.of(entry["event"])):
            return None
        number, now = len(known.entries) + 1, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        frame = {"format": FORMAT, "number": number, "time": now, "previous": known.head}
        named = {} if questions is None else {"sealed": hashlib.sha256(questions).hexdigest()}
        line = _line(sealed({**entry, **named, **frame}, _line_key(key)))
        if len(line) >= LONGEST_LINE:
            raise UserError(f"the entry has {len(line)} bytes; a line of a ledger has at most {LONGEST_LINE}.")
        if questions is not None:  # before the line that names them, and while nobody looks for what no line names
            _keep_sealed(path, questions)
        try:
            _write_end(path, line, known.whole)
        except UserError:  # it is as before
            if questions is not None:
                (questions_folder(path) / named["sealed"]).unlink(missing_ok=True)
            raise
    return number


def _sound(path: Path, key: bytes) -> Ledger:
    """The ledger, which holds.

    Raises:
        UserError: it does not.
    """
    found = read_ledger(path, key)
    if found.broken:
        raise UserError(
            f"{path}: does not hold together: {found.broken}. Nothing is appended to it: restore it from a copy, "
            "give the key that it was written with, or give another file."
        )
    if found.torn:
        raise UserError(
            f"{path}: its last line is not whole ({found.torn} bytes): a process was cut short while it wrote. Mend it "
            f"first: rkld ledger verify {path} --mend"
        )
    return found


def _write_end(path: Path, line: bytes, size: int) -> None:
    """Write a line behind the first ``size`` bytes, which are all there is; take back what was not written whole."""
    new = not path.exists()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); it is as before.") from None
    try:
        os.lseek(descriptor, size, os.SEEK_SET)
        left = memoryview(line)
        try:
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, size)
            raise UserError(f"{path}: cannot be written ({error.strerror}); it is as before.") from error
    finally:
        os.close(descriptor)
    if new:
        flush_to_disk(path.parent)


def mend(path: Path, key: bytes | None = None) -> int:
    """Take a last line out that was not written whole.

    Returns:
        its bytes; 0 where nothing had to be mended.

    Raises:
        UserError: the lines before it do not hold, which nothing mends.
    """
    path = Path(path).resolve()
    with hold_file(path, WAIT):
        found = read_ledger(path, key)
        if found.broken:
            raise UserError(f"{path}: {found.broken}: that cannot be mended. Restore it from a copy.")
        if found.torn:
            os.truncate(path, found.whole)
            flush_to_disk(path)
    return found.torn


# Sealed questions


def questions_folder(path: Path) -> Path:
    """Where the sealed questions of a ledger lie."""
    path = Path(path).resolve()
    return path.with_name(f"{path.name}.questions")


def _keep_sealed(path: Path, questions: bytes) -> None:
    """Write sealed questions beside a ledger that is held."""
    folder = questions_folder(path)
    make_folder(folder)
    with new_file(folder / hashlib.sha256(questions).hexdigest()) as new:
        new.write_bytes(questions)


def unnamed(path: Path, found: Ledger) -> list[Path]:
    """Files with sealed questions that no line names: their run was cut short before its line was whole."""
    named = {str(entry.get("sealed")) for entry in found.entries}
    try:
        files = sorted(questions_folder(path).iterdir())
    except OSError:  # there is none
        return []
    return [file for file in files if _KEPT.fullmatch(file.name) and file.name not in named]


def drop_unnamed(path: Path, key: bytes, head: str) -> int:
    """Delete what is :func:`unnamed`; how many files.

    Args:
        head: the hash of a line that must be in it: the newest that was noted, as lines lost behind it are not seen.

    Raises:
        UserError: the ledger has no line, or does not hold whole, with its key, so what it names is not known; or its
            folder is a link, so others may keep theirs there.
    """
    path = Path(path).resolve()
    with hold_file(path, WAIT):  # whoever appends keeps questions and line under it
        found = _sound(path, key)
        if not found.entries:
            raise UserError(f"{path}: has no line, so nothing is deleted: its lines, which name them, may be lost.")
        if not found.holds(head):
            raise UserError(f"{path}: {_NOT_IN_IT}, so nothing is deleted: their questions may be among it.")
        if questions_folder(path).is_symlink():
            raise UserError(f"{questions_folder(path)} is a link: whose questions lie there is not known.")
        files = unnamed(path, found)
        for file in files:
            file.unlink(missing_ok=True)
        if files:
            flush_to_disk(questions_folder(path))
    return len(files)


def find_sealed(path: Path, name: object) -> bytes | None:
    """The sealed questions that a line names; None where they have been deleted.

    Raises:
        UserError: others lie in their place, or the line names no such file.
    """
    if not isinstance(name, str) or not _HASH.fullmatch(name):
        raise UserError("its line names no sealed questions")
    try:
        found = read_bounded(questions_folder(path) / name, LONGEST_SEALED)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"its sealed questions cannot be read ({error.strerror})") from None
    if hashlib.sha256(found).hexdigest() != name:
        raise UserError("its sealed questions are damaged, or others")
    return found


# For people


def about(found: Ledger, name: str, key: bytes) -> Ledger:
    """The erasures of one person, and what was found of them since."""
    (mark,) = pseudonyms([name], key)
    erased = [entry for entry in found.of(ERASED) if mark in (entry.get("subjects") or ())]
    numbers = {entry["number"] for entry in erased}
    since = [entry for entry in found.of(RECHECKED) if entry.get("of") in numbers]
    return replace(found, entries=[*erased, *since])


def verified(path: Path, key: bytes | None = None, head: str | None = None) -> tuple[bool, str]:
    """Whether a ledger holds, and a sentence that says so or what does not.

    Args:
        head: the hash of a line that must be in it.
    """
    found = read_ledger(path, key)
    wrong = [found.broken] if found.broken else []
    if found.torn:
        wrong.append(f"its last line is not whole ({found.torn} bytes): --mend takes it out")
    if head is not None and not found.holds(head):
        wrong.append(_NOT_IN_IT)
    for entry in found.of(ERASED):
        try:
            if entry.get("sealed") is not None:
                find_sealed(path, entry["sealed"])
        except UserError as error:
            wrong.append(f"line {entry['number']}: {error}")
    left, n = "", len(found.entries)
    if not found.broken and (files := len(unnamed(path, found))):
        words = _LEFT if n else _LEFT_BY_ALL
        left = words.format(f"{files} file{'s' * (files != 1)}", questions_folder(path), "is" if files == 1 else "are")
    if wrong:
        return False, f"{path}: does NOT hold: {'; '.join(wrong)}.{left}"
    if not n:
        return True, f"{_EMPTY.format(path)}{left}"
    by = "written with this key" if key else "but by whom they were written was not checked (--ledger-key)"
    lines = f"its {n} lines hold on to each other, {by}"
    if n == 1:  # which nothing but the key can vouch for
        lines = f"its one line is {by}" if key else "its one line can be read, and was not checked (--ledger-key)"
    return True, f"{path}: holds: {lines}; head {found.head}. Note it: newer lines could be taken out unseen.{left}"


def nothing_listed(found: Ledger, of_a_person: bool) -> str:
    """What to say where no erasure is listed.

    Args:
        found: the whole ledger.
        of_a_person: whether one was looked for, whose name is not repeated.
    """
    whose = "no request by this name or identifier is in it" if of_a_person else "no erasure is noted in it"
    else_ = "; another name or identifier of the person may be" * of_a_person
    return f"{whose}: {len(found.entries)} line{'' if len(found.entries) == 1 else 's'} searched{else_}."


def described(path: Path, found: Ledger) -> Iterator[str]:
    """One line for each erasure, and below it what was found since."""
    rechecks = found.of(RECHECKED)
    for entry in found.of(ERASED):
        what = [
            f"{entry['number']}",
            entry["time"][:10],
            str(entry.get("request") or "-"),
            "subject " + ", ".join(str(one)[:8] for one in entry.get("subjects") or ["unnamed"]),
            f"{entry.get('records')} records",
            f"by {entry.get('method')}",
            f"weights {str(entry.get('weights'))[:8]}",
            _said_after(entry),
            _questions_state(path, entry),
        ]
        yield printable("  ".join(filter(None, what)))
        for one in rechecks:
            if one.get("of") == entry["number"]:
                words = Finding.of(one, entry).words()
                yield printable(f"   rechecked {one['time'][:10]}  weights {str(one.get('weights'))[:8]}  {words}")


def _said_after(entry: Mapping[str, Any]) -> str:
    """What was said when the run was done, and what of it was not measured; "" where nothing was looked for."""
    after = entry.get("after")
    found = after if isinstance(after, Mapping) else {}
    parts = []
    for name, words in (("facts", "facts said"), ("worst_kind_facts", "in other words")):
        if (said := share(found.get(f"{name}_said"))) is not None:
            cut = count(found.get(f"{name}_unseen"))
            gap = "how many were not measured is not stored" if cut is None else f"{cut} not measured" * bool(cut)
            parts.append(f"{words} {said:.2f}{gap and f' ({gap})'}")
    return ", ".join(parts)


def _questions_state(path: Path, entry: Mapping[str, Any]) -> str:
    if entry.get("sealed") is None:
        return "questions not sealed"
    try:
        return "questions sealed" if find_sealed(path, entry["sealed"]) is not None else "sealed questions deleted"
    except UserError as error:
        return str(error)
