"""What happened in a run: written as it happens, judged when it is over."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from services.conversation.events import Draft, TurnEvent, TurnFinished
from services.conversation.model import Message, OnConflict, Turn


class Kind(StrEnum):
    """What somebody asked for.

    NEW follows what was asked last, BRANCH an earlier answer; EDIT puts another question beside an earlier one; the
    others want one more answer to an earlier question.
    """

    NEW = "new"
    BRANCH = "branch"
    EDIT = "edit"
    REGENERATE = "regenerate"
    CONTINUE = "continue"
    RETRY = "retry"

    @property
    def brings_question(self) -> bool:
        """Whether a question is added, or only an answer."""
        return self in {Kind.NEW, Kind.BRANCH, Kind.EDIT}


@dataclass(slots=True)
class Viewed:
    """What one watcher saw of a turn over all its connections.

    Attributes:
        draft: the answer as its client builds it.
        last: the closing event, when it came.
        shown_s: when the latest event came.
        is_gone: whether the watcher was told that there is no such turn.
    """

    turn_id: str
    draft: Draft = field(default_factory=Draft)
    events: list[TurnEvent] = field(default_factory=list)
    last: TurnEvent | None = None
    shown_s: float = 0.0
    is_gone: bool = False


@dataclass(slots=True)
class Talk:
    """A conversation, as its owner knows it.

    Attributes:
        wants_delete: whether its owner has begun to delete it.
    """

    id: str
    asked: list["Asked"] = field(default_factory=list)
    wants_delete: bool = False


@dataclass(slots=True, kw_only=True)
class Asked:
    """Something that somebody asked for.

    Attributes:
        request_id: of its call, and of each repetition of that.
        question: the text that is to be answered, each question's another one.
        target: what it edits, follows or wants again.
        time_s: how long it may take; None for as long as any.
        turn: as it was acknowledged; None while it was not.
        refused_s: from when to when the call took that was refused for another turn's sake.
        wants_cancel: whether somebody asked for its end.
        cancelled_s: when somebody's wish to cancel it was acknowledged.
    """

    request_id: str
    talk: Talk
    kind: Kind
    question: str
    target: "Asked | None" = None
    on_conflict: OnConflict = OnConflict.REJECT
    time_s: float | None = None
    turn: Turn | None = None
    refused_s: tuple[float, float] | None = None
    wants_cancel: bool = False
    cancelled_s: float | None = None
    views: list[Viewed] = field(default_factory=list)

    @property
    def finished(self) -> TurnFinished | None:
        """How it ended, if a watcher was told."""
        ends = (view.last.payload for view in self.views if view.last is not None)
        return next((end for end in ends if isinstance(end, TurnFinished)), None)


@dataclass(slots=True)
class Made:
    """A turn, as the store has it.

    Attributes:
        made_s: when it was accepted.
        queued_s: when there was nothing before it any more.
        waiting_s: since when it waits for a worker; None while it does not.
        waited_s: the longest that it waited for one.
        ended_s: when it reached a final state.
        end: the turn with its answer at that moment.
    """

    turn_id: str
    conversation_id: str
    request_id: str
    made_s: float
    queued_s: float | None = None
    waiting_s: float | None = None
    waited_s: float = 0.0
    ended_s: float | None = None
    end: tuple[Turn, Message] | None = None


@dataclass(slots=True)
class Prompt:
    """What a model was asked: the messages before the question, what stood for those before them, and when."""

    at_s: float
    before: tuple[str, ...]
    summary: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """What a summary was to be made of, and from when until when somebody was writing it."""

    record: str
    began_s: float
    until_s: float


@dataclass
class History:
    """A run.

    Attributes:
        asked: by request id.
        made: by turn id, in their order.
        lines: ids of the turns of each conversation, in their order.
        deleted: when conversations were deleted.
        generated: whole answers that a model gave, by question.
        prompts: by question.
        written: by the text of the summary.
        faults: how often each kind struck.
        violations: what must not happen, noticed when it did.
    """

    clock: Callable[[], float]
    asked: dict[str, Asked] = field(default_factory=dict)
    made: dict[str, Made] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)
    deleted: dict[str, float] = field(default_factory=dict)
    generated: dict[str, list[str]] = field(default_factory=dict)
    prompts: dict[str, list[Prompt]] = field(default_factory=dict)
    written: dict[str, Written] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    peace_s: float = 0.0

    def violation(self, text: str) -> None:
        """Takes note of what must not happen."""
        self.violations.append(f"{self.clock():8.3f} {text}")
        self.note(f"VIOLATION {text}")

    def note(self, text: str) -> None:
        """Adds a line for whoever replays the seed."""
        self.trace.append(f"{self.clock():8.3f} {text}")

    def fault(self, kind: str, text: str = "") -> None:
        """Takes note of trouble that was made."""
        self.faults[kind] = self.faults.get(kind, 0) + 1
        self.note(f"FAULT {kind} {text}")
