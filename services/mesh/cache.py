"""Local caches: bounded, short-lived, and told of changes by message.

A message can be lost, so correctness never hangs on one alone: entries expire, a fresh subscription clears the cache,
and while there is no subscription entries live for a much shorter time.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final, Generic, TypeVar

from redis.asyncio.client import PubSub

from services.mesh import telemetry
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import MeshError, Unavailable
from services.mesh.valkey import Client, translated

HEARTBEAT_S: Final = 1.0
"""A subscription that is silent this long is pinged; silent for twice as long, it is given up as dead."""
SUBSCRIBED_LIFE_S: Final = 30.0
UNTOLD_MAX: Final = 10_000
"""Changes that others were not told of yet; more than Valkey is away for, and all have forgotten by time."""
ALONE_LIFE_S: Final = 2.0
"""Together with the heartbeats: what was revoked is refused within 5 s even when the link to Valkey dies in silence."""

V = TypeVar("V")

_log = telemetry.logger("mesh.cache")
_LOOKUPS: Final = telemetry.counter("parley_mesh_cache_lookups", "Look-ups in local caches.", ["cache", "outcome"])


class LocalCache(Generic[V]):
    """At most `entries_max` entries, each for at most `life_s` seconds; the one used longest ago goes first."""

    def __init__(self, *, entries_max: int, life_s: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self._entries_max = entries_max
        self.life_s = life_s
        self._clock = clock
        self._entries: OrderedDict[str, tuple[V, float]] = OrderedDict()

    def get(self, key: str) -> V | None:
        """The value, or None when there is none that is young enough."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, stored_at = entry
        if self._clock.monotonic() - stored_at >= self.life_s:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return value

    def put(self, key: str, value: V, *, known_at: float | None = None) -> None:
        """Keeps a value; its life began at `known_at` by the clock, or begins now."""
        self._entries[key] = (value, self._clock.monotonic() if known_at is None else known_at)
        self._entries.move_to_end(key)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)

    def drop(self, key: str) -> None:
        """Forgets a value; no error when there is none."""
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)


class _Load:
    """One running load; spoiled when its key changes meanwhile."""

    __slots__ = ("is_spoiled",)

    def __init__(self) -> None:
        self.is_spoiled = False


class InvalidatingCache(Generic[V]):
    """A local cache in each replica, with one channel on which each tells the others what changed.

    `listen` must run as a background loop; without it every entry lives for `ALONE_LIFE_S` only.
    """

    def __init__(
        self,
        name: str,
        client: Client,
        *,
        entries_max: int,
        life_s: float = SUBSCRIBED_LIFE_S,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._name = name
        self._channel = f"parley:invalidate:{name}"
        self._client = client
        self._clock = clock
        self._life_s = life_s
        self._local: LocalCache[V] = LocalCache(entries_max=entries_max, life_s=min(ALONE_LIFE_S, life_s), clock=clock)
        self._loads: dict[str, set[_Load]] = {}
        self._untold: set[str] = set()

    async def get_or_load(self, key: str, load: Callable[[], Awaitable[V | None]]) -> V | None:
        """The value from memory, or else from `load`, whose None is not kept.

        What changes while `load` runs is returned, because it was true when asked, and not kept. An entry's life begins
        with its load: a process that is paused between reading and keeping does not lengthen it.
        """
        known = self._local.get(key)
        if known is not None:
            _LOOKUPS.labels(self._name, "hit").inc()
            return known
        _LOOKUPS.labels(self._name, "miss").inc()
        mark = _Load()
        begun = self._clock.monotonic()
        marks = self._loads.setdefault(key, set())
        marks.add(mark)
        try:
            value = await load()
            if value is not None and not mark.is_spoiled:
                self._local.put(key, value, known_at=begun)
            return value
        finally:
            marks.discard(mark)
            if not marks:
                self._loads.pop(key, None)

    async def invalidate(self, key: str) -> None:
        """Tells every replica that the value has changed. Call it after the change is committed.

        Never raises: the change has happened. A message that could not be sent is sent with the next heartbeat, because
        the others may be well connected meanwhile; replicas that miss it all the same forget by time.
        """
        self._forget(key)
        self._untold.add(key)
        if len(self._untold) > UNTOLD_MAX:
            self._untold.pop()
        await self._tell()

    async def _tell(self) -> None:
        """Sends what was not sent yet."""
        for key in tuple(self._untold):
            try:
                await self._client.tell(self._channel, key)
            except MeshError as error:
                _log.warning("invalidation_not_sent", cache=self._name, error=repr(error.__cause__))
                return
            self._untold.discard(key)

    @property
    def is_subscribed(self) -> bool:
        """Whether changes made by other replicas arrive now."""
        return self._local.life_s == self._life_s

    async def listen(self) -> None:
        """Follows the channel until cancelled; the `run` of a supervised loop.

        Raises:
            Unavailable: the subscription is lost; the supervisor starts it again.
        """
        try:
            async with aclosing(await self._client.subscribed(self._channel)) as subscription:
                with translated():
                    await self._follow(subscription)
        finally:
            self._local.life_s = min(ALONE_LIFE_S, self._life_s)

    async def _follow(self, subscription: PubSub) -> None:
        silent_since = self._clock.monotonic()
        while True:
            message = await subscription.get_message(timeout=HEARTBEAT_S)
            if self._untold:
                await self._tell()
            if message is None:
                if self._clock.monotonic() - silent_since >= 2 * HEARTBEAT_S:
                    raise Unavailable("the subscription to changes is silent")
                await subscription.ping()
                continue
            silent_since = self._clock.monotonic()
            if message["type"] in ("subscribe", "ssubscribe"):
                self._clear()  # whatever was said before this moment was not heard
                self._local.life_s = self._life_s
                _log.info("cache_subscribed", cache=self._name)
            elif message["type"] in ("message", "smessage"):
                self._forget(message["data"].decode("utf-8", "replace"))
            elif message["type"] == "sunsubscribe":
                raise Unavailable("the channel has moved to another server")

    def _forget(self, key: str) -> None:
        self._local.drop(key)
        for mark in self._loads.get(key, ()):
            mark.is_spoiled = True

    def _clear(self) -> None:
        self._local.clear()
        for marks in self._loads.values():
            for mark in marks:
                mark.is_spoiled = True
