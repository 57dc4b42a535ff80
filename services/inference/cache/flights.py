"""One call for all who ask the same at the same time: its events reach each of them, whenever it came.

A flight belongs to none of its readers. It goes on while one of them is left, whatever becomes of the one that began
it, and ends with the last. It is shared within a process: replicas share what is stored, not what is being written.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from services.inference.cache import metrics
from services.inference.model import Event, Finished
from services.mesh import deadline
from services.mesh.errors import DeadlineExceeded, Unavailable

Begin = Callable[[], AsyncGenerator[Event, None]]


class Flight:
    """An answer on its way.

    It keeps all events until it ends, so that who comes late gets what stands. No slow reader holds it up: an answer is
    bounded by its model, and is kept once for all of its readers.
    """

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.readers = 0
        self.has_landed = False
        self._events: list[Event] = []
        self._error: BaseException | None = None
        self._is_over = False
        self._news = asyncio.Event()

    def publish(self, event: Event) -> None:
        """Hands an event to all readers."""
        self._events.append(event)
        self.has_landed = self.has_landed or isinstance(event, Finished)
        self._wake()

    def end(self, error: BaseException | None) -> None:
        """Nothing follows."""
        self._error = error
        self._is_over = True
        self._wake()

    async def events(self, left_s: float) -> AsyncGenerator[Event, None]:
        """All events, up to the last one.

        Args:
            left_s: the reader's own time.

        Raises:
            DeadlineExceeded: it is over.
            MeshError: that of the call, the same for all readers.
        """
        ends_at = asyncio.get_running_loop().time() + left_s
        at = 0
        while True:
            while at < len(self._events):
                event = self._events[at]
                at += 1
                yield event
                if isinstance(event, Finished):
                    return  # what is left of the flight, storing the answer, is nothing to wait for
            if self._is_over:
                raise Unavailable("the answer broke off") if self._error is None else self._error.with_traceback(None)
            await self._wait(ends_at)

    async def _wait(self, ends_at: float) -> None:
        try:
            async with asyncio.timeout_at(None if math.isinf(ends_at) else ends_at):
                await self._news.wait()
        except TimeoutError:
            raise DeadlineExceeded("the time of the call is over") from None

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


@dataclass(frozen=True, slots=True)
class Seat:
    """A reader's place on a flight; `is_first` for the one for whom it was begun."""

    flight: Flight
    is_first: bool


class Flights:
    """All flights of a process; an asynchronous context, within which they may begin. Leaving it ends them."""

    def __init__(self) -> None:
        self._under_way: Final[dict[str, Flight]] = {}
        self._owner = asyncio.TaskGroup()
        self._is_open = False

    async def __aenter__(self) -> Self:
        await self._owner.__aenter__()
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_open = False
        for flight in list(self._under_way.values()):
            _cancel(flight)
        # Not handed `error`: the group would wrap it, and whoever catches it would no longer know it.
        await self._owner.__aexit__(None, None, None)

    def has(self, name: str) -> bool:
        """Whether a flight of this name is under way."""
        return name in self._under_way

    @contextmanager
    def boarded(self, name: str, begin: Begin) -> Iterator[Seat]:
        """A seat on the flight of this name, which `begin` begins when there is none; left with the body.

        Raises:
            Unavailable: the process is about to end.
        """
        flight = self._under_way.get(name)
        is_first = flight is None
        if flight is None:
            flight = self._depart(name, begin)
        flight.readers += 1
        try:
            yield Seat(flight, is_first)
        finally:
            flight.readers -= 1
            if not flight.readers and not flight.has_landed:
                # Gone from the list at once: who asks now begins anew instead of boarding what is being ended.
                self._forget(name, flight)
                _cancel(flight)

    def _depart(self, name: str, begin: Begin) -> Flight:
        if not self._is_open:
            raise Unavailable("the process is about to end", retry_after_s=1.0)
        flight = Flight()
        flight.task = self._owner.create_task(self._fly(name, flight, begin), name="inference_flight")
        self._under_way[name] = flight
        return flight

    async def _fly(self, name: str, flight: Flight, begin: Begin) -> None:
        try:
            # The first reader's deadline is not that of the others: each heeds its own.
            with deadline.detached():
                async with aclosing(begin()) as events:
                    async for event in events:
                        flight.publish(event)
            flight.end(None)
            metrics.FLIGHTS.labels("landed").inc()
        except Exception as error:  # noqa: BLE001 - handed to the readers, who handle it
            flight.end(error)
            metrics.FLIGHTS.labels("failed").inc()
        except asyncio.CancelledError:
            flight.end(Unavailable("the process is about to end", retry_after_s=1.0))
            metrics.FLIGHTS.labels("left").inc()
            raise
        finally:
            self._forget(name, flight)

    def _forget(self, name: str, flight: Flight) -> None:
        if self._under_way.get(name) is flight:
            del self._under_way[name]


def _cancel(flight: Flight) -> None:
    if flight.task is not None:
        flight.task.cancel()
