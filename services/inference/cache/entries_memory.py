"""Stored answers in this process, for tests and for a single replica without Valkey."""

from collections.abc import Sequence
from secrets import token_hex

from services.inference.cache.entries import EPOCHS_MAX, NEIGHBOURS_MAX, Found
from services.mesh.clock import Clock


class MemoryEntries:
    """Implements `entries.Entries`; what is past its time goes when it is asked for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._epochs: dict[str, dict[str, str]] = {}
        self._entries: dict[tuple[str, str], tuple[float, bytes]] = {}
        self._scopes: dict[tuple[str, str], tuple[float, list[bytes]]] = {}

    async def get(self, organization_id: str, name: str) -> Found:
        """See `Entries.get`."""
        epochs = self._epochs.setdefault(organization_id, {"": token_hex(8)})
        ends_at, entry = self._entries.get((organization_id, name), (0.0, None))
        return Found(dict(epochs), entry if ends_at > self._now() else None)

    async def put(self, organization_id: str, name: str, entry: bytes, *, keep_s: float) -> None:
        """See `Entries.put`."""
        self._entries[organization_id, name] = self._now() + keep_s, entry

    async def neighbours(self, organization_id: str, scope: str) -> Sequence[bytes]:
        """See `Entries.neighbours`."""
        ends_at, found = self._scopes.get((organization_id, scope), (0.0, []))
        return list(found) if ends_at > self._now() else []

    async def add_neighbour(self, organization_id: str, scope: str, neighbour: bytes, *, keep_s: float) -> None:
        """See `Entries.add_neighbour`."""
        found = [neighbour, *await self.neighbours(organization_id, scope)][:NEIGHBOURS_MAX]
        self._scopes[organization_id, scope] = self._now() + keep_s, found

    async def void(self, organization_id: str, name: str) -> None:
        """See `Entries.void`."""
        epochs = self._epochs.get(organization_id, {})
        if not name or len(epochs) >= EPOCHS_MAX:
            self._epochs.pop(organization_id, None)
        else:
            self._epochs.setdefault(organization_id, {"": token_hex(8)})[name] = token_hex(8)

    def _now(self) -> float:
        return self._clock.monotonic()
