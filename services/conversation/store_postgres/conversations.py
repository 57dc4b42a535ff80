"""Conversations and messages in PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Integer,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    func,
    insert,
    literal,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from services.conversation import tables
from services.conversation.model import (
    Conversation,
    ConversationSettings,
    Message,
    MessageState,
    Owner,
    Repeat,
    TurnId,
)
from services.conversation.store.conversations import NewConversation
from services.conversation.store_postgres.leftovers import remember_leftover
from services.conversation.store_postgres.rows import conversation_of, message_of, settings_values
from services.mesh.errors import EtagMismatch, IdempotencyMismatch, NotFound
from services.mesh.postgres.database import ReadOnly, ReadWrite
from services.mesh.postgres.places import Places

_conversations: Final = tables.conversations.c
_messages: Final = tables.messages.c
_turns: Final = tables.turns.c
_NO_PARENT: Final = ""


class ConversationQueries:
    """See `ConversationStore`."""

    def __init__(self, database: Places) -> None:
        self._database = database

    async def create_conversation(self, new: NewConversation) -> Conversation:
        """See `ConversationStore.create_conversation`."""

        async def work(write: ReadWrite) -> Conversation:
            earlier = await remember(write, new.owner, new.repeat, new.id)
            if earlier is not None:
                return await _conversation(write, new.owner, earlier)
            await write.execute(
                insert(tables.conversations).values(
                    organization_id=new.owner.organization_id,
                    id=new.id,
                    user_id=new.owner.user_id,
                    leaf_message_id=new.messages[-1].id if new.messages else "",
                    settings_revision=1,
                    **settings_values(new.settings),
                )
            )
            if new.messages:
                await write.execute(insert(tables.messages), _imported(new))
            return await _conversation(write, new.owner, new.id)

        return await self._database.of(new.owner.organization_id).transact(work)

    async def is_repeat(self, owner: Owner, repeat: Repeat) -> bool:
        """See `ConversationStore.is_repeat`."""
        query = select(tables.idempotency.c.resource_id).where(*_used(owner, repeat))
        async with self._database.of(owner.organization_id).read() as read:
            return (await read.execute(query)).first() is not None

    async def conversation(self, owner: Owner, conversation_id: str) -> Conversation:
        """See `ConversationStore.conversation`."""
        here = self._database.of(owner.organization_id)
        return await here.view(lambda read: _conversation(read, owner, conversation_id))

    async def list_conversations(
        self, owner: Owner, *, size: int, after: tuple[datetime, str] | None
    ) -> list[Conversation]:
        """See `ConversationStore.list_conversations`."""
        query = select(tables.conversations).where(
            _conversations.organization_id == owner.organization_id, _conversations.user_id == owner.user_id
        )
        if after is not None:
            query = query.where(tuple_(_conversations.update_time, _conversations.id) < tuple_(*map(literal, after)))
        query = query.order_by(_conversations.update_time.desc(), _conversations.id.desc()).limit(size)

        async def work(read: ReadOnly) -> list[Conversation]:
            return [conversation_of(row) for row in (await read.execute(query)).mappings()]

        return await self._database.of(owner.organization_id).view(work)

    async def update_conversation(
        self, owner: Owner, conversation_id: str, settings: ConversationSettings, *, etag: str
    ) -> Conversation:
        """See `ConversationStore.update_conversation`."""

        async def work(write: ReadWrite) -> Conversation:
            changed = await write.execute(
                update(tables.conversations)
                .where(*owned(tables.conversations, owner, conversation_id))
                .where(_conversations.settings_revision == int(etag))
                .values(
                    settings_revision=_conversations.settings_revision + 1,
                    update_time=func.now(),
                    **settings_values(settings),
                )
            )
            present = await _conversation(write, owner, conversation_id)
            if changed.rowcount == 0:
                raise EtagMismatch("the conversation changed since it was read", metadata={"etag": present.etag})
            return present

        return await self._database.of(owner.organization_id).transact(work)

    async def delete_conversation(self, owner: Owner, conversation_id: str) -> list[TurnId]:
        """See `ConversationStore.delete_conversation`."""

        async def work(write: ReadWrite) -> list[TurnId]:
            # In the order of all others: a worker that ends a turn locks the conversation before it, one that folds an
            # answer locks the turn before the message. Nobody waits in a circle.
            await write.execute(
                select(_conversations.id).where(*owned(tables.conversations, owner, conversation_id)).with_for_update()
            )
            turns = await write.execute(
                select(_turns.id)
                .where(_turns.organization_id == owner.organization_id, _turns.user_id == owner.user_id)
                .where(_turns.conversation_id == conversation_id)
                .with_for_update()
            )
            deleted = await write.execute(
                delete(tables.conversations).where(*owned(tables.conversations, owner, conversation_id))
            )
            if deleted.rowcount == 0:
                raise NotFound.of("conversation")
            turn_ids = [TurnId(turn_id) for turn_id in turns.scalars()]
            await remember_leftover(write, owner, conversation_id, turn_ids)
            return turn_ids

        return await self._database.of(owner.organization_id).transact(work)

    async def message(self, owner: Owner, message_id: str) -> Message:
        """See `ConversationStore.message`."""
        query = select(tables.messages).where(*owned(tables.messages, owner, message_id))

        async def work(read: ReadOnly) -> Message:
            row = (await read.execute(query)).mappings().one_or_none()
            if row is None:
                raise NotFound.of("message")
            return message_of(row)

        here = self._database.of(owner.organization_id)
        return await here.view(work, is_settled=lambda message: _are_final([message]))

    async def branch(
        self, owner: Owner, conversation_id: str, *, leaf_id: str, after_depth: int, size: int
    ) -> tuple[list[Message], int]:
        """See `ConversationStore.branch`."""

        async def work(read: ReadOnly) -> tuple[list[Message], int]:
            depth = await leaf_depth(read, owner, conversation_id, leaf_id)
            depths = (after_depth + 1, after_depth + size)
            return await _branch(read, owner, conversation_id, leaf_id, depths), depth

        here = self._database.of(owner.organization_id)
        return await here.view(work, is_settled=lambda found: _are_final(found[0]))

    async def branch_end(self, owner: Owner, conversation_id: str, *, leaf_id: str, size: int) -> list[Message]:
        """See `ConversationStore.branch_end`."""
        async with self._database.of(owner.organization_id).read() as read:
            depth = await leaf_depth(read, owner, conversation_id, leaf_id)
            return await _branch(read, owner, conversation_id, leaf_id, (depth - size + 1, depth))

    async def tree(self, owner: Owner, conversation_id: str, *, size: int, after_id: str) -> list[Message]:
        """See `ConversationStore.tree`."""
        node = tables.messages.alias("node")
        # Of ids alone: that is read from the index, in its order, whatever a planner expects of the conversation.
        page = (
            select(node.c.id)
            .where(node.c.organization_id == owner.organization_id, node.c.conversation_id == conversation_id)
            .where(node.c.id > after_id)
            .order_by(node.c.id)
            .limit(size)
            .subquery("page")
        )
        query = (
            select(tables.messages)
            .join(page, page.c.id == _messages.id)
            .where(_messages.organization_id == owner.organization_id, _messages.user_id == owner.user_id)
            .order_by(_messages.id)
        )

        async def work(read: ReadOnly) -> list[Message]:
            await _conversation(read, owner, conversation_id)
            return [message_of(row) for row in (await read.execute(query)).mappings()]

        return await self._database.of(owner.organization_id).view(work, is_settled=_are_final)


async def remember(write: ReadWrite, owner: Owner, key: Repeat | None, resource_id: str) -> str | None:
    """Takes a request id for `resource_id`; gives the id of what an earlier call with it created, if there was one.

    A call that races with another one of the same request id waits here until the other has committed or failed.

    Raises:
        IdempotencyMismatch: the request id was used with another body.
    """
    if key is None:
        return None
    taken = await write.execute(
        upsert(tables.idempotency)
        .values(
            organization_id=owner.organization_id,
            user_id=owner.user_id,
            method=key.method,
            request_id=key.request_id,
            body_hash=key.body_hash,
            resource_id=resource_id,
        )
        .on_conflict_do_nothing()
    )
    if taken.rowcount == 1:
        return None
    table = tables.idempotency.c
    query = select(table.body_hash, table.resource_id).where(*_used(owner, key))
    body_hash, earlier_id = (await write.execute(query)).one()
    if bytes(body_hash) != key.body_hash:
        raise IdempotencyMismatch("this request id was used before with another body")
    return str(earlier_id)


def _are_final(messages: Sequence[Message]) -> bool:
    """No worker has yet to change any of them, so that a replica shows what the primary does."""
    return all(message.state is not MessageState.IN_PROGRESS for message in messages)


def _used(owner: Owner, key: Repeat) -> Sequence[Any]:  # Any: SQL expressions
    table = tables.idempotency.c
    return (
        table.organization_id == owner.organization_id,
        table.user_id == owner.user_id,
        table.method == key.method,
        table.request_id == key.request_id,
    )


def owned(table: Table, owner: Owner, resource_id: str) -> Sequence[Any]:  # Any: SQL expressions
    """Condition for the row with this id, of this owner alone."""
    columns = table.c
    return (
        columns.organization_id == owner.organization_id,
        columns.user_id == owner.user_id,
        columns.id == resource_id,
    )


async def _conversation(read: ReadOnly, owner: Owner, conversation_id: str) -> Conversation:
    query = select(tables.conversations).where(*owned(tables.conversations, owner, conversation_id))
    row = (await read.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound.of("conversation")
    return conversation_of(row)


async def leaf_depth(read: ReadOnly, owner: Owner, conversation_id: str, leaf_id: str) -> int:
    """The depth of a message of the conversation. Raises NotFound."""
    query = select(_messages.depth).where(
        *owned(tables.messages, owner, leaf_id), _messages.conversation_id == conversation_id
    )
    depth = (await read.execute(query)).scalar_one_or_none()
    if depth is None:
        raise NotFound.of("message")
    return int(depth)


async def _branch(
    read: ReadOnly, owner: Owner, conversation_id: str, leaf_id: str, depths: tuple[int, int]
) -> list[Message]:
    """Messages of the branch with a depth in the closed range, oldest first.

    A branch has exactly one message of each depth, so the range bounds what is read, however long the branch is.
    """
    first, last = depths
    given = {
        "of_organization": owner.organization_id,
        "of_user": owner.user_id,
        "of_conversation": conversation_id,
        "of_leaf": leaf_id,
        "first": first,
        "last": last,
    }
    return [message_of(row) for row in (await read.execute(_BRANCH, given)).mappings()]


def _branch_query() -> Select[Any]:  # Any: rows of many columns
    segments = segments_of_branch(first=bindparam("first"))
    part = (
        select(tables.messages)
        .where(of_the_conversation(tables.messages), _messages.user_id == bindparam("of_user"))
        .where(_messages.segment_id == segments.c.segment_id, _messages.depth <= segments.c.depth_max)
        .where(_messages.depth >= bindparam("first"), _messages.depth <= bindparam("last"))
        .limit(bindparam("last", type_=Integer) - bindparam("first", type_=Integer) + 1)
        .lateral("part")
    )
    return select(part).select_from(segments.join(part, true())).order_by(part.c.depth)


def segments_of_branch(*, first: BindParameter[int] | None = None) -> Any:  # Any: a CTE is generic over its columns
    """The segments of the branch that ends in a message, each with the depth up to which it belongs to the branch.

    Those that end before the depth `first` are left out.

    Every step says LIMIT: one row after the other is looked up by its key then, whatever a planner that knows ordinary
    conversations expects. To read a conversation as a whole instead is quicker for those, and endless for long ones.
    """
    leaf = tables.messages.alias("leaf")
    segments = (
        select(leaf.c.segment_id, leaf.c.depth.label("depth_max"))
        .where(of_the_conversation(leaf), leaf.c.user_id == bindparam("of_user"), leaf.c.id == bindparam("of_leaf"))
        .limit(1)
        .cte("segments", recursive=True)
    )
    head, parent = tables.messages.alias("head"), tables.messages.alias("parent")
    begins = select(head.c.parent_id).where(of_the_conversation(head), head.c.id == segments.c.segment_id)
    beginning = begins.limit(1).lateral("beginning")
    ends = select(parent.c.segment_id, parent.c.depth).where(
        of_the_conversation(parent), parent.c.id == beginning.c.parent_id
    )
    end = ends.limit(1).lateral("end_before")
    before: Select[Any] = select(end.c.segment_id, end.c.depth).select_from(
        segments.join(beginning, true()).join(end, true())
    )
    return segments.union_all(before if first is None else before.where(end.c.depth >= first))


def of_the_conversation(table: Any) -> ColumnElement[bool]:  # Any: a table or an alias of it
    """Stands in every part of the query: whatever PostgreSQL makes of the joins, it reads no other conversation."""
    return and_(
        table.c.organization_id == bindparam("of_organization"), table.c.conversation_id == bindparam("of_conversation")
    )


_BRANCH: Final = _branch_query()  # built once: that costs ten times what PostgreSQL takes to run it


def _imported(new: NewConversation) -> list[dict[str, object]]:
    first = new.messages[0].id
    return [
        message_values(new.owner, new.id)
        | {
            "id": message.id,
            "parent_id": new.messages[depth - 1].id if depth else _NO_PARENT,
            "segment_id": first,
            "depth": depth,
            "role": message.role.value,
            "text": message.text,
            "state": MessageState.COMPLETE.value,
        }
        for depth, message in enumerate(new.messages)
    ]


def message_values(owner: Owner, conversation_id: str) -> dict[str, object]:
    """Columns that every new message has alike."""
    return {
        "organization_id": owner.organization_id,
        "user_id": owner.user_id,
        "conversation_id": conversation_id,
        "text": None,
        "citations": [],
        "turn_id": "",
        "model": "",
        "last_sequence": 0,
    }
