"""What a question asks of the paced double, in words that every process between them passes on, and what it answers.

A token is the instant at which it was due, so whoever reads it knows how late it is, and that none is missing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic_ns
from typing import Final

STAMP_LENGTH: Final = 11
"""A blank and ten digits: microseconds of the machine's monotonic clock, which all its processes share."""
_WRAP: Final = 10**10
_WORDS: Final = re.compile(rb"Write (\d+) words, one in (\d+) us, the first (after (\d+) us|when I say)")


def now_us() -> int:
    """The instant by the clock of stamps."""
    return monotonic_ns() // 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """An answer.

    Attributes:
        tokens: in it, unless the double is told to end before.
        apart_us: between two of them.
        first_us: until the first one, from the request on; None for when the double is told to begin.
    """

    tokens: int
    apart_us: int
    first_us: int | None = 0

    @property
    def words(self) -> str:
        """The question."""
        first = "when I say" if self.first_us is None else f"after {self.first_us} us"
        return f"Write {self.tokens} words, one in {self.apart_us} us, the first {first}"

    @classmethod
    def found_in(cls, body: bytes) -> "Wish":
        """The last wish in a request: those before it are history.

        Raises:
            ValueError: there is none.
        """
        found = _WORDS.findall(body)
        if not found:
            raise ValueError(f"no wish in {body[-200:]!r}")
        tokens, apart, _, first = found[-1]
        return cls(tokens=int(tokens), apart_us=int(apart), first_us=int(first) if first else None)


def stamp(due_us: int) -> bytes:
    """The token that is due at an instant."""
    return b" %010d" % (due_us % _WRAP)


def stamps_in(text: bytes) -> Iterator[int]:
    """The instants of whole tokens, as stamps tell them.

    Raises:
        ValueError: it is no text of the double's.
    """
    for start in range(0, len(text), STAMP_LENGTH):
        yield int(text[start + 1 : start + STAMP_LENGTH])


def late_us(stamped: int, at_us: int) -> int:
    """How long after a stamp's instant another one is; stamps begin anew every few hours."""
    return (at_us - stamped + _WRAP // 2) % _WRAP - _WRAP // 2


def follows(stamped: int, last: int, apart_us: int) -> bool:
    """Whether a stamp is the one after the last."""
    return stamped == (last + apart_us) % _WRAP
