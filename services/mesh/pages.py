"""Pages by keyset: a token says after which row the next page begins, and of which query it is.

Tokens are opaque and not secret: they hold the sort key of a row that the caller has just seen, and every query has
the organization in its WHERE anyway.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from services.mesh.errors import InvalidArgument, invalid_field

SIZE_DEFAULT: Final = 50
SIZE_MAX: Final = 200
TOKEN_LENGTH_MAX: Final = 1_024

_DIGEST_LENGTH: Final = 12
_BAD_TOKEN: Final = "must be the next_page_token of the page before, with all other fields unchanged"  # noqa: S105 - a text

Position: TypeAlias = tuple[str | int, ...]
"""Sort key of a row, such as its creation time and its id."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page is wanted.

    Attributes:
        size: rows at most, 1..200.
        after: position of the last row of the page before; None for the first page.
    """

    size: int
    after: Position | None


def parse_page(page_size: int, page_token: str, *, query: Sequence[str]) -> PageRequest:
    """The page that a List request asks for.

    Args:
        page_size: 0 means 50; at most 200.
        page_token: empty for the first page.
        query: everything else that the result depends on: method, parent, filter, order. The same list must be given
            to `next_page_token`.

    Raises:
        InvalidArgument: the size is out of bounds, or the token is not of this query.
    """
    if not 0 <= page_size <= SIZE_MAX:
        raise invalid_field("page_size", f"must be between 1 and {SIZE_MAX}, or 0 for {SIZE_DEFAULT}")
    after = _position(page_token, query) if page_token else None
    return PageRequest(page_size or SIZE_DEFAULT, after)


def next_page_token(last: Position, *, query: Sequence[str]) -> str:
    """The token of the page that begins after the row at `last`."""
    content = json.dumps([_digest(query), *last], separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(content.encode()).rstrip(b"=").decode()


def _position(token: str, query: Sequence[str]) -> Position:
    if len(token) > TOKEN_LENGTH_MAX or not token.isascii():
        raise _bad_token()
    try:
        content = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise _bad_token() from None
    if not isinstance(content, list) or not content or content[0] != _digest(query):
        raise _bad_token()
    position = tuple(content[1:])
    if not position or any(type(part) not in {str, int} for part in position):
        raise _bad_token()
    return position


def _bad_token() -> InvalidArgument:
    return invalid_field("page_token", _BAD_TOKEN)


def _digest(query: Sequence[str]) -> str:
    content = json.dumps(list(query), ensure_ascii=False).encode()
    return hashlib.sha256(content).hexdigest()[:_DIGEST_LENGTH]
