"""Positions on their way through the edge: what a caller has seen goes with its call and comes back with the answer."""

from typing import Any

from edge.http import Exchange, HeaderList
from edge.identity import Metadata
from services.mesh.positions import NO_POSITION, POSITION_KEY, parse, written


def sent(exchange: Exchange) -> Metadata:
    """Metadata that tell what the caller has seen; none for a caller that does not say."""
    seen = exchange.headers(POSITION_KEY)
    return ((POSITION_KEY, _word(seen)),) if seen else ()


async def told(exchange: Exchange, call: Any) -> HeaderList:  # Any: grpc.aio's own generic call
    """Headers that tell the caller what it has seen now that `call` has ended; none for one that does not ask."""
    seen = exchange.headers(POSITION_KEY)
    if not seen:
        return ()
    trailer = await call.trailing_metadata() or ()
    return ((POSITION_KEY, _word([*seen, *(str(value) for key, value in trailer if key == POSITION_KEY)])),)


def _word(words: list[str]) -> str:
    """The furthest of each place, and nothing that is no position."""
    return written(parse(words)) or NO_POSITION
