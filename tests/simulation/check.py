"""The judge: what must hold of every run, whatever struck. It reads history and store, and knows no use case."""

from collections.abc import Iterator
from typing import Final

from services.conversation.events import Snapshot, TurnFinished
from services.conversation.model import MESSAGE_STATE_OF, Message, OnConflict, Turn, TurnState
from services.conversation.store_memory import MemoryStore
from services.mesh.errors import DeadlineExceeded
from tests.simulation.history import Asked, History, Kind, Made, Viewed
from tests.simulation.summaries import judge_prompt, judge_summaries
from tests.simulation.tree import branches, judge_tree
from tests.simulation.world import ATTEMPTS_MAX, LEASE_S, REAP_EVERY_S, REPUBLISH_AFTER_S, TURN_S_MAX

_HARMLESS: Final = frozenset({"drain", "cache_wiped"})
"""Faults that may cost no attempt."""
STOP_S_MAX: Final = 2.0
"""From the reply to a wish to cancel to the end, where nothing is wrong: two looks of the worker, and slack."""
LATE_S_MAX: Final = 2 * REAP_EVERY_S + STOP_S_MAX
"""From the end of a turn's time to its own, where nothing is wrong: a turn without a worker is the reaper's."""
HEALTHY_S: Final = LEASE_S + 2 * REAP_EVERY_S + REPUBLISH_AFTER_S
"""How long a turn may be left alone once nothing is wrong: a lease lapses, a reaper looks, a message was lost."""
EARLY_S_MAX: Final = 0.01


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
    found = [*history.violations, *_of_calls(history), *_of_deletions(history, store)]
    for made in history.made.values():
        if made.request_id in history.asked and made.conversation_id not in history.deleted:
            found += _of_turn(history.asked[made.request_id], made, history, store)
    return [*found, *judge_tree(history, store), *_of_prompts(history, store), *judge_summaries(history, store)]


def _of_calls(history: History) -> Iterator[str]:
    """What became of every call, and whence came every turn."""
    made_of: dict[str, str] = {}
    for made in history.made.values():
        if made.request_id not in history.asked:
            yield f"accepted: {made.turn_id}, which nobody asked for"
        if made_of.setdefault(made.request_id, made.turn_id) != made.turn_id:
            yield f"accepted twice: {made.request_id} is {made_of[made.request_id]} and {made.turn_id}"
    for asked in history.asked.values():
        if asked.refused_s is not None:
            yield from _of_refusal(asked, history)
        elif asked.turn is None and asked.talk.id not in history.deleted:
            yield f"unanswered: {asked.request_id} was never accepted"
        elif asked.turn is not None and made_of.get(asked.request_id) != asked.turn.id:
            yield f"accepted: {asked.request_id} was given {asked.turn.id}"


def _of_refusal(asked: Asked, history: History) -> Iterator[str]:
    assert asked.refused_s is not None
    began_s, refused_s = asked.refused_s
    line = [history.made[turn_id] for turn_id in history.lines.get(asked.talk.id, ())]
    is_busy = any(made.made_s <= refused_s and (made.ended_s or refused_s) >= began_s for made in line)
    if asked.on_conflict is not OnConflict.REJECT or not is_busy:
        yield f"refused: {asked.request_id} ({asked.on_conflict}) for no turn's sake"


def _of_deletions(history: History, store: MemoryStore) -> Iterator[str]:
    """Nothing of a deleted conversation is left, shown or answered."""
    tables, deleted = store.tables, history.deleted
    left = [
        *(row.turn.id for row in tables.turns.values() if row.turn.conversation_id in deleted),
        *(message.id for _, message in tables.messages.values() if message.conversation_id in deleted),
        *(ref.turn_id for ref in tables.outbox if ref.conversation_id in deleted),
        *(each for each in tables.conversations if each in deleted),
    ]
    for each in left:
        yield f"deleted: {each} is still there"
    for asked in history.asked.values():
        if asked.talk.id not in deleted:
            continue
        by_s = _bound(history, deleted[asked.talk.id], STOP_S_MAX)
        for view in asked.views:
            if view.shown_s > by_s and (view.last is None or not _has_ended(history, view.turn_id)):
                yield f"deleted: {asked.request_id} was shown until {view.shown_s:.3f}"
            if view.last is None and not view.is_gone:
                yield f"deleted: a watcher of {asked.request_id} was never told"
        for prompt in history.prompts.get(asked.question, []):
            if prompt.at_s > by_s:
                yield f"deleted: a model was asked {asked.question} at {prompt.at_s:.3f}"


