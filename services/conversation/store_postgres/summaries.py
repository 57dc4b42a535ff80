"""Summaries in PostgreSQL."""

from typing import Any, Final

from sqlalchemy import RowMapping, Select, bindparam, delete, exists, literal, select, true, update
from sqlalchemy.dialects.postgresql import insert as upsert

from services.conversation import tables
from services.conversation.model import ConversationId, Owner, Usage
from services.conversation.store.summaries import NewSummary, Standing, Summary
from services.conversation.store_postgres.conversations import leaf_depth, of_the_conversation, segments_of_branch
from services.conversation.store_postgres.rows import json_of
from services.conversation.store_postgres.statements import from_now
from services.mesh.errors import NotFound
from services.mesh.postgres.database import ReadWrite
from services.mesh.postgres.places import Places

_conversations: Final = tables.conversations.c
_messages: Final = tables.messages.c
_summaries: Final = tables.summaries.c
_claims: Final = tables.summary_claims.c


class SummaryQueries:
    """See `SummaryStore`."""

    def __init__(self, database: Places) -> None:
        self._database = database

    async def standing(self, owner: Owner, conversation_id: str, *, leaf_id: str) -> Standing:
        """See `SummaryStore.standing`."""
        given = {
            "of_organization": owner.organization_id,
            "of_user": owner.user_id,
            "of_conversation": conversation_id,
            "of_leaf": leaf_id,
        }
        async with self._database.of(owner.organization_id).read() as read:
            depth = await leaf_depth(read, owner, conversation_id, leaf_id)
            row = (await read.execute(_STANDING, given)).mappings().one_or_none()
        return Standing(depth + 1, None if row is None else _summary_of(row))

    async def summary(self, owner: Owner, summary_id: str) -> Summary:
        """See `SummaryStore.summary`."""
        query = select(tables.summaries).where(
            _summaries.organization_id == owner.organization_id,
            _summaries.user_id == owner.user_id,
            _summaries.id == summary_id,
        )
        async with self._database.of(owner.organization_id).read() as read:
            row = (await read.execute(query)).mappings().one_or_none()
        if row is None:
            raise NotFound.of("summary")
        return _summary_of(row)

    async def claim_summary(self, owner: Owner, conversation_id: str, *, token: str, lease_s: float) -> bool:
        """See `SummaryStore.claim_summary`."""
        until = from_now(lease_s)

        async def work(write: ReadWrite) -> bool:
            if not await _locked(write, owner, conversation_id):
                return False
            taken = await write.execute(
                upsert(tables.summary_claims)
                .values(
                    organization_id=owner.organization_id,
                    user_id=owner.user_id,
                    conversation_id=conversation_id,
                    token=token,
                    expire_time=until,
                )
                .on_conflict_do_update(
                    index_elements=["organization_id", "conversation_id"],
                    set_={"token": token, "expire_time": until},
                    where=_claims.expire_time <= from_now(0.0),
                )
            )
            return taken.rowcount == 1

        return await self._database.of(owner.organization_id).transact(work)

    async def keep_summary(self, owner: Owner, new: NewSummary, *, token: str) -> bool:
        """See `SummaryStore.keep_summary`."""

        async def work(write: ReadWrite) -> bool:
            if not await _locked(write, owner, new.conversation_id):
                return False
            given_up = await write.execute(
                delete(tables.summary_claims).where(*_held(owner, new.conversation_id, token))
            )
            if given_up.rowcount == 0:
                return False
            kept = await write.execute(upsert(tables.summaries).values(**_columns(owner, new)).on_conflict_do_nothing())
            return kept.rowcount == 1

        return await self._database.of(owner.organization_id).transact(work)

    async def leave_summary(self, owner: Owner, conversation_id: str, *, token: str, pause_s: float) -> None:
        """See `SummaryStore.leave_summary`."""
        held = _held(owner, conversation_id, token)
        if pause_s > 0.0:
            pause = update(tables.summary_claims).where(*held).values(token="", expire_time=from_now(pause_s))
            await self._database.of(owner.organization_id).change(pause)
        else:
            await self._database.of(owner.organization_id).change(delete(tables.summary_claims).where(*held))


async def _locked(write: ReadWrite, owner: Owner, conversation_id: str) -> bool:
    """Whether there is such a conversation; until the transaction ends it is not deleted."""
    query = (
        select(literal(1))
        .where(_conversations.organization_id == owner.organization_id, _conversations.user_id == owner.user_id)
        .where(_conversations.id == conversation_id)
        .with_for_update(key_share=True, read=True)
    )
    return (await write.execute(query)).scalar_one_or_none() is not None


def _held(owner: Owner, conversation_id: str, token: str) -> tuple[Any, ...]:  # Any: SQL expressions
    return (
        _claims.organization_id == owner.organization_id,
        _claims.user_id == owner.user_id,
        _claims.conversation_id == conversation_id,
        _claims.token == token,
    )


def _columns(owner: Owner, new: NewSummary) -> dict[str, object]:
    return {
        "organization_id": owner.organization_id,
        "user_id": owner.user_id,
        "id": new.id,
        "conversation_id": new.conversation_id,
        "through_message_id": new.through_message_id,
        "messages_covered": new.messages_covered,
        "made_from": new.made_from,
        "text": new.text,
        "model": new.model,
        "wording_revision": new.wording_revision,
        "tokens_before": new.tokens_before,
        "tokens_after": new.tokens_after,
        "usage": json_of(new.usage),
    }


def _summary_of(row: RowMapping) -> Summary:
    return Summary(
        id=row["id"],
        conversation_id=ConversationId(row["conversation_id"]),
        through_message_id=row["through_message_id"],
        messages_covered=row["messages_covered"],
        made_from=row["made_from"],
        text=row["text"],
        model=row["model"],
        wording_revision=row["wording_revision"],
        tokens_before=row["tokens_before"],
        tokens_after=row["tokens_after"],
        usage=Usage(**row["usage"]),
        create_time=row["create_time"],
    )


def _standing() -> Select[Any]:  # Any: rows of many columns
    """The summary that stands for most of a branch: the message that it goes through is one of the branch.

    Tried from the longest one on, and each by itself, as branches hardly ever differ in their oldest part. OFFSET and
    LIMIT keep a planner from reading all summaries of a conversation, and all its messages, to join them.
    """
    segments = segments_of_branch()
    candidate = tables.summaries.alias("candidate")
    longest_first = (
        select(candidate.c.id, candidate.c.through_message_id, candidate.c.messages_covered)
        .where(of_the_conversation(candidate))
        .order_by(candidate.c.messages_covered.desc())
        .offset(0)
        .subquery("longest_first")
    )
    through = (
        select(_messages.segment_id, _messages.depth)
        .where(of_the_conversation(tables.messages), _messages.user_id == bindparam("of_user"))
        .where(_messages.id == longest_first.c.through_message_id)
        .limit(1)
        .lateral("through")
    )
    of_branch = exists(
        select(literal(1))
        .select_from(segments)
        .where(segments.c.segment_id == through.c.segment_id, segments.c.depth_max >= through.c.depth)
    )
    longest = (
        select(longest_first.c.id)
        .select_from(longest_first.join(through, true()))
        .where(of_branch)
        .order_by(longest_first.c.messages_covered.desc())
        .limit(1)
        .scalar_subquery()
    )
    return select(tables.summaries).where(
        _summaries.organization_id == bindparam("of_organization"),
        _summaries.user_id == bindparam("of_user"),
        _summaries.id == longest,
    )


_STANDING: Final = _standing()  # built once, as the query of the branch is
