"""The steps of a turn, and the answer that they add up to.

`Draft.apply` is the one definition of what an event does to an answer: workers, recovery and tests of clients share it.
"""

from dataclasses import dataclass, field
from typing import TypeAlias, assert_never

from services.conversation.context import ContextReport
from services.conversation.model import Citation, Message, RetrievalTrace, TurnState, Usage


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """Opens a turn."""

    turn_id: str
    conversation_id: str
    user_message_id: str
    assistant_message_id: str


@dataclass(frozen=True, slots=True)
class RetrievalDecided:
    """Tells what was searched and found."""

    retrieval: RetrievalTrace


@dataclass(frozen=True, slots=True)
class PartStarted:
    """Opens a part of the answer; once per turn and part, whatever resets follow."""

    part_id: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Appends text to a part; `offset` is where its first code point stands."""

    part_id: str
    offset: int
    text: str


@dataclass(frozen=True, slots=True)
class CitationAdded:
    """Ties text that has been sent to its source."""

    citation: Citation


@dataclass(frozen=True, slots=True)
class ProviderSwitched:
    """Another model goes on at `offset`."""

    from_model: str
    to_model: str
    reason: str
    offset: int


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """Another worker goes on at `resume_offset`; what stands beyond it is void, citations too."""

    attempt: int
    resume_offset: int


@dataclass(frozen=True, slots=True)
class UsageUpdated:
    """What was consumed so far."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class TurnFinished:
    """Closes a turn. `message` is the stored answer; the journal leaves it out, for PostgreSQL holds it by then."""

    state: TurnState
    message: Message | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The answer so far, in place of all events up to its sequence."""

    message: Message


_Note: TypeAlias = TurnStarted | RetrievalDecided | PartStarted | ProviderSwitched | UsageUpdated | TurnFinished
Payload: TypeAlias = _Note | TextDelta | CitationAdded | AttemptStarted | Snapshot


@dataclass(frozen=True, slots=True)
class TurnEvent:
    """A step of a turn; sequences count 1, 2, 3 without holes."""

    sequence: int
    attempt: int
    payload: Payload


class BrokenSequenceError(Exception):
    """An event does not follow the one before it, or its offset does not meet the text: a bug, or lost events."""


@dataclass(slots=True)
class Draft:
    """The answer that a turn's events add up to.

    Attributes:
        is_started: whether TurnStarted is among the events.
        has_part: whether the answer's part was opened.
        uncounted: code points of text that came since the last word on usage.
        context: what the model was given to read. No event tells it: only who holds the turn sets it, and every
            attempt that begins sets it anew.
    """

    last_sequence: int = 0
    is_started: bool = False
    has_part: bool = False
    citations: list[Citation] = field(default_factory=list)
    retrieval: RetrievalTrace | None = None
    usage: Usage | None = None
    model: str = ""
    length: int = 0
    uncounted: int = 0
    context: ContextReport | None = None
    _pieces: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, message: Message) -> "Draft":
        """The draft that was folded into a stored answer."""
        text = message.text or ""
        return cls(
            last_sequence=message.last_sequence,
            is_started=message.last_sequence > 0,
            has_part=message.text is not None,
            citations=list(message.citations),
            retrieval=message.retrieval,
            usage=message.usage,
            model=message.model,
            length=len(text),
            uncounted=len(text) if message.usage is None else 0,
            context=message.context,
            _pieces=[text],
        )

    @property
    def text(self) -> str:
        """The text so far."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def apply(self, event: TurnEvent) -> None:
        """Goes one step further.

        Raises:
            BrokenSequenceError: the event does not follow.
        """
        if event.sequence != self.last_sequence + 1 and not isinstance(event.payload, Snapshot):
            raise BrokenSequenceError(f"event {event.sequence} after {self.last_sequence}")
        self.apply_payload(event.payload)
        self.last_sequence = event.sequence

    def apply_payload(self, payload: Payload) -> None:
        """What one step does, whatever its number."""
        match payload:
            case TextDelta():
                self._append(payload)
            case CitationAdded():
                self.citations.append(payload.citation)
            case AttemptStarted():
                self.reset(payload.resume_offset)
            case Snapshot():
                self._replace(payload.message)
            case _:
                self._note(payload)

    def reset(self, offset: int) -> None:
        """Makes void what stands beyond `offset`."""
        text = self.text[:offset]
        self._pieces = [text]
        self.length = len(text)
        self.citations = [citation for citation in self.citations if citation.end <= offset]

    def _append(self, delta: TextDelta) -> None:
        if delta.offset != self.length:
            raise BrokenSequenceError(f"text at {delta.offset} after {self.length} code points")
        self._pieces.append(delta.text)
        self.length += len(delta.text)
        self.uncounted += len(delta.text)

    def _note(self, payload: _Note) -> None:
        """Steps that leave the text alone."""
        match payload:
            case RetrievalDecided():
                self.retrieval = payload.retrieval
            case UsageUpdated():
                self.usage, self.uncounted = payload.usage, 0
            case ProviderSwitched():
                self.model = payload.to_model
            case TurnStarted():
                self.is_started = True
            case PartStarted():
                self.has_part = True
            case TurnFinished():
                pass
            case _:
                assert_never(payload)

    def _replace(self, message: Message) -> None:
        stored = Draft.of(message)
        self.is_started, self.has_part = stored.is_started, stored.has_part
        self.citations, self.retrieval = stored.citations, stored.retrieval
        self.usage, self.uncounted, self.context = stored.usage, stored.uncounted, stored.context
        self.model, self.length, self._pieces = stored.model, stored.length, stored._pieces  # noqa: SLF001 - its own class
