"""Turns in PostgreSQL, as their owners see them.

Lock order everywhere: conversation, then turns, then messages.
"""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Float,
    RowMapping,
    Select,
    and_,
    bindparam,
    func,
    insert,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from services.conversation import tables
from services.conversation.model import (
    ConversationSettings,
    MessageState,
    OnConflict,
    Owner,
    Role,
    Turn,
    TurnState,
    title_of,
)
from services.conversation.store.turns import Answer, NewTurn
from services.conversation.store_postgres.conversations import message_values, remember
from services.conversation.store_postgres.intake import Intake
from services.conversation.store_postgres.places import (
    IS_UNBEGUN,
    end_unbegun,
    lock_conversation,
    move_up_if_free,
    next_place,
    publish_paused,
)
from services.conversation.store_postgres.rows import (
    MESSAGE_COLUMNS,
    TURN_COLUMNS,
    json_of,
    message_of,
    settings_of,
    turn_of,
)
from services.conversation.store_postgres.statements import from_now, prefixed
from services.mesh.errors import NotFound, TurnAlreadyRunning
from services.mesh.postgres.database import Conflict, ReadOnly, ReadWrite
from services.mesh.postgres.places import Places

_conversations: Final = tables.conversations.c
_messages: Final = tables.messages.c
_turns: Final = tables.turns.c


class TurnQueries:
    """See `TurnStore`."""

    _intake: Intake | None

    def __init__(self, database: Places) -> None:
        self._database = database

    async def create_turn(self, new: NewTurn) -> Turn:
        """See `TurnStore.create_turn`."""
        accepted = None if self._intake is None else await self._intake.accept(new)
        return accepted or await self._decided(new)

    async def _decided(self, new: NewTurn) -> Turn:
        """What becomes of any turn."""

        async def work(write: ReadWrite) -> Turn:
            earlier = await remember(write, new.owner, new.repeat, new.id)
            if earlier is not None:
                return await _turn(write, new.owner, earlier)
            conversation = await _locked_conversation(write, new)
            turn = await _insert_turn(write, new, settings_of(conversation))
            await _append_messages(write, new, conversation)
            if turn.state is TurnState.QUEUED:
                outbox = {"organization_id": new.owner.organization_id, "conversation_id": new.conversation_id}
                await write.execute(_PUBLISH, outbox | {"turn_id": new.id})
            return turn

        return await self._database.of(new.owner.organization_id).transact(work)

    async def turn(self, owner: Owner, turn_id: str) -> Turn:
        """See `TurnStore.turn`."""
        async with self._database.of(owner.organization_id).read() as read:
            return await _turn(read, owner, turn_id)

    async def list_turns(self, owner: Owner, conversation_id: str, *, size: int, before_id: str) -> list[Turn]:
        """See `TurnStore.list_turns`."""
        page = select(_turns.id).where(
            _turns.organization_id == owner.organization_id, _turns.conversation_id == conversation_id
        )
        if before_id:
            page = page.where(_turns.id < before_id)
        # Of ids alone: that is read from the index, in its order, whatever a planner expects of the conversation.
        ids = page.order_by(_turns.id.desc()).limit(size).subquery("page")
        query = _turns_of(owner).join(ids, ids.c.id == _turns.id).order_by(_turns.id.desc())
        known = select(literal(1)).where(
            _conversations.organization_id == owner.organization_id,
            _conversations.user_id == owner.user_id,
            _conversations.id == conversation_id,
        )

        async def work(read: ReadOnly) -> list[Turn]:
            if (await read.execute(known)).scalar_one_or_none() is None:
                raise NotFound.of("conversation")
            return [turn_of(row, row["last_sequence"]) for row in (await read.execute(query)).mappings()]

        here = self._database.of(owner.organization_id)
        return await here.view(work, is_settled=lambda turns: all(turn.state.has_ended for turn in turns))

    async def answer(self, owner: Owner, turn_id: str) -> Answer:
        """See `TurnStore.answer`."""
        given = {"of_organization_id": owner.organization_id, "of_user_id": owner.user_id, "of_turn_id": turn_id}
        async with self._database.of(owner.organization_id).read() as read:
            row = (await read.execute(_ANSWER, given)).mappings().one_or_none()
        if row is None:
            raise NotFound.of("turn")
        message = message_of(row, "answer_")
        return Answer(
            turn=turn_of(row, message.last_sequence, "turn_"),
            message=message,
            journal_epoch=row["journal_epoch"],
            sequence_limit=row["sequence_limit"],
        )

    async def request_cancel(self, owner: Owner, turn_id: str) -> Turn:
        """See `TurnStore.request_cancel`."""

        async def work(write: ReadWrite) -> Turn:
            turn = await _turn(write, owner, turn_id)
            await lock_conversation(write, owner.organization_id, turn.conversation_id)
            if await end_unbegun(write, owner, _turns.id == turn_id, IS_UNBEGUN):
                await move_up_if_free(write, owner.organization_id, turn.conversation_id)
            await write.execute(
                update(tables.turns)
                .where(_turns.organization_id == owner.organization_id, _turns.user_id == owner.user_id)
                .where(_turns.id == turn_id, is_active())
                .values(cancel_requested=True)
            )
            return await _turn(write, owner, turn_id)

        return await self._database.of(owner.organization_id).transact(work)


