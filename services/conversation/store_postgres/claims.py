"""Everything that a worker needs of a turn that it took, in one row."""

from dataclasses import replace
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, case, func, select

from services.conversation import tables
from services.conversation.model import Owner
from services.conversation.store.work import Claim, Hold
from services.conversation.store_postgres.rows import (
    MESSAGE_COLUMNS,
    SETTINGS_COLUMNS,
    TURN_COLUMNS,
    Row,
    message_of,
    settings_of,
    turn_of,
)
from services.conversation.store_postgres.statements import IS_THE_TURN, prefixed

_conversations: Final = tables.conversations.c
_question: Final = tables.messages.alias("question")
_answer: Final = tables.messages.alias("answer")
_continued: Final = tables.messages.alias("continued")


def claimed(turns: Any) -> Select[Any]:  # Any: the table, or what a change of it returned
    """The row of each of these turns."""

    def is_message(table: Any, message_id: Any) -> ColumnElement[bool]:  # Any: an alias has untyped columns
        return and_(
            table.c.organization_id == turns.c.organization_id,
            table.c.user_id == turns.c.user_id,
            table.c.id == message_id,
        )

    return (
        select(
            *prefixed(turns, "turn_", TURN_COLUMNS),
            *prefixed(_question, "question_", MESSAGE_COLUMNS),
            *prefixed(_answer, "answer_", MESSAGE_COLUMNS),
            *prefixed(_continued, "continued_", MESSAGE_COLUMNS),
            *(_conversations[name] for name in SETTINGS_COLUMNS),
            turns.c.user_id,
            turns.c.journal_epoch,
            turns.c.sequence_limit,
            turns.c.cancel_requested,
            turns.c.credential_id,
            turns.c.traceparent,
            func.extract("epoch", turns.c.deadline - func.now()).label("deadline_s"),
            case((turns.c.place == 0, func.extract("epoch", turns.c.start_time - turns.c.create_time))).label(
                "queued_s"
            ),
        )
        .select_from(turns)
        .join(
            tables.conversations,
            and_(
                _conversations.organization_id == turns.c.organization_id, _conversations.id == turns.c.conversation_id
            ),
        )
        .join(_question, is_message(_question, turns.c.user_message_id))
        .join(_answer, is_message(_answer, turns.c.assistant_message_id))
        .outerjoin(_continued, is_message(_continued, turns.c.continue_of))
    )


CLAIMED: Final = claimed(tables.turns).where(IS_THE_TURN)


def claim_of(row: Row, hold: Hold) -> Claim:
    """A row of `claimed`."""
    message = message_of(row, "answer_")
    settings, turn = settings_of(row), turn_of(row, message.last_sequence, "turn_")
    if "prompt" not in row["turn_options"]:  # a release that took the prompt of the conversation accepted it
        turn = replace(turn, options=replace(turn.options, prompt=settings.prompt))
    return Claim(
        hold=hold,
        owner=Owner(hold.ref.organization_id, row["user_id"]),
        settings=settings,
        turn=turn,
        question=message_of(row, "question_"),
        answer=message,
        journal_epoch=row["journal_epoch"],
        sequence_limit=row["sequence_limit"],
        is_cancel_requested=row["cancel_requested"],
        deadline_s=float(row["deadline_s"]),
        continued=None if row["continued_id"] is None else message_of(row, "continued_"),
        credential_id=row["credential_id"],
        queued_s=None if row["queued_s"] is None else float(row["queued_s"]),
        traceparent=row["traceparent"],
    )
