"""What a client has seen of the databases behind a stack, kept and sent as docs/replicas.md tells clients to."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Protocol

from services.mesh.positions import NO_POSITION, POSITION_KEY, parse, written
from services.mesh.rpc import Position

Trailer = Iterable[tuple[str, str | bytes]]


class _Message(Protocol):
    """A request or a response, of any HTTP client that has hooks."""

    @property
    def headers(self) -> MutableMapping[str, str]: ...


class Seen:
    """A caller's positions, the furthest of each place."""

    def __init__(self) -> None:
        self._furthest: dict[str, Position] = {}

    @property
    def word(self) -> str:
        """For the next call."""
        return written(self._furthest) or NO_POSITION

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """For the next call over gRPC."""
        return ((POSITION_KEY, self.word),)

    def take(self, *words: str) -> None:
        """What an answer told."""
        self._furthest = parse([self.word, *words])

    def take_trailer(self, trailer: Trailer | None) -> None:
        """What an answer over gRPC told."""
        self.take(*(str(value) for key, value in trailer or () if key == POSITION_KEY))

    # Any: each client has types of its own for what it calls.
    def hooks(self) -> dict[str, list[Callable[[Any], None]]]:
        """Event hooks of an HTTP client."""
        return {"request": [self._send], "response": [self._receive]}

    def async_hooks(self) -> dict[str, list[Callable[[Any], Awaitable[None]]]]:
        """Event hooks of an asynchronous HTTP client."""

        async def send(request: _Message) -> None:
            self._send(request)

        async def receive(response: _Message) -> None:
            self._receive(response)

        return {"request": [send], "response": [receive]}

    def _send(self, request: _Message) -> None:
        request.headers[POSITION_KEY] = self.word

    def _receive(self, response: _Message) -> None:
        self.take(response.headers.get(POSITION_KEY, ""))
