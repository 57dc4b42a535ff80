"""What deleted conversations left elsewhere, in PostgreSQL."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from sqlalchemy import delete, insert, select, tuple_

from services.conversation import tables
from services.conversation.model import Owner
from services.conversation.store.leftovers import Leftover
from services.conversation.store_postgres.statements import from_now
from services.mesh.postgres.database import ReadWrite
from services.mesh.postgres.places import Places

_leftovers: Final = tables.leftovers.c


class LeftoverQueries:
    """See `LeftoverStore`."""

    def __init__(self, database: Places) -> None:
        self._database = database

    @asynccontextmanager
    async def leftovers(self, *, older_s: float, limit: int) -> AsyncIterator[list[Leftover]]:
        """See `LeftoverStore.leftovers`."""
        async with AsyncExitStack() as stack:
            found = []
            for here in self._database.each():
                write = await stack.enter_async_context(here.write())
                query = (
                    select(tables.leftovers)
                    .where(_leftovers.create_time <= from_now(-older_s), here.present(_leftovers.organization_id))
                    .order_by(_leftovers.create_time)
                    .limit(limit)
                    .with_for_update(skip_locked=True)
                )
                found.append((write, (await write.execute(query)).mappings().all()))
            yield [
                Leftover(Owner(row["organization_id"], row["user_id"]), row["conversation_id"], row["turn_ids"])
                for _, rows in found
                for row in rows
            ]
            for write, rows in found:
                keys = [(row["organization_id"], row["conversation_id"]) for row in rows]
                is_found = tuple_(_leftovers.organization_id, _leftovers.conversation_id).in_(keys)
                if keys:
                    await write.execute(delete(tables.leftovers).where(is_found))


async def remember_leftover(write: ReadWrite, owner: Owner, conversation_id: str, turn_ids: Sequence[str]) -> None:
    """Notes a conversation that the transaction deletes."""
    row = {
        "organization_id": owner.organization_id,
        "user_id": owner.user_id,
        "conversation_id": conversation_id,
        "turn_ids": list(turn_ids),
    }
    await write.execute(insert(tables.leftovers), row)
