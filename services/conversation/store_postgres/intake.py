"""Accepts questions that nothing stands in the way of: one statement for all that arrive while the last one runs.

What decides stands in a function of the schema, see the migrations. It passes over every question that is not plain:
whose request id was used, whose conversation is away, busy or locked, whose parent is not there; one whose organization
is on the move, or on an instance that is away, is not in it, so that no other one waits for that. Of those, and of
answers to questions that are there already, the transaction of `TurnQueries.create_turn` tells what they are.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Final, Self

from services.conversation.model import OnConflict, Turn, TurnState, title_of
from services.conversation.store.turns import NewTurn
from services.conversation.store_postgres.rows import options_of
from services.mesh import positions
from services.mesh.errors import MeshError
from services.mesh.groupcommit import GroupCommit
from services.mesh.postgres.errors import Conflict, translated
from services.mesh.postgres.lane import Lane
from services.mesh.postgres.places import Places

TOGETHER_MAX: Final = 64
"""Questions in one statement: their conversations are locked until all of them are stored."""
_ACCEPT: Final = "SELECT * FROM conversation.accept_turns($1::text::jsonb)"
_NUL: Final = r"\u0000"
"""As JSON writes the character that PostgreSQL has no place for."""


class _Question:
    """A turn to accept, as the statement is told of it."""

    __slots__ = ("new", "text")

    def __init__(self, new: NewTurn) -> None:
        self.new = new
        self.text = json.dumps(_given(new))


class Intake:
    """Entered for as long as questions are asked.

    Args:
        places: where they are stored.
        has_replicas: of these, which callers may be told a position for; who wants one is accepted by itself.
    """

    def __init__(self, places: Places, *, has_replicas: bool = False) -> None:
        self._has_replicas = has_replicas
        self._lanes = places.lanes()
        self._commit = GroupCommit[_Question, Turn | MeshError | None](
            self._accept, name="conversation_intake", batch_max=TOGETHER_MAX
        )

    async def accept(self, new: NewTurn) -> Turn | None:
        """The turn, durable; None when it is not a plain one, and nothing was done.

        Raises:
            Unavailable, Overloaded, DeadlineExceeded: PostgreSQL cannot answer; it may or may not have stored the turn.
        """
        if new.text is None or new.on_conflict is OnConflict.CANCEL_RUNNING:
            return None
        if self._has_replicas and positions.are_wanted():
            return None
        question = _Question(new)
        if _NUL in question.text:
            return None
        told = await self._commit.add(question)
        if isinstance(told, MeshError):
            raise told
        return told

    async def __aenter__(self) -> Self:
        await self._commit.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._commit.__aexit__(kind, error, traceback)

    async def _accept(self, questions: Sequence[_Question]) -> list[Turn | MeshError | None]:
        return await self._lanes.ask_each(questions, lambda question: question.new.owner.organization_id, _ask)


async def _ask(lane: Lane, questions: Sequence[_Question]) -> list[Turn | None]:
    given = ",".join(question.text for question in questions)
    try:
        with translated():
            rows = await lane.fetch(_ACCEPT, f"[{given}]")
    except Conflict:  # another change was faster; each by itself repeats its own
        return [None] * len(questions)
    accepted = {row["id"]: row for row in rows}
    return [_turn_of(question.new, accepted.get(question.new.id)) for question in questions]


def _turn_of(new: NewTurn, row: Mapping[str, Any] | None) -> Turn | None:
    if row is None:
        return None
    return Turn(
        id=new.id,
        conversation_id=new.conversation_id,
        state=TurnState.QUEUED,
        user_message_id=new.user_message_id,
        assistant_message_id=new.assistant_message_id,
        attempt=0,
        last_sequence=0,
        options=options_of(row["options"]),
        create_time=row["create_time"],
    )


def _given(new: NewTurn) -> dict[str, object]:
    repeat, overrides = new.repeat, new.overrides
    return {
        "organization_id": new.owner.organization_id,
        "user_id": new.owner.user_id,
        "conversation_id": new.conversation_id,
        "id": new.id,
        "question_id": new.user_message_id,
        "answer_id": new.assistant_message_id,
        "text": new.text,
        "title": title_of(new.text or ""),
        "parent_id": new.parent_id,
        "revision_of": new.revision_of,
        "continue_of": new.continue_of,
        "model": overrides.model,
        "knowledge_base_id": overrides.knowledge_base_id,
        "retrieval_mode": overrides.retrieval_mode,
        "parameters": asdict(overrides.parameters),
        "deadline_s": new.deadline_s,
        "sequence_limit": new.sequence_limit,
        "credential_id": new.credential_id,
        "traceparent": new.traceparent,
        "method": None if repeat is None else repeat.method,
        "request_id": None if repeat is None else repeat.request_id,
        "body_hash": None if repeat is None else repeat.body_hash.hex(),
    }
