"""Ids: a type prefix, `_`, and a uuid7 in lower-case base32, for example `conv_06ad3fyr27wjv9qk1c5m8x0t4e`.

Sortable by creation time as text, opaque to callers, the same in gRPC and REST.
"""

import secrets
import time
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base32 in lower case: its characters are in ASCII order, so texts sort as the numbers do."""
_PAIRS: Final = [high + low for high in _ALPHABET for low in _ALPHABET]
_DIGITS: Final = 26  # 128 bits in groups of five
_UUID7_VERSION: Final = 0x7 << 76
_RFC_VARIANT: Final = 0b10 << 62


def new_id(prefix: str) -> str:
    """A fresh id with the given type prefix, such as `conv`."""
    return f"{prefix}_{encode(uuid7(time.time_ns() // 1_000_000, secrets.randbits(74)))}"


def is_id(prefix: str, text: str) -> bool:
    """Whether `text` has the form of an id with this prefix. It may still not exist."""
    head, separator, digits = text.rpartition("_")
    return (
        separator == "_"
        and head == prefix
        and len(digits) == _DIGITS
        and digits[0] <= "7"  # 26 digits hold 130 bits; the two above 128 are zero
        and all(digit in _ALPHABET for digit in digits)
    )


def uuid7(unix_ms: int, random_bits: int) -> int:
    """UUID version 7 of RFC 9562, section 5.7, as a number: 48 bits of milliseconds, then 74 random bits."""
    random_a, random_b = random_bits >> 62 & 0xFFF, random_bits & (1 << 62) - 1
    return (unix_ms & (1 << 48) - 1) << 80 | _UUID7_VERSION | random_a << 64 | _RFC_VARIANT | random_b


def encode(number: int) -> str:
    """A 128-bit number as 26 base32 digits, most significant first."""
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(10 * (_DIGITS // 2 - 1), -1, -10)])
