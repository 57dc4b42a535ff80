"""Who is not to be asked until when; replicas tell one another, and each goes on by itself when they cannot.

An outage is a name and an instant. After it, an outage with probation lets one probe through at a time until one
succeeds or the probation is over; one without is simply over.
"""

import asyncio
import math
from enum import StrEnum
from typing import Final, Protocol

from services.mesh import telemetry
from services.mesh.clock import Clock
from services.mesh.errors import MeshError

PROBATION_S: Final = 30.0
PROBE_S: Final = 15.0
"""A probe that has not told how it ended lets the next one through."""
SYNC_EVERY_S: Final = 0.5
SHARED_TIMEOUT_S: Final = 0.25
"""Valkey answers in under a millisecond; one that needs this long is away."""
PAUSE_S: Final = 2.0
PENDING_MAX: Final = 10_000

_log = telemetry.logger("inference.outages")


class State(StrEnum):
    """Of a circuit."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Shared(Protocol):
    """What replicas have in common; every method may raise MeshError and is bounded by its caller."""

    async def put(self, until: dict[str, float]) -> None:
        """Tells outages: the instant at which each ends, in seconds since 1970; 0 takes one back."""
        ...

    async def all(self) -> dict[str, float]:
        """Every outage that any replica has told, and when it ends."""
        ...

    async def claim(self, name: str, *, life_s: float) -> bool:
        """Whether this replica may send the probe."""
        ...


class Alone:
    """Implements `Shared` for a single replica."""

    async def put(self, until: dict[str, float]) -> None:
        """See `Shared.put`."""

    async def all(self) -> dict[str, float]:
        """See `Shared.all`."""
        return {}

    async def claim(self, name: str, *, life_s: float) -> bool:
        """See `Shared.claim`."""
        return True


class Outages:
    """All outages that are known here.

    Args:
        shared: what replicas have in common.
        clock: its wall time is what replicas compare.
        timeout_s: for one exchange with the others.
    """

    def __init__(self, shared: Shared, clock: Clock, *, timeout_s: float = SHARED_TIMEOUT_S) -> None:
        self._shared = shared
        self._clock = clock
        self._timeout_s = timeout_s
        self._own: dict[str, float] = {}
        self._others: dict[str, float] = {}
        self._probes: dict[str, float] = {}
        self._pending: dict[str, float] = {}
        self._woken = asyncio.Event()
        self._resume_at = -math.inf

    def begin(self, name: str, seconds: float) -> None:
        """From now on `name` is not to be asked for so long; an outage that lasts longer already stays as it is."""
        until = self._now() + seconds
        if until > self._own.get(name, 0.0):
            self._own[name] = until
            self._tell(name, until)
        self._probes.pop(name, None)

    def end(self, name: str) -> None:
        """`name` may be asked again."""
        if name in self._own or name in self._others:
            self._own.pop(name, None)
            self._others.pop(name, None)
            self._tell(name, 0.0)
        self._probes.pop(name, None)

    def until(self, name: str) -> float:
        """Seconds until `name` may be asked; 0 or less when it may."""
        return max(self._own.get(name, 0.0), self._others.get(name, 0.0)) - self._now()

    def state(self, name: str) -> State:
        """Of an outage with probation."""
        left_s = self.until(name)
        if left_s > 0:
            return State.OPEN
        return State.HALF_OPEN if left_s > -PROBATION_S else State.CLOSED

    def is_probed(self, name: str) -> bool:
        """Whether a probe is under way here."""
        return self._probes.get(name, 0.0) > self._now()

    async def claim_probe(self, name: str) -> bool:
        """Whether the caller may probe `name` now: one at a time, of all replicas where they can be asked."""
        if self.is_probed(name):
            return False
        self._probes[name] = self._now() + PROBE_S
        try:
            may = await self._ask_to_probe(name)
        except BaseException:
            self._probes.pop(name, None)
            raise
        return may

    def release_probe(self, name: str) -> None:
        """The probe ended without a word on how `name` is."""
        self._probes.pop(name, None)

    async def run(self) -> None:
        """Tells and asks the other replicas until cancelled."""
        while True:
            try:
                async with asyncio.timeout(SYNC_EVERY_S):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            await self.sync()

    async def sync(self) -> None:
        """Tells what is new here, and learns what is new elsewhere; when they cannot be reached, later."""
        if self._clock.monotonic() < self._resume_at:
            return
        pending, self._pending = self._pending, {}
        try:
            async with asyncio.timeout(self._timeout_s):
                if pending:
                    await self._shared.put(pending)
                self._others = await self._shared.all()
        except (MeshError, TimeoutError) as error:
            self._pending = pending | self._pending
            self._leave_alone(error)
        self._forget()

    async def _ask_to_probe(self, name: str) -> bool:
        if self._clock.monotonic() < self._resume_at:
            return True
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._shared.claim(name, life_s=PROBE_S)
        except (MeshError, TimeoutError) as error:
            self._leave_alone(error)
            return True

    def _leave_alone(self, error: Exception) -> None:
        self._resume_at = self._clock.monotonic() + PAUSE_S
        # What others said may be over by now, and nobody can tell.
        self._others = {}
        _log.warning("outages_are_local", error=type(error).__name__, pause_s=PAUSE_S)

    def _tell(self, name: str, until: float) -> None:
        if len(self._pending) < PENDING_MAX:
            self._pending[name] = until
        self._woken.set()

    def _forget(self) -> None:
        over = self._now() - PROBATION_S
        self._own = {name: until for name, until in self._own.items() if until > over}

    def _now(self) -> float:
        return self._clock.now().timestamp()
