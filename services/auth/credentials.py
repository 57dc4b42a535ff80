"""The text of long-lived credentials: `<kind>_<id>_<secret>_<check>`.

    parley_06ad3fyr27wjv9qk1c5m8x0t4e_<43 base62 digits>_<6 base62 digits>

- The kind is `parley` (API key), `prt` (refresh token) or `pst` (session token), so that people and secret
  scanners recognise it.
- The id is the 26 digits of the id of the key or session, by which the row is found. It is no secret.
- The secret is 256 random bits.
- The check is the CRC-32 of all before it, so that a typing error or an invented text is refused without a look into
  the database.

Only the SHA-256 of the whole text is kept: with 256 random bits a slow hash would buy nothing.
"""

import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_BYTES: Final = 32
_SECRET_DIGITS: Final = 43  # 62^43 > 2^256
_CHECK_DIGITS: Final = 6  # 62^6 > 2^32


class Kind(StrEnum):
    """What a credential is, by its first word."""

    API_KEY = "parley"
    REFRESH_TOKEN = "prt"  # noqa: S105 - a prefix
    SESSION_TOKEN = "pst"  # noqa: S105 - a prefix


_ID_PREFIX: Final = {Kind.API_KEY: "key", Kind.REFRESH_TOKEN: "ses", Kind.SESSION_TOKEN: "ses"}
_FORM: Final = {
    kind: re.compile(
        rf"({kind.value}_([0-9a-hjkmnp-tv-z]{{26}})_[0-9A-Za-z]{{{_SECRET_DIGITS}}})_([0-9A-Za-z]{{{_CHECK_DIGITS}}})",
        re.ASCII,
    )
    for kind in Kind
}


@dataclass(frozen=True, slots=True, repr=False)
class Presented:
    """A credential of good form; whether it is good is another question.

    Attributes:
        id: of the key or session that it claims to belong to.
        secret_hash: SHA-256 of the whole text.
    """

    id: str
    secret_hash: bytes

    def is_of(self, secret_hash: bytes) -> bool:
        """Whether this is the credential behind a stored hash; takes the same time either way."""
        return hmac.compare_digest(self.secret_hash, secret_hash)


def new_secret(kind: Kind, owner_id: str) -> str:
    """A fresh credential of the key or session `owner_id`."""
    return _text(kind, owner_id, secrets.token_bytes(_SECRET_BYTES))


def successor(kind: Kind, owner_id: str, *, parent: str, key: bytes) -> str:
    """The credential that follows `parent`: the same for everyone who holds both the parent and our key.

    A repeat of the parent after a lost answer is thereby told the same successor, without the successor being stored.
    """
    message = f"{owner_id}\0{parent}".encode()
    return _text(kind, owner_id, hmac.digest(key, message, "sha256"))


def parse(kind: Kind, text: str) -> Presented | None:
    """What `text` claims to be, or None when it cannot be a credential of this kind."""
    found = _FORM[kind].fullmatch(text)
    if found is None or found[3] != _check(found[1]):
        return None
    return Presented(f"{_ID_PREFIX[kind]}_{found[2]}", hash_of(text))


def hash_of(text: str) -> bytes:
    """What is stored of a credential."""
    return hashlib.sha256(text.encode()).digest()


def hint_of(text: str) -> str:
    """The beginning of a credential up to its id: enough to recognise it, and nothing of the secret."""
    return "_".join(text.split("_")[:2])


def _text(kind: Kind, owner_id: str, secret: bytes) -> str:
    digits = owner_id.removeprefix(f"{_ID_PREFIX[kind]}_")
    body = f"{kind.value}_{digits}_{_base62(int.from_bytes(secret), _SECRET_DIGITS)}"
    return f"{body}_{_check(body)}"


def _check(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECK_DIGITS)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
