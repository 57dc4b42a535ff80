"""Keys that derive from the operator's one secret, PARLEY_AUTH_KEY_ENCRYPTION_SECRET.

Each purpose has a key of its own (HKDF), so that none can be used for another. A copy of the database alone then
signs no token, tells no refresh token's successor and tests no guess of a password that a request held.
"""

import hmac
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SECRET_LENGTH_MIN: Final = 32
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12  # of AES-GCM, NIST SP 800-38D section 8.2
_VERSION: Final = b"\x01"


class SealError(Exception):
    """A sealed value was not sealed with this secret, or was changed since."""


class Sealing:
    """Seals signing keys, and hands out the keys of the other purposes."""

    def __init__(self, secret: str) -> None:
        if len(secret) < SECRET_LENGTH_MIN:
            raise ValueError(f"the secret needs {SECRET_LENGTH_MIN} characters or more")
        self._aead = AESGCM(_derive(secret, b"parley/auth/signing-keys"))
        self._fingerprint_key = _derive(secret, b"parley/auth/request-fingerprints")
        self.succession_key: Final = _derive(secret, b"parley/auth/refresh-succession")

    def seal(self, plain: bytes, *, name: str) -> bytes:
        """`plain` encrypted; it opens under the same name only."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._aead.encrypt(nonce, plain, name.encode())

    def open(self, sealed: bytes, *, name: str) -> bytes:
        """What `seal` was given.

        Raises:
            SealError: another secret, another name, or a changed value.
        """
        if not sealed.startswith(_VERSION):
            raise SealError("sealed by a version that this one does not know")
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return self._aead.decrypt(nonce, body, name.encode())
        except (InvalidTag, ValueError) as error:
            raise SealError("sealed with another secret, or changed since") from error

    def fingerprint(self, *parts: str) -> bytes:
        """A keyed hash of a request's body; parts are told apart by their lengths."""
        message = b"".join(len(part).to_bytes(4) + part for part in (text.encode() for text in parts))
        return hmac.digest(self._fingerprint_key, message, "sha256")


def _derive(secret: str, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=purpose).derive(secret.encode())
