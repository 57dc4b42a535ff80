# ruff: noqa: ARG001 - what stands in for a method takes what the method takes
"""The program, broken on purpose: each of these has to be caught, or the simulation proves nothing.

A mutant replaces one method while a run lasts. Each breaks one promise that the architecture makes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Final

from services.conversation.asking.actions import Action, Actions, Edit, Growth, NewQuestion
from services.conversation.asking.turns import Ask, Turns
from services.conversation.asking.watching import Watching
from services.conversation.events import Draft, TurnEvent
from services.conversation.journal.memory import MemoryJournal
from services.conversation.journal.writer import TurnWriter
from services.conversation.model import (
    Conversation,
    MessageState,
    OnConflict,
    Owner,
    Turn,
    TurnId,
    TurnOverrides,
    TurnState,
)
from services.conversation.running.continuation import Continuation
from services.conversation.running.reaper import Reaper
from services.conversation.running.recovery import Recovered, Recovery
from services.conversation.running.relay import Relay
from services.conversation.running.run import TurnRun
from services.conversation.running.worker import Worker
from services.conversation.store.summaries import Standing
from services.conversation.store.turns import NewTurn
from services.conversation.store.work import Claim, Ending, Finished, Hold, TurnRef
from services.conversation.store_memory import MemoryStore
from services.conversation.store_memory.conversations import MemoryConversations, StoredTurn

Change = Callable[[], AbstractContextManager[object]]


def replaced(owner: type, name: str, method: Callable[..., Any]) -> Change:
    """A change that gives a class another method while it lasts."""

    @contextmanager
    def change() -> Iterator[None]:
        was = owner.__dict__.get(name)
        setattr(owner, name, method)
        try:
            yield
        finally:
            if was is None:
                delattr(owner, name)
            else:
                setattr(owner, name, was)

    return change


def _held_by_anybody(row: StoredTurn, hold: Hold) -> bool:
    return row.turn.state == "running"


def _held_for_ever(row: StoredTurn, hold: Hold) -> bool:
    return row.fence == hold.fence


async def _announced_first(recovery: Recovery, hold: Hold, draft: Draft, attempt: int, ending: Ending) -> Finished:
    await recovery._announce(hold, draft.last_sequence + 1, attempt, ending)
    return await _FINISH(recovery, hold, draft, attempt, ending)


async def _journal_ignored(recovery: Recovery, claim: Claim, epoch: str) -> Draft | None:
    return Draft.of(claim.answer)


async def _no_jump(recovery: Recovery, claim: Claim, epoch: str) -> Recovered | None:
    recovered = await _TAKE_OVER(recovery, claim, epoch)
    if recovered is not None and recovered.draft.last_sequence == claim.sequence_limit:
        recovered.draft.last_sequence = claim.answer.last_sequence
    return recovered


async def _relay_drops(relay: Relay, refs: Sequence[TurnRef]) -> None:
    """It takes them out of the outbox, and nowhere."""


async def _reaps_nothing(reaper: Reaper) -> None:
    """It sleeps."""


async def _nothing_lapsed(store: MemoryStore, **_limits: int) -> tuple[list[TurnRef], list[Any]]:
    return [], []


async def _nothing_stale(store: MemoryStore, **_limits: float) -> list[TurnRef]:
    return []


async def _none_unwanted(store: MemoryStore, holds: Sequence[Hold]) -> set[TurnId]:
    return set()


async def _never_renewed(run: TurnRun, writer: TurnWriter) -> bool:
    return True


def _remembers_nothing(store: MemoryConversations, *_request: object) -> None:
    """Each call is a new one."""


async def _gaps_shown(watching: Watching, turn_id: str, place: Any, *, is_certain: bool) -> list[TurnEvent] | None:
    events = place.feed.after(place.position) if is_certain else None
    return await watching._read(turn_id, place.position) if events is None else events


async def _one_too_far(watching: Watching, turn_id: str, position: int) -> list[TurnEvent]:
    return await _READ(watching, turn_id, position + (position > 3))


async def _release_spends(store: MemoryStore, hold: Hold, **options: Any) -> bool:
    return await _RELEASE(store, hold, **{**options, "spend_attempt": True})


def _lost_in_silence(journal: MemoryJournal) -> None:
    journal._events.clear()
    journal._fences.clear()


async def _always_claimed(store: MemoryStore, owner: Owner, conversation_id: str, **claim: Any) -> bool:
    store.tables.summary_claims.pop(conversation_id, None)
    return await _CLAIM_SUMMARY(store, owner, conversation_id, **claim)


async def _standing_anywhere(store: MemoryStore, owner: Owner, conversation_id: str, *, leaf_id: str) -> Standing:
    found = await _STANDING(store, owner, conversation_id, leaf_id=leaf_id)
    of_it = [one for _, one in store.tables.summaries.values() if one.conversation_id == conversation_id]
    fitting = [one for one in of_it if one.messages_covered <= found.length]
    return Standing(found.length, max(fitting, key=lambda one: one.messages_covered, default=None))


async def _counts_one_short(store: MemoryStore, owner: Owner, conversation_id: str, *, leaf_id: str) -> Standing:
    found = await _STANDING(store, owner, conversation_id, leaf_id=leaf_id)
    return replace(found, length=found.length - (found.summary is not None))


def _none_moves_up(store: MemoryStore, conversation_id: str) -> None:
    """They wait."""


def _last_moves_up(store: MemoryStore, conversation_id: str) -> None:
    turns = store.tables.turns
    store.tables.turns = dict(reversed(turns.items()))
    _MOVE_UP(store, conversation_id)
    store.tables.turns = turns


def _time_ran_out_in_line(store: MemoryStore, conversation_id: str) -> None:
    was = {row.turn.id: row.deadline for row in store.tables.turns.values()}
    _MOVE_UP(store, conversation_id)
    for row in store.tables.turns.values():
        row.deadline = was[row.turn.id]


def _all_at_once(store: MemoryStore, new: NewTurn) -> TurnState:
    return TurnState.QUEUED


def _cancels_nobody(store: MemoryStore, new: NewTurn) -> TurnState:
    is_polite = new.on_conflict is OnConflict.CANCEL_RUNNING
    return _STATE_OF_NEW(store, replace(new, on_conflict=OnConflict.QUEUE) if is_polite else new)


def _overwrites(store: MemoryStore, new: NewTurn, conversation: Conversation) -> None:
    _GROW(store, new, conversation)
    if new.text is None:
        owner, old = store.tables.messages[new.revision_of]
        store.tables.messages[old.id] = (owner, replace(old, text=None, state=MessageState.IN_PROGRESS))


async def _below_what_it_edits(actions: Actions, owner: Owner, conversation_id: str, action: Action) -> Growth:
    growth = await _GROWTH(actions, owner, conversation_id, action)
    return replace(growth, parent_id=action.message_id) if isinstance(action, Edit) else growth


async def _retried_at_the_end(turns: Turns, owner: Owner, turn_id: str, **options: Any) -> Turn:
    failed = await turns._store.turn(owner, turn_id)
    question = await turns._store.message(owner, failed.user_message_id)
    action = NewQuestion(question.text or "", None)
    ask = Ask(conversation_id=failed.conversation_id, action=action, overrides=TurnOverrides())
    return await turns.create(owner, replace(ask, on_conflict=options["on_conflict"]), repeat=options["repeat"])


def _stands_nowhere(continuation: Continuation, offset: int) -> None:
    continuation._end = offset


async def _begun_anew(store: MemoryStore, ref: TurnRef, **options: Any) -> Claim | None:
    claim = await _CLAIM(store, ref, **options)
    return replace(claim, continued=None) if claim else None


async def _for_ever(store: MemoryStore, ref: TurnRef, **options: Any) -> Claim | None:
    claim = await _CLAIM(store, ref, **options)
    return replace(claim, deadline_s=1e6) if claim else None


async def _deleted_in_part(store: MemoryStore, owner: Owner, conversation_id: str) -> list[TurnId]:
    kept = dict(store.tables.messages)
    turn_ids = await _DELETE(store, owner, conversation_id)
    store.tables.messages = kept
    return turn_ids


async def _published_by_nobody(worker: Worker, ref: TurnRef, **_options: float) -> None:
    """It leaves that to the reaper."""


async def _stays_in_hand(turn_run: TurnRun, *_what: object) -> bool:
    return False


_FINISH: Final = Recovery.finish
_MOVE_UP: Final = MemoryStore._move_up
_STATE_OF_NEW: Final = MemoryStore._state_of_new
_GROW: Final = MemoryStore._grow
_GROWTH: Final = Actions.growth
_CLAIM: Final = MemoryStore.claim
_DELETE: Final = MemoryStore.delete_conversation
_TAKE_OVER: Final = Recovery.take_over
_READ: Final = Watching._read
_RELEASE: Final = MemoryStore.release
_CLAIM_SUMMARY: Final = MemoryStore.claim_summary
_STANDING: Final = MemoryStore.standing

MUTANTS: Final[dict[str, Change]] = {
    "the database does not check the fence": replaced(StoredTurn, "is_held", _held_by_anybody),
    "the database lets a turn end twice": replaced(StoredTurn, "is_held", _held_for_ever),
    "the end is announced before the commit": replaced(Recovery, "finish", _announced_first),
    "a takeover ignores the journal": replaced(Recovery, "_replayed", _journal_ignored),
    "numbers go on after a loss of the journal": replaced(Recovery, "take_over", _no_jump),
    "the journal keeps its epoch when it is wiped": replaced(MemoryJournal, "lose_everything", _lost_in_silence),
    "the relay drops what it takes": replaced(Relay, "_publish", _relay_drops),
    "the reaper sleeps": replaced(Reaper, "reap", _reaps_nothing),
    "lapsed leases are not found": replaced(MemoryStore, "requeue_lapsed", _nothing_lapsed),
    "lost messages are not published again": replaced(MemoryStore, "stale_queued", _nothing_stale),
    "cancelled turns are not told": replaced(MemoryStore, "unwanted", _none_unwanted),
    "leases are not renewed": replaced(TurnRun, "_renew", _never_renewed),
    "request ids are not remembered": replaced(MemoryConversations, "remember", _remembers_nothing),
    "watchers are shown gaps": replaced(Watching, "_next", _gaps_shown),
    "a watcher comes back one event too far": replaced(Watching, "_read", _one_too_far),
    "waiters never move up": replaced(MemoryStore, "_move_up", _none_moves_up),
    "the last who came moves up first": replaced(MemoryStore, "_move_up", _last_moves_up),
    "time runs while a turn waits": replaced(MemoryStore, "_move_up", _time_ran_out_in_line),
    "two turns of a conversation at once": replaced(MemoryStore, "_state_of_new", _all_at_once),
    "who shall cancel only waits": replaced(MemoryStore, "_state_of_new", _cancels_nobody),
    "regenerate overwrites the old answer": replaced(MemoryStore, "_grow", _overwrites),
    "an edit hangs off what it edits": replaced(Actions, "growth", _below_what_it_edits),
    "a retry asks at the end of the branch": replaced(Turns, "retry", _retried_at_the_end),
    "what the model writes on takes the place of what stands": replaced(Continuation, "stands", _stands_nowhere),
    "what goes on begins anew": replaced(MemoryStore, "claim", _begun_anew),
    "a turn may take for ever": replaced(MemoryStore, "claim", _for_ever),
    "a delete leaves the messages": replaced(MemoryStore, "delete_conversation", _deleted_in_part),
    "a drained worker keeps its turns": replaced(TurnRun, "_leave", _stays_in_hand),
    "what is handed back is not published": replaced(Worker, "_publish", _published_by_nobody),
    "a summary is made by several at once": replaced(MemoryStore, "claim_summary", _always_claimed),
    "a summary of another branch is shown": replaced(MemoryStore, "standing", _standing_anywhere),
    "a message is in no summary and not shown": replaced(MemoryStore, "standing", _counts_one_short),
    "handing back spends an attempt": replaced(MemoryStore, "release", _release_spends),
}
