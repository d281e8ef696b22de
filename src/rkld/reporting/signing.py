"""Signed, and checked by others: one signature over a statement and every file of a run's or an audit's folder.

The signature, ``report.sig``, is a DSSE envelope (secure-systems-lab/dsse, v1.0.0) with an Ed25519 signature (RFC 8032)
over an in-toto statement (v1): its predicate is the one that was handed in, its subjects are all files of the folder
by their SHA-256. ``model-signing`` signs model folders in the same form, but by NIST's curves alone. The envelope can
be handed on by itself, so it gives away no file of personal data: these have an HMAC-SHA256 by a key that lies in the
folder and goes with a purge, and files that are not rkld's have their names hidden by it, too.

What is verified may come from anybody: nothing is opened because a statement names it, links are not followed, and
nothing is written.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rkld.errors import UserError
from rkld.files import json_object, read_bounded, write_text
from rkld.reporting.bom import BOM, bill_of_materials
from rkld.reporting.keys import key_id
from rkld.reporting.statement import STATEMENT_TYPE, statement
from rkld.reporting.writing import OWN_PAGE, PDF, misfits
from rkld.runfolder.checksums import CHECKSUM, belongs, sha256, unsealed, weights_hash
from rkld.runfolder.folder import PERSONAL, SHOWN
from rkld.runfolder.lock import LOCK, MODEL, hold
from rkld.runfolder.manifest import (
    AUDIT,
    MANIFEST,
    METRICS,
    REPORT,
    SETTINGS,
    SIGNATURE,
    SIGNATURE_SALT,
    STATEMENT,
    check_model,
    is_finished,
    named,
    read_manifest,
)
from rkld.text.printable import printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"

PLAIN, KEYED = "sha256", "hmac_sha256"
"""Digests in a statement; the second by the key in :data:`~rkld.runfolder.manifest.SIGNATURE_SALT`."""

PAGES = (REPORT, PDF, STATEMENT, SHOWN)
"""What people are handed: the report, on paper, for machines, and of one person of several or with records."""

OPEN = (MODEL, AUDIT, MANIFEST, METRICS, *PAGES, BOM, SIGNATURE_SALT)
"""Files whose plain SHA-256 gives nobody away: weights, numbers, and what holds a random value or has been shown."""

KNOWN = (*OPEN, *PERSONAL, SETTINGS)
"""Files that have their names from rkld."""

OTHER = "other/"
"""Before what stands in a statement for the name of any other file."""

LONGEST = 64 * 1024**2
"""Bytes of an envelope. A statement has 200 for each file."""

LONGEST_DOCUMENT = 512 * 1024**2
"""Bytes of an audit or a report that is looked into; of a long audit without --redact it may be tens of megabytes."""

MOST_FILES = 200_000
"""In a folder. A run has a few hundred."""

IN_USE = "is there and not empty: a command works in the folder, was killed there, or it was added"
"""Of :data:`~rkld.runfolder.lock.LOCK`, which is not signed."""

INTEGRITY = "a signature vouches for integrity, not for honesty or time"


@dataclass(frozen=True)
class Verification:
    """What was checked.

    Attributes:
        failures: what is not as it was signed, a few words each; none where all is.
        sentence: the same for people, in one.
        statement: what was signed, as JSON has it; empty where the signature is not the key's.
    """

    failures: tuple[str, ...]
    sentence: str
    statement: Mapping[str, Any]

    @property
    def verified(self) -> bool:
        """Whether everything that was looked at is as it was signed."""
        return not self.failures


# Signing


def sign(folder: Path, key: Ed25519PrivateKey) -> Path:
    """Sign the statement of a run's or an audit's folder and every file in it; the signature that is there makes way.

    Returns:
        the file of the signature.

    Raises:
        UserError: the folder is no run's or audit's, or does not hold together: the model is not the one that the run
            made or the audit read; a page, a PDF or the bill of materials is not made of this audit and manifest;
            ``report.json`` says something else; it holds links or other things that cannot be signed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None and not (folder / AUDIT).is_file():
        raise UserError(f"{folder}: neither a run of rkld nor an audit, so there is nothing to sign.")
    if manifest is not None and not is_finished(manifest):
        raise UserError(f"{folder}: the run is not finished: give the same rkld unlearn again, then sign.")
    with hold(folder, marks=(MANIFEST, AUDIT), shared=True):
        check_model(folder)
        new = not os.path.lexists(folder / SIGNATURE_SALT)
        try:
            signed = _whole_statement(folder)
        except BaseException:
            if new:
                (folder / SIGNATURE_SALT).unlink(missing_ok=True)
            raise
        payload = json.dumps(signed, ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode()
        path = folder / SIGNATURE
        write_text(path, _envelope(payload, key_id(key.public_key()), key.sign(_encoded(payload))))
    return path


def _whole_statement(folder: Path) -> dict[str, Any]:
    """The folder's statement with every file of the folder as its subjects.

    Raises:
        UserError: they do not belong together, or cannot be signed.
    """
    made, salt = statement(folder), _salt(folder, make=True)
    subjects = [_subject(label, one.path, salt) for label, one in _labelled(folder, salt, held=True).items()]
    signed = {
        "_type": STATEMENT_TYPE,
        "subject": sorted(subjects, key=lambda subject: subject["name"]),
        "predicateType": made["predicateType"],
        "predicate": made["predicate"],
    }
    if reasons := [*_inconsistent(folder, signed), *_not_of_this(folder)]:
        raise UserError(
            f"{folder}: cannot be signed: {'; '.join(reasons)}. Report it again (rkld report), take out "
            "what is named still, then sign."
        )
    return signed


def _not_of_this(folder: Path) -> list[str]:
    """What is handed on with a folder and is not made of what lies in it: another run's, or one of before."""
    found = [f"{printable(name)} {why}" for name, why in misfits(folder).items()]
    if os.path.lexists(folder / BOM):
        bill = _document(folder / BOM)
        if not (folder / MODEL).is_dir():
            found.append(f"{BOM} is of a model that is not here")
        elif bill != bill_of_materials(folder):
            found.append(f"{BOM} is not made of this model, audit and manifest")
    return found


def _envelope(payload: bytes, keyid: str, signature: bytes) -> str:
    """The file of a signature, in the one way in which it is written and believed."""
    signatures = [{"keyid": keyid, "sig": _base64(signature)}]
    envelope = {"payloadType": PAYLOAD_TYPE, "payload": _base64(payload), "signatures": signatures}
    return json.dumps(envelope, indent=2) + "\n"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _encoded(payload: bytes) -> bytes:
    """What is signed of a payload: DSSE's pre-authentication encoding."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _subject(label: str, path: Path, salt: bytes) -> dict[str, Any]:
    """A file's; of an empty folder, whose label ends in a slash, that of nothing."""
    try:
        if label.endswith("/"):
            return {"name": label, "digest": _of_nothing(label, salt)}
        if belongs(label, OPEN):
            return {"name": label, "digest": {PLAIN: sha256(path)}, "annotations": {"size": path.lstat().st_size}}
        return {"name": label, "digest": {KEYED: sha256(path, salt)}}
    except OSError as error:
        raise UserError(
            f"{path}: cannot be signed ({error.strerror}). A signed folder holds files alone: copy what a link leads "
            "to, or take it out."
        ) from None


def _of_nothing(label: str, salt: bytes) -> dict[str, str]:
    if belongs(label, OPEN):
        return {PLAIN: hashlib.sha256().hexdigest()}
    return {KEYED: hmac.new(salt, b"", "sha256").hexdigest()}


def _salt(folder: Path, *, make: bool = False) -> bytes:
    """The key of the fingerprints of personal data; empty where there is none that can be read."""
    path = folder / SIGNATURE_SALT
    try:
        found = read_bounded(path, 100).strip()
    except OSError:
        found = b""
    if re.fullmatch(rb"[0-9a-f]{64}", found):
        return found
    if make:
        write_text(path, salt := secrets.token_hex(32))
        return salt.encode()
    return b""


class _Found(NamedTuple):
    """A file, whatever else is no folder, or an empty folder."""

    name: str
    """Where it lies in the run's folder, with slashes; of an empty folder with one behind, too."""
    path: Path


def _labelled(folder: Path, salt: bytes, within: str = "", *, held: bool = False) -> dict[str, _Found]:
    """By the name that stands for it in a statement, everything in a folder that is no folder, or an empty one.

    Args:
        within: where the folder lies in the run's, with a slash behind.
        held: by this process, so that its lock is our own.

    Raises:
        UserError: a folder in it cannot be read, or there is no end to it.
    """
    found: dict[str, _Found] = {}
    for path, is_folder in _everything(folder):
        name = within + path.relative_to(folder).as_posix() + ("/" if is_folder else "")
        if name == SIGNATURE or (name == LOCK and (held or _is_free(path))):
            continue
        hidden = OTHER + hmac.new(salt, os.fsencode(name), "sha256").hexdigest()[:32] + ("/" if is_folder else "")
        found[name if belongs(name, KNOWN) else hidden] = _Found(name, path)
        if len(found) > MOST_FILES:
            raise UserError(f"{folder}: holds more than {MOST_FILES} files, so it is no run's.")
    return found


def _is_free(lock: Path) -> bool:
    """Whether a lock is as it may be left behind, a file with nothing in it; or gone meanwhile."""
    try:
        found = lock.lstat()
    except FileNotFoundError:
        return True
    return stat.S_ISREG(found.st_mode) and not found.st_size


def _everything(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Files, links and whatever else is no folder, and empty folders, at any depth; and whether it is a folder."""
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            empty = here != folder
            with os.scandir(here) as entries:
                for entry in entries:
                    empty, path = False, here / entry.name
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(path)
                    else:
                        yield path, False
            if empty:
                yield here, True
        except OSError as error:
            raise UserError(f"{here}: cannot be read ({error.strerror}).") from None


# Verifying


def verify(
    source: Path, key: Ed25519PublicKey, *, model: Path | None = None, report: Path | None = None
) -> Verification:
    """Whether a folder, or what a detached statement speaks of, is as it was signed.

    Args:
        source: a run's or an audit's folder; or the file of a signature, of which the folder is not at hand.
        model: a folder of the model, which lies elsewhere.
        report: the page, which lies elsewhere.

    Raises:
        UserError: there is nothing at ``source``, ``model`` or ``report``.
    """
    source, failures, checked = Path(source), list[str](), list[str]()
    if not os.path.lexists(source):
        raise UserError(f"{source}: is not there. Give the folder of a run or of an audit, or a signature's file.")
    whole = source.is_dir()
    signed = _opened(source / SIGNATURE if whole else source, key)
    if isinstance(signed, str):
        return Verification((signed,), f"{source}: NOT verified: {signed}.", {})
    if whole:
        failures += _differences(source, signed) or _inconsistent(source, signed)  # of others nothing is looked into
    if model is not None:
        failures += _other_model(Path(model), signed)
        checked.append(f"the model in {model} is the one")
    if report is not None:
        failures += _other_report(Path(report), signed)
        checked.append(f"{report} is the report")
    if failures:
        few = ", ".join(failures[:3]) + (f" and {len(failures) - 3} more" if len(failures) > 3 else "")
        return Verification(tuple(failures), f"{source}: NOT verified: {few}.", signed)
    if whole:
        checked = [*_held(source, signed, elsewhere=model is not None), *checked]
    what = ", ".join([*checked, *([] if checked else ["no file was looked at"])])
    sentence = f"{source}: verified: signed with the key {key_id(key)[:16]}…; {what}; it states {_stated(signed)}"
    return Verification((), f"{sentence} ({INTEGRITY}).", signed)


def is_outdated(folder: Path) -> bool:
    """Whether a folder's files are not those any more that its signature is of. Whose signature it is is not looked at.

    False where there is no signature, or none that :func:`verify` would read.
    """
    try:
        envelope = json_object(read_bounded(folder / SIGNATURE, LONGEST))
        return bool(_differences(folder, json_object(base64.b64decode(envelope["payload"])), held=True))
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return False


def _opened(path: Path, key: Ed25519PublicKey) -> dict[str, Any] | str:
    """The statement in an envelope that the key has signed; else what is wrong with it."""
    from cryptography.exceptions import InvalidSignature

    other = f"{path.name} is not signed with this key, or was changed since"
    try:
        found = read_bounded(path, LONGEST)
        envelope = json_object(found)
        payload, (one,) = base64.b64decode(envelope["payload"]), envelope["signatures"]
        keyid, signature = one["keyid"], base64.b64decode(one["sig"])
        if keyid != key_id(key) or found != _envelope(payload, keyid, signature).encode():
            return other  # the name of the key and how it is written are not signed
        key.verify(signature, _encoded(payload))
    except FileNotFoundError:
        return f"there is no {path.name}: it is not signed"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    except (ValueError, RecursionError, KeyError, TypeError):
        return f"{path.name} is no signature of rkld"
    except InvalidSignature:
        return other
    try:
        statement = json_object(payload)
        whole = statement["_type"] == STATEMENT_TYPE and isinstance(statement["predicate"], dict)
        names = [subject["name"] for subject in statement["subject"] if isinstance(subject["digest"], dict)]
        whole &= len(names) == len(statement["subject"]) == len(set(names)) and all(isinstance(x, str) for x in names)
        if whole:
            return statement
    except (ValueError, RecursionError, KeyError, TypeError):
        pass
    return f"what is signed in {path.name} is no statement of rkld"


def _subjects(signed: Mapping[str, Any], names: Sequence[str] = ()) -> dict[str, Mapping[str, Any]]:
    """Name → subject of a statement, of all or of those under the names."""
    every = {subject["name"]: subject for subject in signed["subject"]}
    return {name: subject for name, subject in every.items() if not names or belongs(name, names)}


def _differences(folder: Path, signed: Mapping[str, Any], *, held: bool = False) -> list[str]:
    """What in a folder is not as it was signed; ``held``: whatever its lock says."""
    salt, subjects = _salt(folder), _subjects(signed)
    try:
        found = _labelled(folder, salt, held=held)
    except UserError as error:
        return [printable(str(error)).rstrip(".")]
    failures, hidden = [], [label for label, subject in subjects.items() if PLAIN not in subject["digest"]]
    if SIGNATURE_SALT not in found.keys() & subjects.keys() or _way(found[SIGNATURE_SALT], subjects[SIGNATURE_SALT]):
        failures.append(f"{len(hidden)} files of personal data, which cannot be compared without {SIGNATURE_SALT}")
        subjects = {label: subject for label, subject in subjects.items() if label not in hidden}
        found = {label: one for label, one in found.items() if label not in hidden and not label.startswith(OTHER)}
    failures = [f"{name} {way}" for name, way in _compared(found, subjects, salt).items()] + failures
    if failures and "purged" in (_document(folder / MANIFEST) or {}):
        failures.insert(0, "it was purged, which changes files: sign it again")
    return failures


def _compared(
    found: Mapping[str, _Found], subjects: Mapping[str, Mapping[str, Any]], salt: bytes = b""
) -> dict[str, str]:
    """Name, safe to print → how a file differs from what was signed of it, of those that do."""
    ways = {}
    for label in sorted(found.keys() | subjects.keys()):
        if label not in found:
            what = "a folder" if label.endswith("/") else "a file"
            ways[f"{what} that is not rkld's" if label.startswith(OTHER) else printable(label)] = "missing"
            continue
        added = IN_USE if found[label].name == LOCK and not found[label].path.is_symlink() else "added"
        if way := _way(found[label], subjects[label], salt) if label in subjects else added:
            ways[printable(os.fsencode(found[label].name).decode(errors="replace"))] = way
    return ways


def _way(found: _Found, subject: Mapping[str, Any], salt: bytes = b"") -> str:
    """How a file differs from its subject; "" where it does not, and of a folder that is empty still."""
    if found.name.endswith("/"):
        return ""
    path, digest, annotations = found.path, subject["digest"], subject.get("annotations")
    size = annotations.get("size") if isinstance(annotations, dict) else None
    try:
        if PLAIN in digest and path.lstat().st_size != size:  # before gigabytes of it are read
            return "is a link" if path.is_symlink() else "changed"
        made = sha256(path) if PLAIN in digest else sha256(path, salt)
    except OSError as error:
        return "is a link" if path.is_symlink() else f"cannot be read ({error.strerror})"
    return "" if made == digest.get(PLAIN, digest.get(KEYED)) else "changed"


def _inconsistent(folder: Path, signed: Mapping[str, Any]) -> list[str]:
    """Why the files of a folder do not belong together, whoever signed them."""
    found, subjects = [], _subjects(signed)
    if AUDIT in subjects:
        audit = _document(folder / AUDIT)
        # One without a checksum would pass as an earlier version's.
        if audit is None or CHECKSUM not in audit or unsealed(audit) is None:
            found.append(f"{AUDIT} is damaged or was changed after the audit")
        elif _subjects(signed, [MODEL]) and _audited(audit) != weights_hash(folder / MODEL):
            found.append("the model is not the one that was audited")
    for name, noted in _evidence(signed).items():
        if name in subjects and subjects[name]["digest"].get(PLAIN) != noted:
            found.append(f"what is stated is of another {name}")
    if STATEMENT in subjects:
        report = _document(folder / STATEMENT)
        if report is None or not _says(report, signed):
            found.append(f"{STATEMENT} is the report of something else")
    return found


def _evidence(signed: Mapping[str, Any]) -> dict[str, Any]:
    """File that a statement rests on → its SHA-256."""
    evidence, found = signed["predicate"].get("configuration"), dict[str, Any]()
    for one in evidence if isinstance(evidence, list) else []:
        digest = one.get("digest") if isinstance(one, dict) else None
        if isinstance(digest, dict) and one.get("name") in (AUDIT, MANIFEST):
            found[one["name"]] = digest.get("sha256")
    return found


def _document(path: Path) -> dict[str, Any] | None:
    try:
        return json_object(read_bounded(path, LONGEST_DOCUMENT))
    except (OSError, ValueError, RecursionError):
        return None


def _audited(audit: Mapping[str, Any]) -> str | None:
    """The hash of the weights that an audit read."""
    found: Any = audit.get("models")
    for name in ("audited", "weights"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, str) else None


def _says(report: Mapping[str, Any], signed: Mapping[str, Any]) -> bool:
    """Whether a report's statement is what was signed: of the same result, and of no file that is another."""
    subjects, stated = _subjects(signed), report.get("subject")
    if any(report.get(name) != signed.get(name) for name in ("_type", "predicateType", "predicate")):
        return False
    if not isinstance(stated, list) or not all(isinstance(one, dict) for one in stated):
        return False
    mine = ((subjects[one["name"]], one) for one in stated if one.get("name") in subjects)
    return all(ours["digest"].get(PLAIN) == theirs.get("digest", {}).get(PLAIN) for ours, theirs in mine)


def _other_model(model: Path, signed: Mapping[str, Any]) -> list[str]:
    """How a model's folder that lies elsewhere differs from the one that was signed, or audited."""
    if not model.is_dir():
        raise UserError(f"--model {model}: is no folder.")
    if (model / MANIFEST).is_file() and (model / MODEL).is_dir():  # a run's folder
        model /= MODEL
    if subjects := _subjects(signed, [MODEL]):
        # Hubs link to their cache and add hidden files, which no library loads.
        found = {name: _Found(name, one.path.resolve()) for name, one in _labelled(model, b"", f"{MODEL}/").items()}
        found = {name: one for name, one in found.items() if "/." not in name and not name.endswith("/")}
        ways = _compared(found, {name: one for name, one in subjects.items() if not name.endswith("/")})
        return [f"the model in {model} is another ({named(ways)})"] if ways else []
    noted = _noted_weights(signed)
    if noted is None:
        return ["the statement names no weights"]
    return [] if weights_hash(model) == noted else [f"the model in {model} is not the one that was audited"]


def _noted_weights(signed: Mapping[str, Any]) -> str | None:
    audited = _annotations(signed).get("audited")
    found = audited.get("weights") if isinstance(audited, dict) else None
    return found if isinstance(found, str) else None


def _other_report(report: Path, signed: Mapping[str, Any]) -> list[str]:
    if not report.is_file():
        raise UserError(f"--report {report}: is no file.")
    try:
        made = sha256(report.resolve())
    except OSError as error:
        raise UserError(f"--report {report}: cannot be read ({error.strerror}).") from None
    pages = [one for name, one in _subjects(signed, PAGES).items() if name in PAGES or OWN_PAGE.fullmatch(name)]
    return [] if any(page["digest"].get(PLAIN) == made for page in pages) else [f"{report} is not the report"]


def _annotations(signed: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a statement notes of the audit, or that there is none (:func:`rkld.reporting.statement.statement`)."""
    evidence = signed["predicate"].get("configuration")
    for one in evidence if isinstance(evidence, list) else []:
        noted = isinstance(one, dict) and one.get("name") in (AUDIT, MANIFEST)
        if noted and isinstance(one.get("annotations"), dict):
            found: Mapping[str, Any] = one["annotations"]
            return found
    return {}


def _held(folder: Path, signed: Mapping[str, Any], *, elsewhere: bool) -> list[str]:
    """What a folder that is as it was signed shows, and what it does not; ``elsewhere``: the model was looked at."""
    n = sum(not name.endswith("/") for name in _subjects(signed))
    found = [f"its {n} files are as they were signed"]
    if AUDIT not in _subjects(signed):
        found.append("it holds no audit, so nothing was tested")
    elif not _subjects(signed, [MODEL]):
        found += [] if elsewhere else ["the model lies elsewhere and was not looked at (--model)"]
    else:
        found.append("the model is the one that was audited")
        if "base" in _models(folder).get("audited", {}):
            found.append("but not the base of that adapter, which lies elsewhere")
    found.append("the report is the one that was signed" if REPORT in _subjects(signed) else "it holds no report")
    return found


def _models(folder: Path) -> dict[str, Any]:
    models = (_document(folder / AUDIT) or {}).get("models")
    return {name: of for name, of in models.items() if isinstance(of, dict)} if isinstance(models, dict) else {}


def _stated(signed: Mapping[str, Any]) -> str:
    """The result that a statement states, and when it says that this was found."""
    noted = _annotations(signed)
    verdict, created = noted.get("verdict", signed["predicate"].get("result")), noted.get("created")
    said = f"verdict {printable(verdict)}" if isinstance(verdict, str) else "no verdict"
    return f"{said}, of {printable(created)}" if isinstance(created, str) else said
