"""How far callers have seen PostgreSQL's logs, so that they never read from a replica what is older.

A caller that sends the key `parley-position` is told where the data that it wrote or read stood; it sends that back
with its next calls. Several words, of several answers, may be sent together: the furthest of each place counts. What
nobody can read counts for nothing, so that a caller without a position sends any word, such as `none`.

The words are plain: who forges one reads older data of his own, or is sent to the primary as everybody else.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from services.mesh import rpc
from services.mesh.policy import Idempotency
from services.mesh.rpc import Position

POSITION_KEY: Final = "parley-position"
"""Name of the gRPC metadata key in calls and in the trailer of answers, and of the HTTP header at the edge."""
NO_POSITION: Final = "none"
LENGTH_MAX: Final = 2_000
"""Of what a caller sends, in characters: 30 places; a longer word counts for nothing."""
_WORD: Final = re.compile(r"([a-z][a-z0-9.-]{0,80})=([0-9a-f]{1,8})-([0-9a-f]{1,16})", re.ASCII)


def parse(words: Iterable[str]) -> dict[str, Position]:
    """The furthest position of each place."""
    furthest: dict[str, Position] = {}
    for word in ",".join(words)[:LENGTH_MAX].split(","):
        match = _WORD.fullmatch(word.strip())
        if match is not None:
            place, position = match[1], Position(int(match[2], 16), int(match[3], 16))
            furthest[place] = max(position, furthest.get(place, position))
    return furthest


def written(positions: Mapping[str, Position]) -> str:
    """The inverse of `parse`."""
    return ", ".join(f"{place}={timeline:x}-{lsn:x}" for place, (timeline, lsn) in sorted(positions.items()))


def are_wanted() -> bool:
    """Whether the running call's caller is to be told of positions."""
    call = rpc.current()
    return call is not None and bool(call.values(POSITION_KEY))


def seen(place: str) -> Position | None:
    """What the caller of the running call has seen of a place; None where that is not known, or where it may write.

    What the call itself has read by now is seen too: its next query must not be answered by who is behind that.
    """
    call = rpc.current()
    if call is None or call.policy.idempotency is not Idempotency.READ:
        return None
    sent = parse(call.values(POSITION_KEY)).get(place)
    return None if sent is None else max(sent, call.positions.get(place, sent))


def tell(place: str, position: Position) -> None:
    """The answer to the running call says that this was seen, beside what it has seen elsewhere."""
    call = rpc.current()
    if call is not None:
        call.positions[place] = max(position, call.positions.get(place, position))
        call.context.set_trailing_metadata(((POSITION_KEY, written(call.positions)),))
