"""Fate: strikes at random moments for a while, then makes peace and repairs everything."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from tests.simulation.wire import Peer
from tests.simulation.world import LEASE_S, Slot, World

STRIKES_EVERY_S: Final = 1.2
FUSE_MAX: Final = 300
"""Steps until a process that was chosen dies: enough to reach every await of a turn."""
BACK_AFTER_S_MAX: Final = 8.0

KINDS: Final = (
    "kill_worker",
    "kill_api",
    "pause",
    "drain",
    "queue_chaos",
    "queue_wiped",
    "rebalance",
    "journal_wiped",
    "journal_torn",
    "away",
    "cut",
    "wire",
    "cache_wiped",
    "model",
)


class Nemesis:
    """Strikes with some kinds of faults; which ones is part of the seed, so that each is also met without the others.

    Args:
        world: to be hurt.
        kinds: of faults.
    """

    def __init__(self, world: World, kinds: tuple[str, ...]) -> None:
        self._world = world
        self._chance = random.Random(world.chance.random())
        self._kinds = kinds
        self._is_peace = False
        self._strikes: dict[str, Callable[[], Awaitable[None]]] = {
            "kill_worker": lambda: self._kill("worker"),
            "kill_api": lambda: self._kill("api"),
            "pause": self._pause,
            "drain": self._drain,
            "queue_chaos": self._queue_chaos,
            "queue_wiped": self._queue_wiped,
            "rebalance": self._rebalance,
            "journal_wiped": self._journal_wiped,
            "journal_torn": self._journal_torn,
            "away": self._away,
            "cut": self._cut,
            "wire": self._bad_wire,
            "cache_wiped": self._cache_wiped,
            "model": self._model,
        }

    async def rage(self, for_s: float) -> None:
        """Strikes for so many seconds, then makes peace."""
        until = self._world.loop.time() + for_s
        async with asyncio.TaskGroup() as group:
            while self._kinds and self._world.loop.time() < until:
                await asyncio.sleep(self._chance.expovariate(1.0 / STRIKES_EVERY_S))
                group.create_task(self._strike(self._chance.choice(self._kinds)))
        self._make_peace()

    async def _strike(self, kind: str) -> None:
        await self._strikes[kind]()

    def _make_peace(self) -> None:
        world = self._world
        self._is_peace = True
        world.weather.clear()
        world.mood.clear()
        queue = world.servers.queue
        queue.lost = queue.late = queue.twice = 0.0
        for slot in world.slots:
            if slot.process is not None:
                slot.process.fuse = None
                world.loop.resume(slot.process)
            if not slot.is_up:
                world.start(slot)
        world.history.peace_s = world.loop.time()
        world.history.note("PEACE")

    def _up(self, kind: str = "") -> Slot | None:
        slots = [slot for slot in self._world.slots if slot.is_up and slot.name.startswith(kind)]
        return self._chance.choice(slots) if slots else None

    async def _back(self, slot: Slot) -> None:
        await asyncio.sleep(self._chance.uniform(0.0, BACK_AFTER_S_MAX))
        if not slot.is_up:
            self._world.start(slot)

    async def _kill(self, kind: str) -> None:
        slot = self._up(kind)
        if slot is None or slot.process is None:
            return
        process = slot.process
        self._world.history.fault(f"kill_{kind}", process.name)
        process.light(self._chance.randint(1, FUSE_MAX), process.kill)
        await asyncio.sleep(3.0)
        process.kill()
        await self._back(slot)

    async def _pause(self) -> None:
        slot = self._up(self._chance.choice(("worker", "worker", "api")))
        if slot is None or slot.process is None:
            return
        process, pause_s = slot.process, self._chance.uniform(0.2, 3 * LEASE_S)
        self._world.history.fault("pause", f"{process.name} {pause_s:.1f} s")
        process.light(self._chance.randint(1, FUSE_MAX), lambda: self._world.loop.pause(process))
        await asyncio.sleep(pause_s)
        process.fuse = None
        self._world.loop.resume(process)

    async def _drain(self) -> None:
        slot = self._up()
        if slot is None or slot.process is None or slot.process.is_paused:
            return
        self._world.history.fault("drain", slot.process.name)
        slot.stop.set()
        process = slot.process
        gone = asyncio.Event()
        process.when_killed(gone.set)
        await gone.wait()
        self._world.start(slot)

    async def _queue_chaos(self) -> None:
        queue, chance = self._world.servers.queue, self._chance
        self._world.history.fault("queue_chaos")
        queue.lost, queue.late, queue.twice = (chance.choice((0.0, 0.2, 0.6)) for _ in range(3))
        await asyncio.sleep(chance.uniform(1.0, 15.0))
        queue.lost = queue.late = queue.twice = 0.0

    async def _queue_wiped(self) -> None:
        self._world.history.fault("queue_wiped")
        self._world.servers.queue.lose_everything()

    async def _rebalance(self) -> None:
        self._world.history.fault("rebalance")
        self._world.servers.queue.rebalance()

    async def _journal_wiped(self) -> None:
        self._world.history.fault("journal_wiped")
        self._world.servers.journal.lose_everything()

    async def _journal_torn(self) -> None:
        self._world.history.fault("journal_torn")
        self._world.servers.journal.tear(self._chance)

    async def _away(self) -> None:
        peer = self._chance.choice((Peer.STORE, Peer.QUEUE, Peer.JOURNAL, Peer.CACHE))
        self._world.history.fault("away", peer)
        away = self._world.weather.away
        away.add(peer)
        await asyncio.sleep(self._chance.uniform(0.1, 1.5 * LEASE_S))
        away.discard(peer)

    async def _cut(self) -> None:
        slot = self._up()
        if slot is None or slot.process is None:
            return
        way = (slot.process.name, self._chance.choice((Peer.STORE, Peer.QUEUE, Peer.JOURNAL)))
        self._world.history.fault("cut", " - ".join(way))
        cut = self._world.weather.cut
        cut.add(way)
        await asyncio.sleep(self._chance.uniform(0.5, 2 * LEASE_S))
        cut.discard(way)

    async def _bad_wire(self) -> None:
        weather, chance = self._world.weather, self._chance
        self._world.history.fault("wire")
        weather.lost_request, weather.lost_reply, weather.spike = (chance.choice((0.0, 0.05, 0.2)) for _ in range(3))
        await asyncio.sleep(chance.uniform(1.0, 10.0))
        weather.lost_request = weather.lost_reply = weather.spike = 0.0

    async def _cache_wiped(self) -> None:
        self._world.history.fault("cache_wiped")
        self._world.servers.cache.lose_everything()

    async def _model(self) -> None:
        mood, chance = self._world.mood, self._chance
        self._world.history.fault("model")
        mood.breaks, mood.stalls = chance.choice((0.0, 0.01, 0.1)), chance.choice((0.0, 0.05))
        mood.differs = chance.choice((0.0, 0.3, 1.0))
        await asyncio.sleep(chance.uniform(2.0, 15.0))
        mood.clear()