def _has_ended(history: History, turn_id: str) -> bool:
    return history.made[turn_id].end is not None


def _bound(history: History, from_s: float, calm_s: float) -> float:
    """Until when something must have followed what happened at `from_s`."""
    if history.faults.keys() <= _HARMLESS:
        return from_s + calm_s
    return max(from_s, history.peace_s) + HEALTHY_S


def _of_turn(asked: Asked, made: Made, history: History, store: MemoryStore) -> Iterator[str]:
    row = store.tables.turns.get(made.turn_id)
    if row is None:
        yield f"lost: {asked.request_id}"
        return
    turn, answer = row.turn, store.tables.messages[row.turn.assistant_message_id][1]
    if made.end is None or not turn.state.has_ended:
        yield f"unended: {asked.request_id} is {turn.state} at attempt {turn.attempt}"
        return
    if answer.state is not MESSAGE_STATE_OF[turn.state]:
        yield f"state: {asked.request_id} is {turn.state}, its answer {answer.state}"
    if (turn, answer) != made.end:
        yield f"ended twice: {asked.request_id} changed after its end"
    if turn.attempt > ATTEMPTS_MAX:
        yield f"attempts: {asked.request_id} took {turn.attempt}"
    yield from _of_text(asked, turn, answer, history, store)
    yield from _of_cancellation(asked, made, history)
    yield from _of_time(asked, made, turn, history)
    for view in asked.views:
        yield from _of_view(asked.request_id, view, answer, turn.state)
    yield from _of_agreement(asked)
    if history.faults.keys() <= _HARMLESS:
        yield from _of_calm(asked, made, turn, history)


def _of_text(asked: Asked, turn: Turn, answer: Message, history: History, store: MemoryStore) -> Iterator[str]:
    """A complete answer is one that a model gave, behind the one that it goes on with."""
    standing, text = "", answer.text or ""
    if asked.kind is Kind.CONTINUE and asked.target is not None and asked.target.turn is not None:
        standing = store.tables.messages[asked.target.turn.assistant_message_id][1].text or ""
    if not (text.startswith(standing) or standing.startswith(text)):
        yield f"text: {asked.request_id} is {text!r}, which does not go on with {standing!r}"
    written = history.generated.get(asked.question, [])
    if turn.state is TurnState.COMPLETED and text not in {_placed(each, standing) for each in written}:
        yield f"text: {asked.request_id} is complete with {text!r}, which no model wrote"


def _placed(written: str, standing: str) -> str:
    if written.startswith(standing):
        return written
    return standing if standing.startswith(written) else standing + written


def _of_cancellation(asked: Asked, made: Made, history: History) -> Iterator[str]:
    """Only what somebody did not want any more is cancelled, and that soon."""
    assert made.end is not None
    assert made.ended_s is not None
    line = history.lines[made.conversation_id]
    after = [history.made[turn_id] for turn_id in line[line.index(made.turn_id) + 1 :]]
    cancelling = [
        each.made_s
        for each in after
        if each.made_s <= made.ended_s
        and each.request_id in history.asked
        and history.asked[each.request_id].on_conflict is OnConflict.CANCEL_RUNNING
    ]
    if made.end[0].state is TurnState.CANCELLED and not (asked.wants_cancel or cancelling):
        yield f"cancelled: {asked.request_id}, by nobody"
    wishes_s = [*cancelling, *([asked.cancelled_s] if asked.cancelled_s is not None else [])]
    if wishes_s and made.ended_s > _bound(history, min(wishes_s), STOP_S_MAX):
        yield f"cancel: {asked.request_id} went on for {made.ended_s - min(wishes_s):.1f} s"