def is_active() -> ColumnElement[bool]:
    """Spelled as the partial index `turns_active` is, so that PostgreSQL sees that it fits."""
    return text(tables.ACTIVE)  # type: ignore[return-value]  # a text clause stands where any condition may


def _is_answer() -> ColumnElement[bool]:
    return and_(
        _messages.organization_id == _turns.organization_id,
        _messages.user_id == _turns.user_id,
        _messages.id == _turns.assistant_message_id,
    )


def _turns_of(owner: Owner) -> Select[Any]:  # Any: rows of many columns
    return (
        select(*(_turns[name] for name in TURN_COLUMNS), _messages.last_sequence)
        .join(tables.messages, _is_answer())
        .where(_turns.organization_id == owner.organization_id, _turns.user_id == owner.user_id)
    )


async def _turn(read: ReadOnly, owner: Owner, turn_id: str) -> Turn:
    row = (await read.execute(_turns_of(owner).where(_turns.id == turn_id))).mappings().one_or_none()
    if row is None:
        raise NotFound.of("turn")
    return turn_of(row, row["last_sequence"])


async def _locked_conversation(write: ReadWrite, new: NewTurn) -> RowMapping:
    row = (await write.execute(_LOCK, _of(new))).mappings().one_or_none()
    if row is None:
        raise NotFound.of("conversation")
    return row


async def _insert_turn(write: ReadWrite, new: NewTurn, settings: ConversationSettings) -> Turn:
    """Takes the conversation's one active place, or one in the line behind it."""
    if new.on_conflict is OnConflict.CANCEL_RUNNING:
        await end_unbegun(write, new.owner, _turns.conversation_id == new.conversation_id, IS_UNBEGUN)
        await write.execute(
            update(tables.turns)
            .where(_turns.organization_id == new.owner.organization_id, _turns.user_id == new.owner.user_id)
            .where(_turns.conversation_id == new.conversation_id, is_active())
            .values(cancel_requested=True)
        )
        await publish_paused(write, new.owner, new.conversation_id)
    turn = await _insert_if_free(write, new, settings, TurnState.QUEUED)
    if turn is not None:
        return turn
    query = (
        select(_turns.id)
        .where(_turns.organization_id == new.owner.organization_id, _turns.user_id == new.owner.user_id)
        .where(_turns.conversation_id == new.conversation_id, is_active())
    )
    running = (await write.execute(query)).scalar_one_or_none()
    if running is None:  # a server of the release before ended it, without the lock: the transaction is repeated
        raise Conflict("another change was faster; try again")
    if new.on_conflict is OnConflict.REJECT:
        raise TurnAlreadyRunning("the conversation has a turn that has not ended", metadata={"turn_id": running})
    place = await next_place(write, new.owner, new.conversation_id, running)
    turn = await _insert_if_free(write, new, settings, TurnState.WAITING, place=place)
    if turn is None:
        raise Conflict("another change was faster; try again")
    return turn


async def _insert_if_free(
    write: ReadWrite, new: NewTurn, settings: ConversationSettings, state: TurnState, *, place: int = 0
) -> Turn | None:
    """None when the partial unique index has another active turn."""
    given = {
        **_columns(new),
        "id": new.id,
        "user_message_id": new.user_message_id,
        "assistant_message_id": new.assistant_message_id,
        "state": state.value,
        "place": place,
        "options": json_of(new.overrides.over(settings)),
        "attempt": 0,
        "fence": 0,
        "deadline_s": new.deadline_s,
        "cancel_requested": False,
        "journal_epoch": "",
        "sequence_limit": new.sequence_limit,
        "continue_of": new.continue_of,
        "credential_id": new.credential_id,
        "traceparent": new.traceparent,
    }
    taken = await write.execute(_TAKE_PLACE, given)
    row = taken.mappings().one_or_none()
    return None if row is None else turn_of(row, last_sequence=0)


