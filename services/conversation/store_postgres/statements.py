"""Statements of a worker that holds a turn, each built once: to build one costs more than PostgreSQL takes to run it.

What is given at run time is named `of_…` for keys and by its meaning otherwise. Lease and deadline are told by
PostgreSQL's clock alone, and every change asks for the fence.
"""

from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Float,
    Integer,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    or_,
    select,
    update,
)

from services.conversation import tables
from services.conversation.model import TurnState
from services.conversation.store.work import Fold, Hold
from services.conversation.store_postgres.rows import json_of

_conversations: Final = tables.conversations.c
_messages: Final = tables.messages.c
_turns: Final = tables.turns.c

Given = dict[str, Any]  # Any: parameters of a statement


def prefixed(table: Any, prefix: str, names: tuple[str, ...]) -> list[Any]:  # Any: columns of any type
    """Columns under names that do not collide with those of another table."""
    return [table.c[name].label(f"{prefix}{name}") for name in names]


def from_now(seconds: float | BindParameter[Any]) -> ColumnElement[Any]:  # Any: an instant
    """The instant so many seconds from the transaction's beginning."""
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def is_in(*states: TurnState, turns: Any = tables.turns) -> ColumnElement[bool]:  # Any: the table, or an alias of it
    """Spelled as the partial indexes are: a plan that serves for every parameter would not know that one fits."""
    spelled: list[ColumnElement[str]] = [literal_column(f"'{state.value}'") for state in states]
    column: ColumnElement[str] = turns.c.state
    return column == spelled[0] if len(spelled) == 1 else column.in_(spelled)


def has_lapsed() -> ColumnElement[bool]:
    """A worker had it and has shown no sign of life for the length of its lease."""
    return and_(is_in(TurnState.RUNNING), _turns.lease_expire_time <= func.now())


def held_by(hold: Hold) -> Given:
    """What the statements below ask of a turn before they change it."""
    return {"of_organization": hold.ref.organization_id, "of_turn": hold.ref.turn_id, "of_fence": hold.fence}


def folded(fold: Fold) -> Given:
    """Columns of the answer as of the fold."""
    return {
        "fold_text": fold.text,
        "fold_citations": [json_of(citation) for citation in fold.citations],
        "fold_retrieval": json_of(fold.retrieval),
        "fold_usage": json_of(fold.usage),
        "fold_model": fold.model,
        "fold_context": json_of(fold.context),
        "fold_sequence": fold.last_sequence,
    }


def _is_answer_of(held: Any) -> ColumnElement[bool]:  # Any: SQLAlchemy's CTE has untyped columns
    return and_(
        _messages.organization_id == held.c.organization_id,
        _messages.user_id == held.c.user_id,
        _messages.id == held.c.assistant_message_id,
    )


IS_THE_TURN: Final = and_(_turns.organization_id == bindparam("of_organization"), _turns.id == bindparam("of_turn"))
_IS_HELD: Final = and_(IS_THE_TURN, _turns.fence == bindparam("of_fence"), _turns.state == TurnState.RUNNING.value)
LEASE: Final = from_now(bindparam("lease_s", type_=Float))
_FOLDED: Final = {
    "text": bindparam("fold_text"),
    "citations": bindparam("fold_citations"),
    "retrieval": bindparam("fold_retrieval"),
    "usage": bindparam("fold_usage"),
    "model": bindparam("fold_model"),
    "context": bindparam("fold_context"),
    "last_sequence": bindparam("fold_sequence"),
    "update_time": func.now(),
}

CLAIM: Final = (
    update(tables.turns)
    .where(IS_THE_TURN, or_(_turns.state == TurnState.QUEUED.value, has_lapsed()))
    .values(
        state=TurnState.RUNNING.value,
        fence=_turns.fence + 1,
        attempt=_turns.attempt + bindparam("spent", type_=Integer),
        lease_expire_time=LEASE,
        # Only the first worker decides it: later ones have to know where the first one wrote.
        journal_epoch=case((_turns.fence == 0, bindparam("epoch")), else_=_turns.journal_epoch),
        start_time=func.coalesce(_turns.start_time, func.now()),
    )
    .returning(_turns.fence)
)
"""Takes a turn that waits, or whose worker is gone."""

RENEW: Final = update(tables.turns).where(_IS_HELD).values(lease_expire_time=LEASE)

RELEASE: Final = (
    update(tables.turns)
    .where(_IS_HELD)
    .values(
        state=TurnState.QUEUED.value,
        attempt=_turns.attempt - bindparam("given_back", type_=Integer),
        lease_expire_time=None,
        publish_time=from_now(bindparam("pause_s", type_=Float)),
    )
)

_HELD: Final = (
    update(tables.turns)
    .where(_IS_HELD)
    .values(lease_expire_time=LEASE, sequence_limit=bindparam("limit"), journal_epoch=bindparam("epoch"))
    .returning(_turns.organization_id, _turns.user_id, _turns.assistant_message_id)
    .cte("held")
)
FOLD: Final = update(tables.messages).where(_is_answer_of(_HELD)).values(**_FOLDED)
"""One statement, so that text, sequence and lease never disagree."""

TOUCH: Final = (
    update(tables.conversations)
    .where(_conversations.organization_id == bindparam("of_organization"))
    .where(_conversations.id == bindparam("of_conversation"))
    .where(exists(select(_turns.id).where(_IS_HELD, _turns.user_id == _conversations.user_id)))
    .values(update_time=func.now())
)
"""Locks the conversation of a held turn."""

END: Final = (
    update(tables.turns)
    .where(_IS_HELD)
    .values(state=bindparam("end_state"), lease_expire_time=None, error=bindparam("end_error"), end_time=func.now())
    .returning(_turns.user_id, _turns.assistant_message_id)
)

END_ANSWER: Final = (
    update(tables.messages)
    .where(_messages.organization_id == bindparam("of_organization"), _messages.user_id == bindparam("of_user"))
    .where(_messages.id == bindparam("of_answer"))
    .values(
        **_FOLDED, state=bindparam("end_state"), finish_reason=bindparam("end_reason"), error=bindparam("end_error")
    )
)
