"""Lanes on every instance: what was gathered from many organizations goes where each of them is."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from services.mesh.errors import MeshError
from services.mesh.postgres.database import Database
from services.mesh.postgres.errors import ShardElsewhere
from services.mesh.postgres.lane import Lane
from services.mesh.postgres.shards.numbers import shard_of

T = TypeVar("T")
Item = TypeVar("Item")


class Holder(Protocol):
    """An instance, which has shards."""

    @property
    def database(self) -> Database:
        """See `Instance`."""
        ...

    def lets_change(self, numbers: frozenset[int]) -> bool:
        """See `Instance.lets_change`."""
        ...


class Patience(Protocol):
    """Of those who wait for a shard that moves."""

    async def look_around(self) -> object:
        """See `instances.Patience.look_around`."""
        ...


class Holders(Protocol):
    """Who knows where shards are."""

    async def holder(self, numbers: frozenset[int]) -> Holder:
        """See `Shards.holder`."""
        ...

    def changer(self, number: int) -> Holder | None:
        """See `Shards.changer`."""
        ...


class ShardLanes:
    """Implements `Lanes`."""

    def __init__(self, shards: Holders, instances: Sequence[Holder], patience: Callable[[], Patience]) -> None:
        self._shards = shards
        self._patience = patience
        self._lanes = {instance: instance.database.lane() for instance in instances}

    async def ask(
        self,
        items: Sequence[Item],
        organization_of: Callable[[Item], str],
        ask: Callable[[Lane, Sequence[Item]], Awaitable[T]],
    ) -> list[tuple[Sequence[int], T]]:
        """See `Lanes.ask`."""
        told: list[tuple[Sequence[int], T]] = []
        waiting: Sequence[int] = range(len(items))
        patience = self._patience()
        numbers = [frozenset({shard_of(organization_of(item))}) for item in items]
        while True:
            going, waiting = await self._sorted(waiting, numbers)
            answers = await asyncio.gather(
                *(ask(self._lanes[instance], [items[place] for place in places]) for instance, places in going.items()),
                return_exceptions=True,
            )
            failures: list[BaseException] = []
            for places, answer in zip(going.values(), answers, strict=True):
                if isinstance(answer, ShardElsewhere):
                    waiting = [*waiting, *places]
                elif isinstance(answer, BaseException):
                    failures.append(answer)
                else:
                    told.append((places, answer))
            if failures:
                raise failures[0]
            if not waiting:
                return told
            await patience.look_around()

    async def ask_each(
        self,
        items: Sequence[Item],
        organization_of: Callable[[Item], str],
        ask: Callable[[Lane, Sequence[Item]], Awaitable[Sequence[T]]],
    ) -> list[T | MeshError | None]:
        """See `Lanes.ask_each`."""
        going: defaultdict[Holder, list[int]] = defaultdict(list)
        for place, item in enumerate(items):
            instance = self._shards.changer(shard_of(organization_of(item)))
            if instance is not None:
                going[instance].append(place)
        answers = await asyncio.gather(
            *(ask(self._lanes[instance], [items[place] for place in places]) for instance, places in going.items()),
            return_exceptions=True,
        )
        told: list[T | MeshError | None] = [None] * len(items)
        for places, answer in zip(going.values(), answers, strict=True):
            for place, one in zip(places, _each(answer, len(places)), strict=True):
                told[place] = one
        return told

    async def _sorted(
        self, places: Sequence[int], numbers: Sequence[frozenset[int]]
    ) -> tuple[Mapping[Holder, list[int]], list[int]]:
        """Which items go where, and which have to wait."""
        going: defaultdict[Holder, list[int]] = defaultdict(list)
        waiting = []
        for place in places:
            instance = await self._shards.holder(numbers[place])
            if instance.lets_change(numbers[place]):
                going[instance].append(place)
            else:
                waiting.append(place)
        return going, waiting


def _each(answer: Sequence[T] | BaseException, count: int) -> Sequence[T | MeshError | None]:
    """What each item was told of those that went together; raises what is no error of ours."""
    if not isinstance(answer, BaseException):
        return answer
    if not isinstance(answer, MeshError):
        raise answer
    # A shard among them has left meanwhile, and the instance has changed nothing.
    return [None if isinstance(answer, ShardElsewhere) else answer] * count
