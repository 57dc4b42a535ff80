"""Everything that a worker needs of a turn that it took, in one row."""

from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Select, case, func, literal_column, select, true

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


def claimed(turns: Any) -> Select[Any]:  # Any: the table, or what a change of it returned
    """The row of each of these turns."""
    conversation = _one(tables.conversations, turns, turns.c.conversation_id, "conversation")
    question, answer, continued = (
        _one(tables.messages, turns, message_id, name)
        for name, message_id in (
            ("question", turns.c.user_message_id),
            ("answer", turns.c.assistant_message_id),
            ("continued", turns.c.continue_of),
        )
    )
    return select(
        *prefixed(turns, "turn_", TURN_COLUMNS),
        *prefixed(question, "question_", MESSAGE_COLUMNS),
        *prefixed(answer, "answer_", MESSAGE_COLUMNS),
        *prefixed(continued, "continued_", MESSAGE_COLUMNS),
        *(conversation.c[name] for name in SETTINGS_COLUMNS),
        turns.c.user_id,
        turns.c.journal_epoch,
        turns.c.sequence_limit,
        turns.c.cancel_requested,
        turns.c.credential_id,
        turns.c.traceparent,
        func.extract("epoch", turns.c.deadline - func.now()).label("deadline_s"),
        case((turns.c.place == 0, func.extract("epoch", turns.c.start_time - turns.c.create_time))).label("queued_s"),
    ).select_from(
        turns.join(conversation, true()).join(question, true()).join(answer, true()).outerjoin(continued, true())
    )


def _one(table: Any, turns: Any, row_id: Any, name: str) -> Any:  # Any: tables have untyped columns
    """A row that a turn names, looked up by its key.

    Joined plainly, all of them have the organization in common, and where the planner knows little of the tables it
    goes through everything that the organization has. The offset keeps it from seeing that.
    """
    by_key = select(table).where(table.c.organization_id == turns.c.organization_id, table.c.id == row_id)
    if table is tables.messages:
        by_key = by_key.where(table.c.user_id == turns.c.user_id)
    return by_key.offset(literal_column("0")).lateral(name)


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
