"""What every store remembers of conversations that are gone."""

import pytest

from services.conversation.store import Store
from services.conversation.store.leftovers import Leftover
from services.mesh.errors import NotFound
from tests.support.conversation import ADA, EVE, new_conversation, new_turn


async def left(store: Store, *, older_s: float = 0.0) -> list[Leftover]:
    async with store.leftovers(older_s=older_s, limit=10) as found:
        return found


async def test_a_delete_is_remembered_once_with_the_turns_of_the_conversation(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    turn = await store.create_turn(new_turn(conversation.id))
    await store.create_turn(new_turn((await store.create_conversation(new_conversation())).id))

    await store.delete_conversation(ADA, conversation.id)

    assert await left(store, older_s=60.0) == []
    assert await left(store) == [Leftover(ADA, conversation.id, [turn.id])]
    assert await left(store) == []


async def test_it_stays_remembered_while_it_cannot_be_dropped(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())
    await store.delete_conversation(ADA, conversation.id)

    with pytest.raises(LookupError):
        async with store.leftovers(older_s=0.0, limit=10):
            raise LookupError

    assert await left(store) == [Leftover(ADA, conversation.id, [])]


async def test_a_delete_that_is_refused_leaves_nothing(store: Store) -> None:
    conversation = await store.create_conversation(new_conversation())

    with pytest.raises(NotFound):
        await store.delete_conversation(EVE, conversation.id)

    assert await left(store) == []
