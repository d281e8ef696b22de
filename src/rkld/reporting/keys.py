"""Keys in files: to sign with, to seal questions with, and to make a ledger's pseudonyms with.

``cryptography`` is loaded where a key is made or read.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rkld.errors import UserError
from rkld.files import flush_to_disk, read_bounded

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

KINDS = {
    "sign": "signs reports (Ed25519)",
    "seal": "seals the questions of a ledger (X25519)",
    "ledger": "makes the pseudonyms of a ledger and marks its lines (one secret, without a public half)",
}
"""What a key is for."""

LONGEST = 16 * 1024
"""Bytes of a file with a key."""

SHORTEST = 12
"""Characters of a passphrase: files in PKCS #8 slow guessing down little (PBKDF2, 2048 rounds)."""

PASSPHRASE = "RKLD_PASSPHRASE"
"""The variable of the environment that holds a passphrase. On a command line everybody could read it."""

Ask = Callable[[], str]
"""Asks for the passphrase of a private key, where it has one."""

logger = logging.getLogger(__name__)


def make_key(path: Path, kind: str = "sign", passphrase: str = "") -> Path | None:
    """Write a new key to ``path``, readable by its owner alone, and its public half to ``path`` with ".pub" behind.

    Args:
        kind: of :data:`KINDS`.
        passphrase: encrypts the private half; "" for none. A ledger's key has none.

    Returns:
        the file of the public half; None where there is none.

    Raises:
        UserError: one of the files is there already, or cannot be written; nothing is overwritten or left. A passphrase
            that is too short.
    """
    if kind == "ledger":
        if passphrase:
            raise UserError("a ledger's key takes no passphrase: keep its file apart from the ledger.")
        _write_new({path: (f"{secrets.token_hex(32)}\n".encode(), 0o600)})
        return None
    if 0 < len(passphrase) < SHORTEST:
        raise UserError(f"a passphrase of {len(passphrase)} characters is guessed: take at least {SHORTEST}, or none.")
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    key = Ed25519PrivateKey.generate() if kind == "sign" else X25519PrivateKey.generate()
    hidden = form.BestAvailableEncryption(passphrase.encode()) if passphrase else form.NoEncryption()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, hidden)
    public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    beside = path.with_name(f"{path.name}.pub")
    _write_new({path: (private, 0o600), beside: (public, 0o644)})
    return beside


def _write_new(files: dict[Path, tuple[bytes, int]]) -> None:
    """Write files that are not there yet, each with its mode: all of them or none."""
    written: list[Path] = []
    try:
        for path, (content, mode) in files.items():
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
            written.append(path)
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
        flush_to_disk(path.parent)
    except OSError as error:
        for one in written:
            one.unlink(missing_ok=True)
        if isinstance(error, FileExistsError):
            raise UserError(
                f"{path} is there already, and a key that is written over cannot be had again: give another name."
            ) from None
        raise UserError(f"{path}: cannot be written ({error.strerror}). Give another name.") from None


def read_signing_key(path: str | Path, ask: Ask | None = None) -> Ed25519PrivateKey:
    """The private half of a key that signs.

    Raises:
        UserError: it cannot be read, is another key, or its passphrase is missing or wrong.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return _private(Path(path), Ed25519PrivateKey, "sign", ask)


def read_opening_key(path: str | Path, ask: Ask | None = None) -> X25519PrivateKey:
    """The private half of a key that seals, as of :func:`read_signing_key`."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return _private(Path(path), X25519PrivateKey, "seal", ask)


def read_verifying_key(path: str | Path) -> Ed25519PublicKey:
    """The public half of a key that signs.

    Raises:
        UserError: it cannot be read, or is another key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return _public(Path(path), Ed25519PublicKey, "sign")


def read_sealing_key(path: str | Path) -> X25519PublicKey:
    """The public half of a key that seals, as of :func:`read_verifying_key`."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    return _public(Path(path), X25519PublicKey, "seal")


def read_ledger_key(path: str | Path) -> bytes:
    """The 32 bytes of a ledger's key.

    Raises:
        UserError: it cannot be read, or is another key.
    """
    path = Path(path)
    found = re.fullmatch(rb"\s*([0-9a-f]{64})\s*", _content(path, private=True))
    if not found:
        raise _another(path, "ledger")
    return bytes.fromhex(found[1].decode())


def key_id(key: Ed25519PublicKey) -> str:
    """The SHA-256 of a public key's 32 bytes, in hex: what people compare to know whose it is."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def passphrase_from(ask: Ask | None = None) -> str:
    """The passphrase in the environment, else the one that is asked for; "" where there is none."""
    return os.environ.get(PASSPHRASE) or (ask() if ask else "")


def _content(path: Path, *, private: bool) -> bytes:
    try:
        found = read_bounded(path.resolve(), LONGEST)  # the user's own path: it may be a link
        if private and os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            logger.warning("%s can be read by others on this machine: chmod 600 it.", path)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'no path'}).") from None
    return found


def _another(path: Path, kind: str) -> UserError:
    return UserError(f"{path} is no key that {KINDS[kind]}. rkld keygen KEY --for {kind} makes one.")


def _private(path: Path, cls: type[Any], kind: str, ask: Ask | None) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _content(path, private=True)

    def load(passphrase: str | None) -> PrivateKeyTypes:
        return load_pem_private_key(content, None if passphrase is None else passphrase.encode())

    try:
        try:
            key = load(None)
        except TypeError:  # it is encrypted
            if not (given := passphrase_from(ask)):
                raise UserError(f"{path} has a passphrase: give it when asked, or as {PASSPHRASE}.") from None
            try:
                key = load(given)
            except ValueError:
                raise UserError(f"{path}: the passphrase is another one, or the file is damaged.") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _another(path, kind) from None
    if not isinstance(key, cls):
        raise _another(path, kind)
    return key


def _public(path: Path, cls: type[Any], kind: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content = _content(path, private=False)
    if b"PRIVATE KEY" in content:
        raise UserError(f"{path} is the private half of a key: give the public one, which ends in .pub.")
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise _another(path, kind) from None
    if not isinstance(key, cls):
        raise _another(path, kind)
    return key
