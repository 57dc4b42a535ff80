"""What is written beside the answer, never before it: when credentials were last used, and failed logins.

While one write is under way, what happens is collected; it goes out together in the next (group commit), so that no
exchange and no login waits for it. A failed login must not take longer for an account that exists than for one that
does not: that is why its audit event is written here.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final, TypeVar

from services.auth.model import ApiKeyId, AuditEvent, SessionId
from services.auth.store import Store
from services.mesh import telemetry
from services.mesh.clock import Clock
from services.mesh.errors import MeshError

USE_GRAIN: Final = timedelta(seconds=60)
"""A use within this long of one that was recorded is not recorded: one row a minute and credential at most."""
KNOWN_MAX: Final = 50_000
"""Credentials whose last recorded use is remembered; one that is forgotten is written once too often."""
FAILURES_MAX: Final = 1_000
"""Failed logins that wait to be written; further ones are counted by the metric of lost events only."""
RETRY_S: Final = 1.0

_log = telemetry.logger("auth.recorder")
_LOST: Final = telemetry.counter("parley_auth_recorder_events_lost", "Audit events that found their queue full.")

T = TypeVar("T")


class Recorder:
    """Collects, and writes in the background. One per process; `run` is its loop, `drain` writes what is left."""

    def __init__(self, store: Store, clock: Clock, *, session_idle: timedelta) -> None:
        self._store = store
        self._clock = clock
        self._session_idle = session_idle
        self._api_keys: list[ApiKeyId] = []
        self._sessions: list[SessionId] = []
        self._failures: list[AuditEvent] = []
        self._known: OrderedDict[str, float] = OrderedDict()
        self._work = asyncio.Event()

    def api_key_used(self, key_id: ApiKeyId) -> None:
        """The key was good for an exchange just now."""
        if self._is_due(key_id):
            self._api_keys.append(key_id)
            self._work.set()

    def session_used(self, session_id: SessionId) -> None:
        """The cookie session was good for an exchange just now: its idle end moves."""
        if self._is_due(session_id):
            self._sessions.append(session_id)
            self._work.set()

    def login_failed(self, event: AuditEvent) -> None:
        """Somebody tried a wrong password on an account."""
        if len(self._failures) >= FAILURES_MAX:
            _LOST.inc()
            return
        self._failures.append(event)
        self._work.set()

    async def run(self) -> None:
        """Writes whatever there is, until cancelled."""
        while True:
            await self._work.wait()
            try:
                await self.drain()
            except MeshError as error:
                _log.warning("use_not_recorded", reason=error.reason)
                await asyncio.sleep(RETRY_S)

    async def drain(self) -> None:
        """Writes what there is now.

        Raises:
            MeshError: the database is away; what was not written waits for the next time.
        """
        self._work.clear()
        now = self._clock.now()
        try:
            if keys := _take(self._api_keys):
                with _kept(self._api_keys, keys):
                    await self._store.touch_api_keys(dict.fromkeys(keys, now))
            if sessions := _take(self._sessions):
                with _kept(self._sessions, sessions):
                    await self._store.touch_sessions(dict.fromkeys(sessions, now + self._session_idle))
            if failures := _take(self._failures):
                with _kept(self._failures, failures):
                    await self._store.record(failures)
        except BaseException:
            self._work.set()
            raise

    def _is_due(self, name: str) -> bool:
        now = self._clock.monotonic()
        recorded_at = self._known.get(name)
        if recorded_at is not None and now - recorded_at < USE_GRAIN.total_seconds():
            return False
        self._known[name] = now
        self._known.move_to_end(name)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        return True


def _take(waiting: list[T]) -> list[T]:
    taken, waiting[:] = waiting[:], []
    return taken


@contextmanager
def _kept(waiting: list[T], taken: list[T]) -> Iterator[None]:
    """What could not be written goes back to the head of the line."""
    try:
        yield
    except BaseException:
        waiting[:0] = taken
        raise
