"""Many new conversations for a load, and what is stored of its turns: past the API, so that neither costs a minute."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx
from sqlalchemy import ARRAY, String, bindparam, func, select, true
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from services.conversation import tables
from services.mesh.ids import new_id

_TIMEOUT_S: Final = 30.0
_PAGE: Final = 1_000
_conversations: Final = tables.conversations.c


@dataclass(frozen=True, slots=True)
class Stored:
    """What PostgreSQL has of a turn and its answer."""

    state: str
    text: str


@asynccontextmanager
async def _connected(database_url: str) -> AsyncIterator[AsyncConnection]:
    engine = create_async_engine(make_url(database_url).set(drivername="postgresql+asyncpg"))
    try:
        async with engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()


async def make_conversations(url: str, key: str, database_url: str, *, model: str, count: int) -> list[str]:
    """Ids of new conversations that differ in nothing else from one that the API has made."""
    async with httpx.AsyncClient(
        base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=_TIMEOUT_S, trust_env=False
    ) as http:
        response = await http.post("/api/v1/conversations", json={"model": model, "retrieval_mode": "never"})
        made: Mapping[str, Any] = response.raise_for_status().json()  # Any: JSON of the contract
    ids = [new_id("conv") for _ in range(count)]
    new = func.unnest(bindparam("ids", type_=ARRAY(String))).table_valued("id", name="new").render_derived()
    copied = [new.c.id if column.name == "id" else column for column in _conversations]
    pattern = select(*copied).join(new, true()).where(_conversations.id == made["id"])
    insert = tables.conversations.insert().from_select([column.name for column in _conversations], pattern)
    async with _connected(database_url) as connection:
        await connection.execute(insert, {"ids": ids})
    return ids


async def stored_answers(database_url: str, turn_ids: Sequence[str]) -> dict[str, Stored]:
    """By turn."""
    turns, messages = tables.turns, tables.messages
    is_answer = (messages.c.organization_id == turns.c.organization_id) & (
        messages.c.id == turns.c.assistant_message_id
    )
    query = select(turns.c.id, turns.c.state, messages.c.text).join(messages, is_answer)
    found: dict[str, Stored] = {}
    async with _connected(database_url) as connection:
        for start in range(0, len(turn_ids), _PAGE):
            page = query.where(turns.c.id.in_(turn_ids[start : start + _PAGE]))
            for turn_id, state, text in await connection.execute(page):
                found[turn_id] = Stored(state, text or "")
    return found
