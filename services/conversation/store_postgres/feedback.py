"""Feedback in PostgreSQL."""

from typing import Final

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert as upsert

from services.conversation import tables
from services.conversation.model import Feedback, Owner, Rating, Role
from services.conversation.store_postgres.conversations import owned
from services.conversation.store_postgres.rows import feedback_of
from services.mesh.errors import NotFound
from services.mesh.postgres.database import ReadOnly, ReadWrite
from services.mesh.postgres.places import Places

_messages: Final = tables.messages.c


class FeedbackQueries:
    """See `FeedbackStore`."""

    def __init__(self, database: Places) -> None:
        self._database = database

    async def set_feedback(self, owner: Owner, message_id: str, rating: Rating, comment: str) -> Feedback:
        """See `FeedbackStore.set_feedback`."""

        async def work(write: ReadWrite) -> Feedback:
            conversation_id = await _conversation_of_answer(write, owner, message_id)
            values = {"rating": rating.value, "comment": comment, "update_time": func.now()}
            statement = (
                upsert(tables.feedback)
                .values(
                    organization_id=owner.organization_id,
                    user_id=owner.user_id,
                    message_id=message_id,
                    conversation_id=conversation_id,
                    **values,
                )
                .on_conflict_do_update(index_elements=["organization_id", "user_id", "message_id"], set_=values)
                .returning(tables.feedback)
            )
            return feedback_of((await write.execute(statement)).mappings().one())

        return await self._database.of(owner.organization_id).transact(work)

    async def feedback(self, owner: Owner, message_id: str) -> Feedback:
        """See `FeedbackStore.feedback`."""
        query = select(tables.feedback).where(
            tables.feedback.c.organization_id == owner.organization_id,
            tables.feedback.c.user_id == owner.user_id,
            tables.feedback.c.message_id == message_id,
        )
        async with self._database.of(owner.organization_id).read() as read:
            await _conversation_of_answer(read, owner, message_id)
            row = (await read.execute(query)).mappings().one_or_none()
        if row is None:
            raise NotFound.of("feedback")
        return feedback_of(row)


async def _conversation_of_answer(read: ReadOnly, owner: Owner, message_id: str) -> str:
    query = select(_messages.conversation_id).where(
        *owned(tables.messages, owner, message_id), _messages.role == Role.ASSISTANT.value
    )
    conversation_id = (await read.execute(query)).scalar_one_or_none()
    if conversation_id is None:
        raise NotFound.of("message")
    return str(conversation_id)
