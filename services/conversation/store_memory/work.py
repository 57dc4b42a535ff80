"""Turns in memory."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

from services.conversation.model import (
    MESSAGE_STATE_OF,
    TURNS_WAITING_MAX,
    Conversation,
    ConversationSettings,
    FinishReason,
    Message,
    MessageId,
    MessageState,
    OnConflict,
    Owner,
    Role,
    Turn,
    TurnId,
    TurnState,
    title_of,
)
from services.conversation.store.turns import Answer, NewTurn
from services.conversation.store.work import Claim, Ending, Finished, Fold, Hold, Lapsed, TurnRef
from services.conversation.store_memory.conversations import MemoryConversations, StoredTurn
from services.mesh.errors import NotFound, TurnAlreadyRunning


class MemoryWork(MemoryConversations):
    """See `TurnStore` and `WorkStore`. Nothing here awaits, so every method is atomic."""

    async def create_turn(self, new: NewTurn) -> Turn:
        """See `TurnStore.create_turn`."""
        before = dict(self.tables.repeats)
        earlier = self.remember(new.owner, new.repeat, new.id)
        if earlier is not None:
            return self._owned_turn(new.owner, earlier).turn
        try:
            return self._create(new)
        except Exception:
            self.tables.repeats = before
            raise

    async def turn(self, owner: Owner, turn_id: str) -> Turn:
        """See `TurnStore.turn`."""
        return self._owned_turn(owner, turn_id).turn

    async def list_turns(self, owner: Owner, conversation_id: str, *, size: int, before_id: str) -> list[Turn]:
        """See `TurnStore.list_turns`."""
        self.owned_conversation(owner, conversation_id)
        mine = [row.turn for row in self.tables.turns.values() if row.turn.conversation_id == conversation_id]
        mine.sort(key=lambda turn: turn.id, reverse=True)
        return [turn for turn in mine if not before_id or turn.id < before_id][:size]

    async def answer(self, owner: Owner, turn_id: str) -> Answer:
        """See `TurnStore.answer`."""
        row = self._owned_turn(owner, turn_id)
        message = self.owned_message(owner, row.turn.assistant_message_id)
        return Answer(
            turn=row.turn, message=message, journal_epoch=row.journal_epoch, sequence_limit=row.sequence_limit
        )

    async def request_cancel(self, owner: Owner, turn_id: str) -> Turn:
        """See `TurnStore.request_cancel`."""
        row = self._owned_turn(owner, turn_id)
        is_active = row.turn.state is TurnState.QUEUED
        self._stop(row, unbegun=row.fence == 0)
        if is_active and row.turn.state.has_ended:
            self._move_up(row.turn.conversation_id)
        return row.turn

    async def claim(self, ref: TurnRef, *, lease_s: float, epoch: str, spend_attempt: bool) -> Claim | None:
        """See `WorkStore.claim`."""
        row = self.tables.turns.get(ref.turn_id)
        if row is None or row.owner.organization_id != ref.organization_id:
            return None
        if row.turn.state is not TurnState.QUEUED and not self._has_lapsed(row):
            return None
        if row.fence == 0:
            row.journal_epoch = epoch
        row.fence += 1
        self._change(
            row,
            state=TurnState.RUNNING,
            attempt=row.turn.attempt + int(spend_attempt),
            start_time=row.turn.start_time or self.clock.now(),
        )
        row.lease_expire_time = self.clock.now() + timedelta(seconds=lease_s)
        return Claim(
            hold=Hold(ref, row.fence),
            owner=row.owner,
            settings=self.owned_conversation(row.owner, row.turn.conversation_id).settings,
            turn=row.turn,
            question=self.owned_message(row.owner, row.turn.user_message_id),
            answer=self.owned_message(row.owner, row.turn.assistant_message_id),
            journal_epoch=row.journal_epoch,
            sequence_limit=row.sequence_limit,
            is_cancel_requested=row.is_cancel_requested,
            deadline_s=(row.deadline - self.clock.now()).total_seconds(),
            continued=self.owned_message(row.owner, row.continue_of) if row.continue_of else None,
            credential_id=row.credential_id,
            queued_s=None if row.has_waited else _since(row.turn),
            traceparent=row.traceparent,
        )

    async def fold(self, hold: Hold, fold: Fold, *, lease_s: float, sequence_limit: int, epoch: str) -> bool:
        """See `WorkStore.fold`."""
        row = self._held(hold)
        if row is None:
            return False
        row.lease_expire_time = self.clock.now() + timedelta(seconds=lease_s)
        row.sequence_limit, row.journal_epoch = sequence_limit, epoch
        self._write(row, fold)
        return True

    async def renew(self, hold: Hold, *, lease_s: float) -> bool:
        """See `WorkStore.renew`."""
        row = self._held(hold)
        if row is None:
            return False
        row.lease_expire_time = self.clock.now() + timedelta(seconds=lease_s)
        return True

    async def finish(self, hold: Hold, fold: Fold, ending: Ending) -> Finished:
        """See `WorkStore.finish`."""
        row = self._held(hold)
        if row is None:
            return Finished.LOST
        self._write(row, fold)
        message = replace(
            self.owned_message(row.owner, row.turn.assistant_message_id),
            state=MESSAGE_STATE_OF[ending.state],
            finish_reason=ending.finish_reason,
            error=ending.error,
        )
        self.tables.messages[message.id] = (row.owner, message)
        self._change(row, state=ending.state, error=ending.error, end_time=self.clock.now())
        row.lease_expire_time = None
        self._touch(row.owner, row.turn.conversation_id)
        return Finished.MOVED_UP if self._move_up(row.turn.conversation_id) else Finished.DONE

    async def release(self, hold: Hold, *, spend_attempt: bool, pause_s: float = 0.0) -> bool:
        """See `WorkStore.release`."""
        row = self._held(hold)
        if row is None:
            return False
        self._queue(row)
        row.publish_time += timedelta(seconds=pause_s)
        self._change(row, attempt=row.turn.attempt - int(not spend_attempt))
        return True

    async def unwanted(self, holds: Sequence[Hold]) -> set[TurnId]:
        """See `WorkStore.unwanted`."""
        wanted = {hold.ref.turn_id for hold in holds if (row := self._held(hold)) and not row.is_cancel_requested}
        return {hold.ref.turn_id for hold in holds} - wanted

    async def requeue_lapsed(self, *, attempts_max: int, limit: int) -> tuple[list[Lapsed], list[Lapsed]]:
        """See `WorkStore.requeue_lapsed`."""
        lapsed = [row for row in self.tables.turns.values() if self._has_lapsed(row)]
        due = [row for row in lapsed if row.turn.attempt < attempts_max][:limit]
        for row in due:
            self._queue(row)
        spent = [row for row in lapsed if row.turn.attempt >= attempts_max][:limit]
        requeued, left = ([Lapsed(row.ref(), row.turn.attempt, row.fence) for row in rows] for rows in (due, spent))
        return requeued, left

    async def stale_queued(self, *, older_s: float, limit: int) -> list[TurnRef]:
        """See `WorkStore.stale_queued`."""
        before = self.clock.now() - timedelta(seconds=older_s)
        stale = [
            row
            for row in self.tables.turns.values()
            if row.turn.state is TurnState.QUEUED and row.publish_time <= before
        ][:limit]
        for row in stale:
            row.publish_time = self.clock.now()
        return [row.ref() for row in stale]

    async def leave_paused(self, refs: Sequence[TurnRef], *, older_s: float) -> None:
        """See `WorkStore.leave_paused`."""
        for ref in refs:
            row = self.tables.turns.get(ref.turn_id)
            if row is not None and row.turn.state is TurnState.QUEUED and row.publish_time > self.clock.now():
                row.publish_time -= timedelta(seconds=older_s)

    async def overdue(self, *, limit: int) -> list[TurnRef]:
        """See `WorkStore.overdue`."""
        rows = (
            row
            for row in self.tables.turns.values()
            if row.deadline <= self.clock.now() and (row.turn.state is TurnState.QUEUED or self._has_lapsed(row))
        )
        return [row.ref() for row in rows][:limit]

    async def move_up_stranded(self, *, limit: int) -> int:
        """See `WorkStore.move_up_stranded`."""
        rows = self.tables.turns.values()
        waiting = {row.turn.conversation_id for row in rows if row.turn.state is TurnState.WAITING}
        active = {row.turn.conversation_id for row in rows if row.turn.state in (TurnState.QUEUED, TurnState.RUNNING)}
        stranded = sorted(waiting - active)[:limit]
        for conversation_id in stranded:
            self._move_up(conversation_id)
        return len(stranded)

    @asynccontextmanager
    async def outbox(self, *, limit: int) -> AsyncIterator[list[TurnRef]]:
        """See `WorkStore.outbox`."""
        taken = self.tables.outbox[:limit]
        del self.tables.outbox[:limit]
        try:
            yield list(taken)
        except BaseException:
            self.tables.outbox[:0] = taken
            raise

    async def relayed(self, refs: Sequence[TurnRef]) -> None:
        """See `WorkStore.relayed`."""
        gone = set(refs)
        self.tables.outbox[:] = [ref for ref in self.tables.outbox if ref not in gone]

    async def prune(self, *, older_s: float, limit: int) -> int:
        """See `WorkStore.prune`."""
        before = self.clock.now() - timedelta(seconds=older_s)
        old = [key for key, (_, _, created) in self.tables.repeats.items() if created <= before][:limit]
        for key in old:
            del self.tables.repeats[key]
        return len(old)

    def _create(self, new: NewTurn) -> Turn:
        conversation = self.owned_conversation(new.owner, new.conversation_id)
        self._check_messages(new, conversation)
        state = self._state_of_new(new)
        self._grow(new, conversation)
        now = self.clock.now()
        turn = Turn(
            id=new.id,
            conversation_id=conversation.id,
            state=state,
            user_message_id=new.user_message_id,
            assistant_message_id=new.assistant_message_id,
            attempt=0,
            last_sequence=0,
            options=new.overrides.over(conversation.settings),
            create_time=now,
        )
        deadline = now + timedelta(seconds=new.deadline_s)
        row = StoredTurn(
            new.owner,
            turn,
            deadline,
            publish_time=now,
            sequence_limit=new.sequence_limit,
            continue_of=new.continue_of,
            credential_id=new.credential_id,
            traceparent=new.traceparent,
            has_waited=state is TurnState.WAITING,
        )
        self.tables.turns[new.id] = row
        if state is TurnState.QUEUED:
            self.tables.outbox.append(row.ref())
        changed = replace(conversation, settings=self._titled(new, conversation), update_time=self.now())
        changed = replace(changed, leaf_message_id=new.assistant_message_id)
        self.tables.conversations[conversation.id] = (new.owner, changed)
        return turn

    def _check_messages(self, new: NewTurn, conversation: Conversation) -> None:
        parent_id = new.user_message_id if new.text is None else new.parent_id
        if parent_id and self.owned_message(new.owner, parent_id).conversation_id != conversation.id:
            raise NotFound.of("message")

    def _state_of_new(self, new: NewTurn) -> TurnState:
        """Where a new turn begins, after those that it cancels were told so."""
        others = [row for row in self.tables.turns.values() if row.turn.conversation_id == new.conversation_id]
        if new.on_conflict is OnConflict.CANCEL_RUNNING:
            for row in others:
                self._stop(row, unbegun=True)
        active = [row.turn for row in others if row.turn.state in (TurnState.QUEUED, TurnState.RUNNING)]
        if not active:
            return TurnState.QUEUED
        waiting = sum(row.turn.state is TurnState.WAITING for row in others)
        if new.on_conflict is OnConflict.REJECT or waiting >= TURNS_WAITING_MAX:
            raise TurnAlreadyRunning(
                "the conversation has a turn that has not ended", metadata={"turn_id": active[0].id}
            )
        return TurnState.WAITING

    def _stop(self, row: StoredTurn, *, unbegun: bool = False) -> None:
        """Ends a turn that waits, and with `unbegun` one that no worker has had; asks others to stop."""
        state = row.turn.state
        if state.has_ended:
            return
        row.is_cancel_requested = True
        if state is TurnState.WAITING or (unbegun and state is TurnState.QUEUED and row.fence == 0):
            answer = self.owned_message(row.owner, row.turn.assistant_message_id)
            self.tables.messages[answer.id] = (
                row.owner,
                replace(
                    answer,
                    state=MessageState.CANCELLED,
                    finish_reason=FinishReason.CANCELLED,
                    last_sequence=1,
                    update_time=self.now(),
                ),
            )
            self._change(row, state=TurnState.CANCELLED, end_time=self.clock.now(), last_sequence=1)
        elif unbegun and state is TurnState.QUEUED and row.publish_time > self.clock.now():
            self.tables.outbox.append(row.ref())

    def _move_up(self, conversation_id: str) -> bool:
        """Queues the turn that waits first: turns are kept in the order in which they came."""
        for row in self.tables.turns.values():
            if row.turn.conversation_id == conversation_id and row.turn.state is TurnState.WAITING:
                row.deadline = self.clock.now() + (row.deadline - row.turn.create_time)
                self._queue(row)
                self.tables.outbox.append(row.ref())
                return True
        return False

    def _grow(self, new: NewTurn, conversation: Conversation) -> None:
        """Adds the turn's messages to the tree."""
        if new.text is not None:
            parent_id = conversation.leaf_message_id if new.parent_id is None else new.parent_id
            self._add(new, new.user_message_id, parent_id, Role.USER, new.revision_of)
        revision_of = new.revision_of if new.text is None else ""
        self._add(new, new.assistant_message_id, new.user_message_id, Role.ASSISTANT, revision_of)

    def _titled(self, new: NewTurn, conversation: Conversation) -> ConversationSettings:
        if conversation.settings.title or new.text is None:
            return conversation.settings
        is_first = not self.owned_message(new.owner, new.user_message_id).parent_id
        return replace(conversation.settings, title=title_of(new.text)) if is_first else conversation.settings

    def _add(self, new: NewTurn, message_id: MessageId, parent_id: str, role: Role, revision_of: str) -> None:
        is_user = role is Role.USER
        now = self.now()
        message = Message(
            id=message_id,
            conversation_id=new.conversation_id,
            parent_id=parent_id,
            role=role,
            text=new.text if is_user else None,
            state=MessageState.COMPLETE if is_user else MessageState.IN_PROGRESS,
            create_time=now,
            update_time=now,
            turn_id=new.id,
            revision_of=revision_of,
        )
        self.tables.messages[message_id] = (new.owner, message)

    def _owned_turn(self, owner: Owner, turn_id: str) -> StoredTurn:
        row = self.tables.turns.get(turn_id)
        if row is None or row.owner != owner:
            raise NotFound.of("turn")
        return row

    def _held(self, hold: Hold) -> StoredTurn | None:
        row = self.tables.turns.get(hold.ref.turn_id)
        return row if row is not None and row.is_held(hold) else None

    def _has_lapsed(self, row: StoredTurn) -> bool:
        is_running = row.turn.state is TurnState.RUNNING and row.lease_expire_time is not None
        return is_running and row.lease_expire_time is not None and row.lease_expire_time <= self.clock.now()

    def _queue(self, row: StoredTurn) -> None:
        self._change(row, state=TurnState.QUEUED)
        row.lease_expire_time = None
        row.publish_time = self.clock.now()

    def _change(self, row: StoredTurn, **changes: object) -> None:
        row.turn = replace(row.turn, **changes)  # type: ignore[arg-type] # the callers above name fields of Turn

    def _write(self, row: StoredTurn, fold: Fold) -> None:
        message = replace(
            self.owned_message(row.owner, row.turn.assistant_message_id),
            text=fold.text,
            citations=fold.citations,
            retrieval=fold.retrieval,
            usage=fold.usage,
            model=fold.model,
            context=fold.context,
            last_sequence=fold.last_sequence,
            update_time=self.now(),
        )
        self.tables.messages[message.id] = (row.owner, message)
        self._change(row, last_sequence=fold.last_sequence)

    def _touch(self, owner: Owner, conversation_id: str) -> None:
        conversation = self.owned_conversation(owner, conversation_id)
        self.tables.conversations[conversation_id] = (owner, replace(conversation, update_time=self.now()))


def _since(turn: Turn) -> float:
    assert turn.start_time is not None, "a turn that is claimed has begun"
    return (turn.start_time - turn.create_time).total_seconds()
