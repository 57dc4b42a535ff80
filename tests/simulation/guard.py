"""Who stands at the database and the journal, and knows by itself what each write may change."""

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

from services.conversation.events import TurnFinished
from services.conversation.journal.port import Batch
from services.conversation.model import Message, OnConflict, Owner, Turn, TurnState
from services.conversation.store.turns import NewTurn
from services.conversation.store.work import Folding, Hold, TurnRef
from services.conversation.store_memory import MemoryStore
from tests.simulation.history import History, Made
from tests.simulation.wire import immediately

WRITES: Final = frozenset(
    {
        "create_turn",
        "request_cancel",
        "claim",
        "fold",
        "fold_all",
        "renew",
        "renew_all",
        "finish",
        "release",
        "requeue_lapsed",
        "move_up_stranded",
        "delete_conversation",
    }
)


@dataclass(frozen=True, slots=True)
class _Row:
    """A turn with everything that a write could change."""

    turn: Turn
    answer: Message
    fence: int
    others: tuple[object, ...]


class Guard:
    """See the module."""

    def __init__(self, store: MemoryStore, history: History) -> None:
        self._store = store
        self._history = history
        self._out_of_line: set[str] = set()

    async def around(self, name: str, arguments: tuple[Any, ...], effect: Coroutine[Any, Any, Any]) -> Any:
        """Does a write and judges it."""
        turn_ids = self._touched(arguments)
        before = self._rows(turn_ids)
        refused = self._refused(arguments, turn_ids)
        try:
            return immediately(effect)
        finally:
            self._note_deletion(name, arguments)
            for turn_id, row in self._rows(turn_ids).items():
                if before.get(turn_id) != row:
                    self._judge(name, arguments, before.get(turn_id), row, is_allowed=turn_id not in refused)

    async def appended(self, batches: Sequence[Batch], effect: Coroutine[Any, Any, Any]) -> Any:
        """Sees to it that an end is told only when it is stored."""
        for batch in batches:
            made = self._history.made[batch.turn_id]
            if isinstance(batch.events[-1].payload, TurnFinished) and made.end is None:
                self._history.violation(f"early: the end of {batch.turn_id} was told before it was stored")
        return immediately(effect)

    def _touched(self, arguments: tuple[Any, ...]) -> list[str]:
        """The turns that a write may change: those of one conversation, or all."""
        history = self._history
        match arguments[:2]:
            case [NewTurn() as new, *_]:
                return [*history.lines.get(new.conversation_id, ()), new.id]
            case [Hold() as hold, *_]:
                return list(history.lines[hold.ref.conversation_id])
            case [TurnRef() as ref, *_]:
                return list(history.lines[ref.conversation_id])
            case [Owner(), str() as turn_id] if turn_id in history.made:
                return list(history.lines[history.made[turn_id].conversation_id])
            case [Owner(), str() as conversation_id]:
                return list(history.lines.get(conversation_id, ()))
            case _:
                return list(history.made)

    def _refused(self, arguments: tuple[Any, ...], turn_ids: Sequence[str]) -> set[str]:
        """Turns that a write must not change, because its worker has lost them."""
        match arguments[:1]:
            case [Hold() as hold]:
                return set() if self._is_held(hold) else set(turn_ids)
            case [[Folding() | Hold(), *_] as many]:
                holds = [one.hold if isinstance(one, Folding) else one for one in many]
                return {hold.ref.turn_id for hold in holds if not self._is_held(hold)}
            case _:
                return set()

    def _is_held(self, hold: Hold) -> bool:
        row = self._store.tables.turns.get(hold.ref.turn_id)
        return row is not None and row.fence == hold.fence and not row.turn.state.has_ended

    def _rows(self, turn_ids: Sequence[str]) -> dict[str, _Row]:
        tables = self._store.tables
        return {
            each: _Row(
                row.turn,
                tables.messages[row.turn.assistant_message_id][1],
                row.fence,
                (row.lease_expire_time, row.sequence_limit, row.journal_epoch, row.deadline, row.is_cancel_requested),
            )
            for each in turn_ids
            if (row := tables.turns.get(each)) is not None
        }

    def _note_deletion(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name != "delete_conversation" or arguments[1] in self._store.tables.conversations:
            return
        if self._history.deleted.setdefault(arguments[1], self._history.clock()) == self._history.clock():
            self._history.note(f"deleted {arguments[1][-4:]}")

    def _judge(self, name: str, arguments: tuple[Any, ...], old: _Row | None, new: _Row, *, is_allowed: bool) -> None:
        history, turn = self._history, new.turn
        if old is not None and not is_allowed:
            history.violation(f"fence: {name} of a worker that had lost {turn.id} changed it")
        if old is not None and old.turn.state.has_ended:
            history.violation(f"ended twice: {name} changed {turn.id}, which was {old.turn.state}")
        history.note(
            f"{name} {turn.id[-4:]} {turn.state} attempt={turn.attempt} fence={new.fence} last={turn.last_sequence}"
        )
        if old is None:
            self._make(arguments[0])
        self._stamp(new)
        self._check_line(turn.conversation_id)

    def _make(self, new: NewTurn) -> None:
        """A turn was accepted."""
        history = self._history
        request_id = new.repeat.request_id if new.repeat else ""
        history.made[new.id] = Made(new.id, new.conversation_id, request_id, history.clock())
        line = history.lines.setdefault(new.conversation_id, [])
        line.append(new.id)
        if new.conversation_id in history.deleted:
            history.violation(f"deleted: {new.id} was accepted after its conversation had gone")
        if new.on_conflict is OnConflict.CANCEL_RUNNING:
            self._check_cancelled(line[:-1])

    def _stamp(self, row: _Row) -> None:
        made, state, now = self._history.made[row.turn.id], row.turn.state, self._history.clock()
        if state is TurnState.QUEUED:
            made.queued_s = now if made.queued_s is None else made.queued_s
            made.waiting_s = now if made.waiting_s is None else made.waiting_s
        elif made.waiting_s is not None:
            made.waited_s, made.waiting_s = max(made.waited_s, now - made.waiting_s), None
        if state.has_ended and made.end is None:
            made.ended_s, made.end = now, (row.turn, row.answer)

    def _check_line(self, conversation_id: str) -> None:
        """Of the turns that have not ended, the first one is worked on, and the others wait for it."""
        turns = self._store.tables.turns
        line = [turns[each].turn for each in self._history.lines[conversation_id] if each in turns]
        for place, turn in enumerate(turn for turn in line if not turn.state.has_ended):
            if (turn.state is TurnState.WAITING) != (place > 0) and turn.id not in self._out_of_line:
                self._out_of_line.add(turn.id)
                self._history.violation(f"line: {turn.id} is {turn.state}, {place} before it have not ended")

    def _check_cancelled(self, before: Sequence[str]) -> None:
        """Who cancels those before leaves at most one, which some worker has or had."""
        for turn_id in before:
            row = self._store.tables.turns.get(turn_id)
            if row is not None and not row.turn.state.has_ended and row.fence == 0:
                self._history.violation(f"line: {turn_id} is {row.turn.state} in spite of one that cancels it")
