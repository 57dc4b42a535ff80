"""The answer as its reader has it, whoever wrote which part of it."""

from collections.abc import Sequence

from services.inference.generating.citations import CitationReader
from services.inference.generating.continuation import Placed
from services.inference.model import Event, Passage, PassageCitation, TextDelta
from services.inference.parts import Part, PartDelta, PartsRead, ToolCall


class Writing:
    """Text, parts and citations so far."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._parts = PartsRead()
        self._citations: list[PassageCitation] = []
        self._reader: CitationReader | None = None
        self._deltas: list[PartDelta] = []
        self._given = 0
        self.has_calls = False
        self.length = 0

    @property
    def is_begun(self) -> bool:
        """Whether any of it has been sent."""
        return self.length != self._given or bool(self._deltas)

    @property
    def next_number(self) -> int:
        """The first number that no part has: each writer counts its own from 0."""
        return 1 + max((delta.number for delta in self._deltas), default=-1)

    @property
    def text(self) -> str:
        """All of the text."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    @property
    def parts(self) -> tuple[Part, ...]:
        """Everything in its order when it is more than text; empty otherwise."""
        return self._parts.parts()

    @property
    def citations(self) -> tuple[PassageCitation, ...]:
        """In the order of their start."""
        return tuple(sorted(self._citations, key=lambda one: (one.start, one.end)))

    def begin_with(self, text: str) -> None:
        """Before anything is sent: its reader has this of it."""
        self._pieces, self._parts = [], PartsRead()
        self._given = self.length = len(text)
        if text:
            self._pieces.append(text)
            self._parts.add_text(text, is_refusal=False)

    def read_marks(self, passages: Sequence[Passage] | None) -> list[PassageCitation]:
        """From now on marks are read as citations of these passages; None for a writer that cites by itself.

        Returns:
            The citations in what has been written.
        """
        self._reader = None if passages is None else CitationReader(passages)
        return self._reader.feed(self.text) if self._reader is not None and self._pieces else []

    def put(self, placed: Placed, *, is_refusal: bool) -> list[Event]:
        """Text has come: it, and the citations that it completes."""
        if placed.offset < self.length:
            self._cut(placed.offset)
        if not placed.text:
            return []
        self._pieces.append(placed.text)
        self._parts.add_text(placed.text, is_refusal=is_refusal)
        self.length += len(placed.text)
        found = self._reader.feed(placed.text) if self._reader is not None else []
        new = [citation for citation in found if citation not in self._citations]
        self._citations.extend(new)
        return [TextDelta(placed.offset, placed.text, is_refusal), *new]

    def add_part(self, delta: PartDelta) -> PartDelta:
        """A piece of something other than text has come."""
        self.has_calls = self.has_calls or isinstance(delta.piece, ToolCall)
        self._deltas.append(delta)
        self._parts.add(delta)
        return delta

    def cite(self, citation: PassageCitation) -> list[Event]:
        """The writer has cited by itself, perhaps what another one had cited before."""
        if citation in self._citations:
            return []
        self._citations.append(citation)
        return [citation]

    def _cut(self, offset: int) -> None:
        """What stands of the text from `offset` on is void; what was thought before it stays."""
        text = self.text[:offset]
        self._pieces = [text] if text else []
        self._parts = PartsRead()
        for delta in self._deltas:
            self._parts.add(delta)
        if text:
            self._parts.add_text(text, is_refusal=False)
        self.length = len(text)
        self._citations = [citation for citation in self._citations if citation.end <= offset]
        if self._reader is not None:
            self._reader = self._reader.again(text)
