"""Where data is, as stores ask for it: on one PostgreSQL instance, or on several among which shards are spread.

A store names the organization whose data it wants, or says that it goes through everything there is.

    async with places.of(organization_id).read() as read: ...
    for here in places.each():
        async with here.write() as write: ...select(...).where(here.present(table.c.organization_id))

The one instance is a `Database`, the several are `Shards`.
"""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from sqlalchemy import ColumnElement, Executable

from services.mesh.errors import MeshError
from services.mesh.postgres.database import AnyResult, ReadOnly, ReadWrite
from services.mesh.postgres.lane import Lane

T = TypeVar("T")
Item = TypeVar("Item")


class Units(Protocol):
    """Units of work on the data of one organization, or of some that are together; see `Database` for each.

    A write that finds its data on the move waits for it, and goes to where it is then.
    """

    def read(self) -> AbstractAsyncContextManager[ReadOnly]:
        """A connection for queries."""
        ...

    async def view(
        self, work: Callable[[ReadOnly], Awaitable[T]], *, is_settled: Callable[[T], bool] = lambda _: True
    ) -> T:
        """Queries that a replica may be asked; see `Database.view`."""
        ...

    # Any: columns hold anything.
    async def change(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> AnyResult:
        """One statement that is a transaction of its own."""
        ...

    def write(self) -> AbstractAsyncContextManager[ReadWrite]:
        """A transaction."""
        ...

    async def transact(self, work: Callable[[ReadWrite], Awaitable[T]]) -> T:
        """A transaction that is repeated when PostgreSQL asks for that."""
        ...


class Whole(Units, Protocol):
    """Units of work on everything that one instance holds."""

    def present(self, organization_id: ColumnElement[str]) -> ColumnElement[bool]:
        """Condition for rows of organizations whose data may be changed here; others are on the move, or elsewhere."""
        ...


class Lanes(Protocol):
    """A lane on every instance, for one kind of statement."""

    async def ask(
        self,
        items: Sequence[Item],
        organization_of: Callable[[Item], str],
        ask: Callable[[Lane, Sequence[Item]], Awaitable[T]],
    ) -> list[tuple[Sequence[int], T]]:
        """Puts each item where its organization is: the places of items that went together, and what they were told.

        Raises:
            MeshError: what `ask` raised for any of them, when all have been asked.
        """
        ...

    async def ask_each(
        self,
        items: Sequence[Item],
        organization_of: Callable[[Item], str],
        ask: Callable[[Lane, Sequence[Item]], Awaitable[Sequence[T]]],
    ) -> list[T | MeshError | None]:
        """As `ask`, for items of which none may wait for another one: what each was told, or why it could not be.

        None for an item whose organization is on the move, or on an instance that is away: nobody was asked for it.
        """
        ...


class Places(Protocol):
    """All instances of a process."""

    def of(self, organization_id: str) -> Units:
        """Where an organization's data is."""
        ...

    def parts(
        self, items: Sequence[Item], organization_of: Callable[[Item], str]
    ) -> Sequence[tuple[Units, list[Item]]]:
        """Items by where their organizations' data is: as few parts as can be."""
        ...

    def each(self) -> Sequence[Whole]:
        """Every instance; one that is away raises when it is used."""
        ...

    def alone(self) -> Sequence["Places"]:
        """These places as seen by a loop for one instance: `each` is that instance, `of` is as here."""
        ...

    def lanes(self) -> Lanes:
        """See `Lanes`."""
        ...

    async def ping(self) -> None:
        """Whether any instance answers; for readiness, which must not go for all because one is away.

        Raises:
            Unavailable: none does.
        """
        ...


async def first_of(places: Sequence[Whole], ask: Callable[[Whole], Awaitable[T | None]]) -> T | None:
    """What the first instance gives that has anything, asked in any order; None when none of them has.

    Raises:
        MeshError: one is away, and the others have nothing.
    """
    failure: MeshError | None = None
    for here in random.sample(places, len(places)):
        try:
            found = await ask(here)
        except MeshError as error:
            failure = error
            continue
        if found is not None:
            return found
    if failure is not None:
        raise failure
    return None