def _of_time(asked: Asked, made: Made, turn: Turn, history: History) -> Iterator[str]:
    """The time that a turn may take begins when there is no other one before it, and ends it, but not too soon."""
    assert made.ended_s is not None
    is_late = turn.error is not None and turn.error.reason == DeadlineExceeded.reason
    if made.queued_s is None:
        if turn.state is not TurnState.CANCELLED:
            yield f"line: {asked.request_id} is {turn.state}, and it was never its turn"
        return
    due_s = made.queued_s + (asked.time_s or TURN_S_MAX)
    if is_late and made.ended_s < due_s - EARLY_S_MAX:
        yield f"time: {asked.request_id} had {due_s - made.ended_s:.3f} s left"
    if made.ended_s > _bound(history, due_s, LATE_S_MAX):
        yield f"time: {asked.request_id} went on for {made.ended_s - due_s:.1f} s"


def _of_calm(asked: Asked, made: Made, turn: Turn, history: History) -> Iterator[str]:
    """What holds where nothing went wrong."""
    if turn.attempt > 1:
        yield f"calm: {asked.request_id} took {turn.attempt} attempts without a fault"
    is_late = turn.error is not None and turn.error.reason == DeadlineExceeded.reason and asked.time_s is not None
    if turn.state is TurnState.FAILED and not is_late:
        yield f"calm: {asked.request_id} failed without a fault: {turn.error}"
    if made.waited_s > (REPUBLISH_AFTER_S if history.faults else REPUBLISH_AFTER_S / 2):
        yield f"calm: {asked.request_id} waited {made.waited_s:.1f} s for a worker"
    snapshots = [e for view in asked.views for e in view.events if isinstance(e.payload, Snapshot)]
    if snapshots and not history.faults and all(view.events[0] not in snapshots for view in asked.views):
        yield f"calm: {asked.request_id} was shown a snapshot in the middle"


def _of_view(request_id: str, view: Viewed, answer: Message, state: TurnState) -> Iterator[str]:
    if view.last is None:
        yield f"watch: {request_id} was never seen to end, after event {view.draft.last_sequence}"
        return
    finished = view.last.payload
    assert isinstance(finished, TurnFinished)
    if finished.state is not state or view.last.sequence != answer.last_sequence:
        seen = f"{finished.state} at {view.last.sequence}"
        yield f"watch: {request_id} was seen to end {seen}, not {state} at {answer.last_sequence}"
    draft = view.draft
    if draft.text != (answer.text or ""):
        yield f"watch: {request_id} was seen as {draft.text!r}, stored is {answer.text!r}"
    if tuple(draft.citations) != answer.citations:
        yield f"watch: {request_id} was seen with {len(draft.citations)} citations, stored are {len(answer.citations)}"
    sequences = [event.sequence for event in view.events]
    for event, earlier in zip(view.events[1:], sequences, strict=False):
        is_next = event.sequence == earlier + 1
        if not is_next and not (isinstance(event.payload, Snapshot) and event.sequence > earlier):
            yield f"watch: {request_id} was shown {event.sequence} after {earlier}"


def _of_agreement(asked: Asked) -> Iterator[str]:
    """Two watchers never see two different events of one number."""
    shown: dict[int, object] = {}
    for view in asked.views:
        for event in view.events:
            if isinstance(event.payload, Snapshot | TurnFinished):
                continue
            if shown.setdefault(event.sequence, event) != event:
                yield f"watch: {asked.request_id} has two events {event.sequence}"


def _of_prompts(history: History, store: MemoryStore) -> Iterator[str]:
    """A model is asked a question behind the whole branch that it stands in, as that ended, and no other text."""
    for question, path in branches(history, store).items():
        for prompt in history.prompts.get(question, []):
            yield from judge_prompt(question, prompt, path, store)