async def _append_messages(write: ReadWrite, new: NewTurn, conversation: RowMapping) -> None:
    title = conversation["title"]
    if new.text is None:
        messages = [_answer_row(new, await _place_after(write, new, new.user_message_id, new.assistant_message_id))]
    else:
        parent_id = conversation["leaf_message_id"] if new.parent_id is None else new.parent_id
        messages = _pair(new, parent_id, await _place_after(write, new, parent_id, new.user_message_id))
        title = title or ("" if parent_id else title_of(new.text))
    await write.execute(insert(tables.messages), messages)
    await write.execute(_GROW, {**_of(new), "leaf_message_id": new.assistant_message_id, "title": title})


_Values = Mapping[str, Any]  # Any: column values


def _pair(new: NewTurn, parent_id: str, place: _Values) -> list[_Values]:
    """The rows of a question and its answer."""
    question = _row(new) | {
        "id": new.user_message_id,
        "parent_id": parent_id,
        "role": Role.USER.value,
        "text": new.text,
        "state": MessageState.COMPLETE.value,
        "revision_of": new.revision_of,
        **place,
    }
    answer = _answer_row(new, {"segment_id": place["segment_id"], "depth": place["depth"] + 1})
    return [question, {**answer, "revision_of": ""}]


def _answer_row(new: NewTurn, place: _Values) -> _Values:
    return _row(new) | {
        "id": new.assistant_message_id,
        "parent_id": new.user_message_id,
        "role": Role.ASSISTANT.value,
        "text": None,
        "state": MessageState.IN_PROGRESS.value,
        "revision_of": new.revision_of,
        **place,
    }


def _row(new: NewTurn) -> dict[str, object]:
    return message_values(new.owner, new.conversation_id) | {"turn_id": new.id}


async def _place_after(write: ReadWrite, new: NewTurn, parent_id: str, message_id: str) -> _Values:
    """Segment and depth of a message under `parent_id`: the parent's segment, or a new one where that goes on."""
    if not parent_id:
        return {"segment_id": message_id, "depth": 0}
    row = (await write.execute(_PARENT, {**_of(new), "of_parent_id": parent_id})).one_or_none()
    if row is None:
        raise NotFound.of("message")
    segment_id, depth, follower_id = row
    return {"segment_id": segment_id if follower_id is None else message_id, "depth": depth + 1}


def _columns(new: NewTurn) -> _Values:
    return {
        "organization_id": new.owner.organization_id,
        "user_id": new.owner.user_id,
        "conversation_id": new.conversation_id,
    }


def _of(new: NewTurn) -> _Values:
    return {f"of_{name}": value for name, value in _columns(new).items()}


# Built once: to build a statement costs more than PostgreSQL takes to run it.
_IS_THE_CONVERSATION: Final = and_(
    _conversations.organization_id == bindparam("of_organization_id"),
    _conversations.user_id == bindparam("of_user_id"),
    _conversations.id == bindparam("of_conversation_id"),
)
_LOCK: Final = select(tables.conversations).where(_IS_THE_CONVERSATION).with_for_update(key_share=True)
_GROW: Final = update(tables.conversations).where(_IS_THE_CONVERSATION).values(update_time=func.now())
_TAKE_PLACE: Final = (
    upsert(tables.turns)
    .values(deadline=from_now(bindparam("deadline_s", type_=Float)))
    .on_conflict_do_nothing(index_elements=["organization_id", "conversation_id"], index_where=text(tables.ACTIVE))
    .returning(*(_turns[name] for name in TURN_COLUMNS))
)
_PUBLISH: Final = insert(tables.outbox)
_follower: Final = tables.messages.alias("follower")
_PARENT: Final = (
    select(_messages.segment_id, _messages.depth, _follower.c.id.label("follower_id"))
    .outerjoin(
        _follower,
        and_(
            _follower.c.organization_id == _messages.organization_id,
            _follower.c.conversation_id == _messages.conversation_id,
            _follower.c.segment_id == _messages.segment_id,
            _follower.c.depth == _messages.depth + 1,
        ),
    )
    .where(_messages.organization_id == bindparam("of_organization_id"), _messages.user_id == bindparam("of_user_id"))
    .where(_messages.conversation_id == bindparam("of_conversation_id"), _messages.id == bindparam("of_parent_id"))
)
_ANSWER: Final = (
    select(
        *prefixed(tables.turns, "turn_", TURN_COLUMNS),
        *prefixed(tables.messages, "answer_", MESSAGE_COLUMNS),
        _turns.journal_epoch,
        _turns.sequence_limit,
    )
    .join(tables.messages, _is_answer())
    .where(_turns.organization_id == bindparam("of_organization_id"), _turns.user_id == bindparam("of_user_id"))
    .where(_turns.id == bindparam("of_turn_id"))
)
