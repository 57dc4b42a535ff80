"""What happened in a run: written as it happens, judged when it is over."""

from collections.abc import Callable
from dataclasses import dataclass, field

from services.conversation.events import Draft, TurnEvent
from services.conversation.model import Message, Turn


@dataclass(slots=True)
class Viewed:
    """What one watcher saw of a turn over all its connections.

    Attributes:
        draft: the answer as its client builds it.
        last: the closing event, when it came.
    """

    turn_id: str
    draft: Draft = field(default_factory=Draft)
    events: list[TurnEvent] = field(default_factory=list)
    last: TurnEvent | None = None


@dataclass(slots=True)
class Asked:
    """A question that somebody asked.

    Attributes:
        turn: as it was acknowledged; None while it was not.
        wants_cancel: whether somebody asked for its end.
        cancelled_s: when somebody's wish to cancel it was acknowledged.
    """

    question: str
    conversation_id: str
    turn: Turn | None = None
    accepted_s: float = 0.0
    wants_cancel: bool = False
    cancelled_s: float | None = None
    views: list[Viewed] = field(default_factory=list)


@dataclass
class History:
    """A run.

    Attributes:
        generated: whole answers that a model gave, by question.
        prompts: the messages before each question, as models were given them.
        ended: turns that reached a final state, with their answer at that moment.
        faults: how often each kind struck.
        violations: what must not happen, noticed when it did.
    """

    clock: Callable[[], float]
    asked: list[Asked] = field(default_factory=list)
    generated: dict[str, list[str]] = field(default_factory=dict)
    prompts: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    ended: dict[str, tuple[float, Turn, Message]] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    refused: int = 0
    peace_s: float = 0.0

    def violation(self, text: str) -> None:
        """Takes note of what must not happen."""
        self.violations.append(f"{self.clock():8.3f} {text}")

    def note(self, text: str) -> None:
        """Adds a line for whoever replays the seed."""
        self.trace.append(f"{self.clock():8.3f} {text}")

    def fault(self, kind: str, text: str = "") -> None:
        """Takes note of trouble that was made."""
        self.faults[kind] = self.faults.get(kind, 0) + 1
        self.note(f"FAULT {kind} {text}")
