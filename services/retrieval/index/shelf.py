"""The knowledge bases that this process has in memory: loaded at first use, kept current, dropped when room is needed.

PostgreSQL is the truth. A search asks it where the knowledge base stands and gets a snapshot that is no older; the
snapshot is a projection that can be thrown away at any time.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from services.mesh import telemetry
from services.mesh.errors import NotFound
from services.mesh.tasks import BoundedExecutor
from services.retrieval.index.snapshot import Snapshot
from services.retrieval.model import KnowledgeBaseId, OrganizationId
from services.retrieval.store import IndexStore

_KNOWLEDGE_BASES_PER_POLL: Final = 500

_log = telemetry.logger("retrieval.shelf")
_LOADED: Final = telemetry.gauge("parley_retrieval_knowledge_bases_loaded_count", "Knowledge bases in memory.")
_BYTES: Final = telemetry.gauge("parley_retrieval_index_bytes", "Memory of all loaded indexes.")
_REFRESH: Final = telemetry.histogram(
    "parley_retrieval_refresh_seconds", "Time to load a knowledge base or to apply its changes.", ["kind"]
)

_Place = tuple[OrganizationId, KnowledgeBaseId]


@dataclass(slots=True)
class _Entry:
    snapshot: Snapshot | None = None
    refreshing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Shelf:
    """Snapshots by knowledge base.

    Args:
        store: where the rows are.
        executor: where indexes are built.
        bytes_max: the knowledge bases used longest ago are dropped above this; the one in use never is.
        refresh_wait_s: how long a search waits for changes that it did not ask for.
    """

    def __init__(self, store: IndexStore, executor: BoundedExecutor, *, bytes_max: int, refresh_wait_s: float) -> None:
        self._store = store
        self._executor = executor
        self._bytes_max = bytes_max
        self._refresh_wait_s = refresh_wait_s
        self._entries: OrderedDict[_Place, _Entry] = OrderedDict()

    async def at(
        self, organization: OrganizationId, knowledge_base: KnowledgeBaseId, *, sequence: int, required: int = 0
    ) -> Snapshot:
        """A snapshot of at least `sequence` if that takes little time, and of at least `required` in any case.

        Raises:
            NotFound: there is no such knowledge base.
        """
        place = (organization, knowledge_base)
        entry = self._entries.setdefault(place, _Entry())
        self._entries.move_to_end(place)
        before = entry.snapshot
        if before is not None and before.sequence >= sequence:
            return before
        wait_s = self._refresh_wait_s if before is not None and before.sequence >= required else None
        try:
            async with asyncio.timeout(wait_s):
                return await self._refreshed(place, entry, sequence)
        except TimeoutError:
            if before is None or wait_s is None:
                raise
            return before

    async def follow(self) -> None:
        """Brings everything that is loaded up to date, once; searches then find it current."""
        places = list(self._entries)
        for first in range(0, len(places), _KNOWLEDGE_BASES_PER_POLL):
            some = places[first : first + _KNOWLEDGE_BASES_PER_POLL]
            heads = await self._store.heads(some)
            for place in some:
                await self._follow_one(place, heads[place[1]].sequence if place[1] in heads else None)

    async def _follow_one(self, place: _Place, sequence: int | None) -> None:
        entry = self._entries.get(place)
        if entry is None or entry.refreshing.locked():
            return
        if sequence is None:
            self._drop(place)
        elif entry.snapshot is not None and entry.snapshot.sequence < sequence:
            try:
                await self._refreshed(place, entry, sequence)
            except NotFound:
                self._drop(place)

    async def _refreshed(self, place: _Place, entry: _Entry, sequence: int) -> Snapshot:
        async with entry.refreshing:
            if entry.snapshot is None:
                entry.snapshot = await self._loaded(place)
            elif entry.snapshot.sequence < sequence:
                entry.snapshot = await self._followed(place, entry.snapshot)
            self._make_room()
            return entry.snapshot

    async def _loaded(self, place: _Place) -> Snapshot:
        with _REFRESH.labels("load").time():
            try:
                sequence, rows = await self._store.rows(*place)
            except NotFound:
                self._drop(place)
                raise
            snapshot = await self._executor.run(Snapshot.of, sequence, rows)
        _log.info("knowledge_base_loaded", knowledge_base=place[1], chunks=len(rows), sequence=sequence)
        return snapshot

    async def _followed(self, place: _Place, snapshot: Snapshot) -> Snapshot:
        with _REFRESH.labels("changes").time():
            changes = await self._store.changes(*place, after=snapshot.sequence)
            return await self._executor.run(snapshot.after, changes)

    def _drop(self, place: _Place) -> None:
        self._entries.pop(place, None)
        self._measure()

    def _make_room(self) -> None:
        sizes = {place: entry.snapshot.size_bytes for place, entry in self._entries.items() if entry.snapshot}
        total = sum(sizes.values())
        for place in list(sizes)[:-1]:
            if total <= self._bytes_max:
                break
            if not self._entries[place].refreshing.locked():
                total -= sizes[place]
                del self._entries[place]
        self._measure()

    def _measure(self) -> None:
        loaded = [entry.snapshot for entry in self._entries.values() if entry.snapshot is not None]
        _LOADED.set(len(loaded))
        _BYTES.set(sum(snapshot.size_bytes for snapshot in loaded))
