"""Sealed to a public key: what only the holder of its private half reads again.

HPKE (RFC 9180) in its base mode, with X25519, HKDF-SHA256 and ChaCha20-Poly1305. Whoever has the public half can seal:
what is unsealed says nothing of who wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rkld.errors import UserError
from rkld.files import json_object

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.hpke import Suite

HEAD = b"rkld sealed 1\n"
"""What a sealed file begins with; it is part of what is authenticated."""


def _suite() -> Suite:
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


def seal(document: Mapping[str, Any], key: X25519PublicKey) -> bytes:
    """A document of plain values, for the holder of the private half alone."""
    return HEAD + _suite().encrypt(json.dumps(document).encode(), key, HEAD)


def unseal(sealed: bytes, key: X25519PrivateKey) -> dict[str, Any]:
    """What :func:`seal` sealed.

    Raises:
        UserError: it is sealed to another key, or damaged.
    """
    from cryptography.exceptions import InvalidTag

    try:
        if not sealed.startswith(HEAD):
            raise ValueError("not sealed by rkld")
        return json_object(_suite().decrypt(sealed.removeprefix(HEAD), key, HEAD))
    except (InvalidTag, ValueError, RecursionError):
        raise UserError("it is sealed to another key, or damaged") from None
