"""Which limits bind whom, from memory: an organization without budgets costs a look-up and nothing else."""

from collections.abc import Mapping
from typing import Final, Protocol

from services.inference.money.model import Limits
from services.inference.store import BudgetStore
from services.mesh.cache import InvalidatingCache, LocalCache
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import MeshError
from services.mesh.valkey import Client

ORGANIZATIONS_MAX: Final = 10_000
"""Whose limits are kept; most have none, and a thousand limits are ~200 KB."""
REMEMBERED_S: Final = 3_600.0
"""How long limits that were read once serve while PostgreSQL is away."""


class KnownLimits(Protocol):
    """Where limits are looked up before each attempt."""

    async def of(self, organization_id: str) -> Mapping[str, Limits]:
        """Limits of an organization by subject id.

        Raises:
            Unavailable: they are not known, and PostgreSQL is away.
        """
        ...

    async def changed(self, organization_id: str) -> None:
        """Tells every replica; never raises."""
        ...


class LimitBook:
    """Implements `KnownLimits`. `listen` must run as a background loop."""

    def __init__(self, store: BudgetStore, client: Client, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store = store
        self._cache: InvalidatingCache[Mapping[str, Limits]] = InvalidatingCache(
            "inference_limits", client, entries_max=ORGANIZATIONS_MAX, clock=clock
        )
        self._remembered: LocalCache[Mapping[str, Limits]] = LocalCache(
            entries_max=ORGANIZATIONS_MAX, life_s=REMEMBERED_S, clock=clock
        )

    async def of(self, organization_id: str) -> Mapping[str, Limits]:
        """See `KnownLimits.of`."""
        limits = await self._cache.get_or_load(organization_id, lambda: self._load(organization_id))
        return limits or {}

    async def changed(self, organization_id: str) -> None:
        """See `KnownLimits.changed`."""
        self._remembered.drop(organization_id)
        await self._cache.invalidate(organization_id)

    @property
    def is_subscribed(self) -> bool:
        """Whether changes made by other replicas arrive now."""
        return self._cache.is_subscribed

    async def listen(self) -> None:
        """Follows what other replicas change."""
        await self._cache.listen()

    async def _load(self, organization_id: str) -> Mapping[str, Limits]:
        try:
            limits = await self._store.limits(organization_id)
        except MeshError:
            remembered = self._remembered.get(organization_id)
            if remembered is None:
                raise
            return remembered
        self._remembered.put(organization_id, limits)
        return limits
