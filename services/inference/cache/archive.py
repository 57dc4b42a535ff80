"""Stored answers and what they are good for: which fit to be stored, which are void, and how long one is waited for.

Only whole answers are kept: they ended by themselves, nothing was refused or filtered, and no tool is to be run. An
answer remembers the epochs under which its call began. Whoever makes answers void draws the epoch anew, so neither an
answer of before nor one that was being written meanwhile is ever found again, in whatever order they arrive.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter, ValidationError

from services.inference.cache import metrics
from services.inference.cache.entries import Entries, Epochs
from services.inference.cache.gist import Gist
from services.inference.model import Answer, ContextReport, FinishReason, PassageCitation, Usage
from services.inference.parts import Reasoning, TextPart
from services.mesh import telemetry
from services.mesh.clock import Clock
from services.mesh.errors import MeshError

TIMEOUT_S: Final = 0.25
"""For one exchange: Valkey answers in under a millisecond, and one that needs this long is away."""
PAUSE_S: Final = 2.0
"""After one that failed nothing is looked up for so long, so that a Valkey that hangs costs few callers a wait."""
ENTRY_BYTES_MAX: Final = 1_048_576

_log = telemetry.logger("inference.cache")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A stored answer.

    Attributes:
        made_at: when it was whole, in seconds since 1970.
        epochs: under which its call began: of all, of the asked name, of the model that answered.
        usage: what it consumed when it was made.
    """

    made_at: float
    epochs: tuple[str, str, str]
    text: str
    citations: tuple[PassageCitation, ...]
    model: str
    usage: Usage
    context: ContextReport
    parts: tuple[TextPart | Reasoning, ...]
    stop_text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A question whose answer is stored.

    Attributes:
        name: of the stored answer.
        gist: of the question.
        vector: of the question, of length 1.
        encoder: whose vector it is.
    """

    name: str
    gist: Gist
    vector: tuple[float, ...]
    encoder: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where the answer to a wish is stored.

    Attributes:
        asked: the name that was asked; it can be made void by.
    """

    organization_id: str
    asked: str
    name: str


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a wish.

    Attributes:
        epochs: when its call began; None when they could not be read, and then nothing is stored.
        entry: its valid answer, however old.
    """

    epochs: Epochs | None
    entry: Entry | None


NOTHING: Final = Known(None, None)

_ENTRY: Final = TypeAdapter(Entry)
_NEIGHBOUR: Final = TypeAdapter(Neighbour)


class Archive:
    """Stored answers. What cannot be reached is not there; only making answers void says so when it cannot be done.

    Args:
        entries: where they lie.
        clock: its wall time is what replicas compare.
        timeout_s: for one exchange.
        entry_bytes_max: of an answer as it is stored; a longer one is not.
    """

    def __init__(
        self,
        entries: Entries,
        clock: Clock,
        *,
        timeout_s: float = TIMEOUT_S,
        entry_bytes_max: int = ENTRY_BYTES_MAX,
    ) -> None:
        self._entry_bytes_max = entry_bytes_max
        self._entries = entries
        self._clock = clock
        self._timeout_s = timeout_s
        self._resume_at = -math.inf

    async def look(self, place: Place) -> Known:
        """What is known of a wish."""
        if self._is_paused:
            return NOTHING
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self._entries.get(place.organization_id, place.name)
        except (MeshError, TimeoutError) as error:
            self._pause(error)
            return NOTHING
        entry = None if found.entry is None else _read(found.entry)
        is_valid = entry is not None and entry.epochs == _epochs(found.epochs, place.asked, entry.model)
        return Known(found.epochs, entry if is_valid else None)

    async def keep(self, place: Place, answer: Answer, epochs: Epochs, *, keep_s: float) -> bool:
        """Stores an answer that fits; tells whether it is stored."""
        if not is_fit(answer):
            metrics.STORED.labels("unfit").inc()
            return False
        entry = Entry(
            made_at=self._now(),
            epochs=_epochs(epochs, place.asked, answer.model),
            text=answer.text,
            citations=answer.citations,
            model=answer.model,
            usage=answer.usage,
            context=answer.context,
            parts=tuple(part for part in answer.parts if isinstance(part, TextPart | Reasoning)),
            stop_text=answer.stop_text,
        )
        written = _ENTRY.dump_json(entry)
        if len(written) > self._entry_bytes_max:
            metrics.STORED.labels("too_large").inc()
            return False
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._entries.put(place.organization_id, place.name, written, keep_s=keep_s)
        except (MeshError, TimeoutError) as error:
            self._pause(error)
            metrics.STORED.labels("unreachable").inc()
            return False
        metrics.STORED.labels("stored").inc()
        return True

    async def neighbours(self, organization_id: str, scope: str) -> list[Neighbour]:
        """Questions of the scope whose answers are stored, the newest first."""
        if self._is_paused:
            return []
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self._entries.neighbours(organization_id, scope)
        except (MeshError, TimeoutError) as error:
            self._pause(error)
            return []
        return list(_neighbours(found))

    async def add_neighbour(self, organization_id: str, scope: str, neighbour: Neighbour, *, keep_s: float) -> None:
        """Lets a question be found by others of its scope."""
        written = _NEIGHBOUR.dump_json(neighbour)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._entries.add_neighbour(organization_id, scope, written, keep_s=keep_s)
        except (MeshError, TimeoutError) as error:
            self._pause(error)

    async def void(self, organization_id: str, name: str) -> None:
        """Makes stored answers void: those that were asked of a model or route or written by it; all without a name.

        Raises:
            Unavailable, Overloaded: they cannot be reached; they may be void or not.
        """
        await self._entries.void(organization_id, name)

    def age_s(self, entry: Entry) -> float:
        """How old an answer is; clocks of replicas may differ a little."""
        return max(0.0, self._now() - entry.made_at)

    @property
    def _is_paused(self) -> bool:
        return self._clock.monotonic() < self._resume_at

    def _pause(self, error: Exception) -> None:
        self._resume_at = self._clock.monotonic() + PAUSE_S
        _log.warning("cache_unreachable", error=type(error).__name__, pause_s=PAUSE_S)

    def _now(self) -> float:
        return self._clock.now().timestamp()


def is_fit(answer: Answer) -> bool:
    """Whether an answer may serve again: whole, of the model's own accord, and with nothing to be done."""
    return (
        answer.finish_reason is FinishReason.STOP
        and bool(answer.text.strip())
        and not answer.refusal_category
        and all(isinstance(part, TextPart | Reasoning) for part in answer.parts)
    )


def _epochs(epochs: Epochs, asked: str, model: str) -> tuple[str, str, str]:
    return epochs.get("", ""), epochs.get(asked, ""), epochs.get(model, "")


def _read(written: bytes) -> Entry | None:
    """The entry, or None for what another version wrote."""
    try:
        return _ENTRY.validate_json(written)
    except ValidationError:
        return None


def _neighbours(found: Sequence[bytes]) -> list[Neighbour]:
    read: list[Neighbour] = []
    for written in found:
        try:
            read.append(_NEIGHBOUR.validate_json(written))
        except ValidationError:
            continue
    return read
