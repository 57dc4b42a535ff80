"""Requests made by hand, for tests of what reads them."""

from collections.abc import Sequence

from starlette.types import Message

from edge.http import Exchange


def exchange(
    method: str = "GET", path: str = "/", headers: Sequence[tuple[str, str]] = (), query: str = "", body: bytes = b""
) -> Exchange:
    """A request that cannot be answered."""
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }
    return Exchange(scope, Sender(body), _refuse)


class Sender:
    """ASGI `receive` of one whole body."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __call__(self) -> Message:
        return {"type": "http.request", "body": self._body, "more_body": False}


async def _refuse(_message: Message) -> None:
    raise AssertionError("nothing is sent here")
