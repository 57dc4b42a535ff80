"""What is told when everybody failed who could answer: the last good answer, if the route allows it."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Final

from services.inference.cache.archive import Entry
from services.inference.cache.replay import replayed, told
from services.inference.model import (
    CacheHit,
    Event,
    PassageCitation,
    ProviderSwitched,
    Started,
    TextDelta,
)
from services.mesh.errors import MeshError, Reason

_FAILED: Final = frozenset({
    Reason.PROVIDER_UNAVAILABLE, Reason.PROVIDER_TIMEOUT, Reason.PROVIDER_REJECTED, Reason.PROVIDER_MISCONFIGURED,
})  # fmt: skip
_OF_PROVIDERS: Final = "model"
"""What errors of providers name; a limit of the payer's own names none, and no answer gets around it."""


class LastGood:
    """Hands on an answer, and takes a stored one in its place when nobody could make it.

    Started is held back until something follows it: whoever was told nothing yet is told of one answer only.

    Args:
        entry: the last good answer.
        hit: how it is marked.
        accepts_restart: readers can take back what they were sent.
    """

    def __init__(self, entry: Entry, hit: CacheHit, *, accepts_restart: bool) -> None:
        self._entry = entry
        self._hit = hit
        self._accepts_restart = accepts_restart
        self._held: list[Event] = []
        self._model = ""
        self._is_begun = False
        self._has_parts = False

    async def instead_of(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        """`events`, or the stored answer.

        Raises:
            MeshError: that of `events`, when it is not for the stored answer to stand in.
        """
        try:
            async with aclosing(events):
                async for event in events:
                    for ready in self._pass(event):
                        yield ready
        except MeshError as error:
            if not is_nobodys_answer(error) or not self._may_stand_in:
                raise
            for event in self._stand_in(error):
                yield event

    @property
    def _may_stand_in(self) -> bool:
        """Text can be taken back by readers who said so; parts cannot."""
        return not self._is_begun or (self._accepts_restart and not self._has_parts)

    def _pass(self, event: Event) -> list[Event]:
        if isinstance(event, Started):
            self._model = event.model
        elif isinstance(event, ProviderSwitched):
            self._model = event.to_model
        if not self._is_begun and isinstance(event, Started | ProviderSwitched):
            self._held.append(event)
            return []
        self._is_begun = True
        self._has_parts = self._has_parts or not isinstance(event, TextDelta | PassageCitation | ProviderSwitched)
        ready, self._held = [*self._held, event], []
        return ready

    def _stand_in(self, error: MeshError) -> Iterator[Event]:
        if not self._is_begun:
            yield from replayed(self._entry, self._hit)
            return
        yield ProviderSwitched(from_model=self._model, to_model=self._entry.model, reason=error.reason.value, offset=0)
        yield from told(self._entry, self._hit)


def is_nobodys_answer(error: MeshError) -> bool:
    """Whether it says that every target failed."""
    limited = error.reason is Reason.RATE_LIMITED and _OF_PROVIDERS in error.metadata
    return error.reason in _FAILED or limited
