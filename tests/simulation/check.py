"""The judge: what must hold of every run, whatever struck. It reads history and store, and knows no use case."""

from collections.abc import Iterator

from services.conversation.events import Snapshot, TurnFinished
from services.conversation.model import MESSAGE_STATE_OF, Message, TurnState
from services.conversation.store_memory import MemoryStore
from tests.simulation.history import Asked, History, Viewed
from tests.simulation.world import ATTEMPTS_MAX, LEASE_S, REAP_EVERY_S, REPUBLISH_AFTER_S

_HARMLESS = frozenset({"drain", "cache_wiped"})
"""Faults that may cost no attempt."""
CANCEL_S_MAX = 2.0
"""From the reply to a wish to cancel to the end, where nothing is wrong: two looks of the worker, and slack."""
HEALTHY_S = LEASE_S + 2 * REAP_EVERY_S + REPUBLISH_AFTER_S
"""How long a turn may be left alone once nothing is wrong: a lease lapses, a reaper looks, a message was lost."""


class Watch:
    """Looks, while there is peace, whether every turn is worked on."""

    def __init__(self, history: History, store: MemoryStore) -> None:
        self._history = history
        self._store = store
        self._alone: dict[str, int] = {}

    def look(self) -> None:
        """Once a second."""
        now = self._store.clock.now()
        for row in self._store.tables.turns.values():
            is_held = row.turn.state is TurnState.RUNNING and (row.lease_expire_time or now) > now
            is_alone = row.turn.state in {TurnState.QUEUED, TurnState.RUNNING} and not is_held
            self._alone[row.turn.id] = self._alone.get(row.turn.id, 0) + 1 if is_alone else 0
            if self._alone[row.turn.id] == int(HEALTHY_S) + 1:
                self._history.violation(f"alone: nobody works on {row.turn.id}, which is {row.turn.state}")


def judge(history: History, store: MemoryStore) -> list[str]:
    """Everything that is wrong with a run."""
    found = list(history.violations)
    turns = {row.turn.id for row in store.tables.turns.values()}
    known = {asked.turn.id for asked in history.asked if asked.turn is not None}
    found += [f"accepted twice: turn {turn_id} answers no question" for turn_id in sorted(turns - known)]
    prompts: dict[str, list[str]] = {}
    for asked in history.asked:
        if asked.turn is None:
            found.append(f"unanswered: {asked.question} was never accepted")
            continue
        found += _of_turn(asked, history, store, prompts.setdefault(asked.conversation_id, []))
    return found


def _of_turn(asked: Asked, history: History, store: MemoryStore, before: list[str]) -> Iterator[str]:
    assert asked.turn is not None
    row = store.tables.turns.get(asked.turn.id)
    if row is None:
        yield f"lost: {asked.question}"
        return
    turn, answer = row.turn, store.tables.messages[row.turn.assistant_message_id][1]
    if not turn.state.has_ended:
        yield f"unended: {asked.question} is {turn.state} at attempt {turn.attempt}"
        return
    if answer.state is not MESSAGE_STATE_OF[turn.state]:
        yield f"state: {asked.question} is {turn.state}, its answer {answer.state}"
    yield from _of_ending(asked, history, store)
    for view in asked.views:
        yield from _of_view(asked.question, view, answer, turn.state)
    yield from _of_agreement(asked)
    for prompt in history.prompts.get(asked.question, []):
        if list(prompt) != [text for text in before if text]:
            yield f"order: {asked.question} was asked after {prompt}"
    before += [asked.question, answer.text or ""]


def _of_ending(asked: Asked, history: History, store: MemoryStore) -> Iterator[str]:
    assert asked.turn is not None
    ended_s, turn, answer = history.ended[asked.turn.id]
    row = store.tables.turns[asked.turn.id]
    if (row.turn, store.tables.messages[turn.assistant_message_id][1]) != (turn, answer):
        yield f"ended twice: {asked.question} changed after its end"
    if turn.state is TurnState.COMPLETED and answer.text not in history.generated.get(asked.question, []):
        yield f"text: {asked.question} is complete with {answer.text!r}, which no model wrote"
    if turn.state is TurnState.CANCELLED and not asked.wants_cancel:
        yield f"cancelled: {asked.question}, by nobody"
    is_calm = history.faults.keys() <= _HARMLESS
    if asked.cancelled_s is not None:
        by_s = max(asked.cancelled_s, history.peace_s) + HEALTHY_S
        by_s = asked.cancelled_s + CANCEL_S_MAX if is_calm else by_s
        if ended_s > by_s:
            yield f"cancel: {asked.question} went on for {ended_s - asked.cancelled_s:.1f} s"
    if turn.attempt > ATTEMPTS_MAX:
        yield f"attempts: {asked.question} took {turn.attempt}"
    if is_calm:
        yield from _of_calm(asked, history)


def _of_calm(asked: Asked, history: History) -> Iterator[str]:
    """What holds where nothing went wrong."""
    assert asked.turn is not None
    _, turn, _ = history.ended[asked.turn.id]
    if turn.attempt > 1:
        yield f"calm: {asked.question} took {turn.attempt} attempts without a fault"
    if turn.state is TurnState.FAILED:
        yield f"calm: {asked.question} failed without a fault: {turn.error}"
    waited_s = (turn.start_time - turn.create_time).total_seconds() if turn.start_time else 0.0
    if not history.faults and waited_s > REPUBLISH_AFTER_S / 2:
        yield f"calm: {asked.question} waited {waited_s:.1f} s for a worker"
    snapshots = [e for view in asked.views for e in view.events if isinstance(e.payload, Snapshot)]
    if snapshots and not history.faults and all(view.events[0] not in snapshots for view in asked.views):
        yield f"calm: {asked.question} was shown a snapshot in the middle"


def _of_view(question: str, view: Viewed, answer: Message, state: TurnState) -> Iterator[str]:
    if view.last is None:
        yield f"watch: {question} was never seen to end, after event {view.draft.last_sequence}"
        return
    finished = view.last.payload
    assert isinstance(finished, TurnFinished)
    if finished.state is not state or view.last.sequence != answer.last_sequence:
        seen = f"{finished.state} at {view.last.sequence}"
        yield f"watch: {question} was seen to end {seen}, not {state} at {answer.last_sequence}"
    draft = view.draft
    if draft.text != (answer.text or ""):
        yield f"watch: {question} was seen as {draft.text!r}, stored is {answer.text!r}"
    if tuple(draft.citations) != answer.citations:
        yield f"watch: {question} was seen with {len(draft.citations)} citations, stored are {len(answer.citations)}"
    sequences = [event.sequence for event in view.events]
    for event, earlier in zip(view.events[1:], sequences, strict=False):
        is_next = event.sequence == earlier + 1
        if not is_next and not (isinstance(event.payload, Snapshot) and event.sequence > earlier):
            yield f"watch: {question} was shown {event.sequence} after {earlier}"


def _of_agreement(asked: Asked) -> Iterator[str]:
    """Two watchers never see two different events of one number."""
    shown: dict[int, object] = {}
    for view in asked.views:
        for event in view.events:
            if isinstance(event.payload, Snapshot | TurnFinished):
                continue
            if shown.setdefault(event.sequence, event) != event:
                yield f"watch: {asked.question} has two events {event.sequence}"
