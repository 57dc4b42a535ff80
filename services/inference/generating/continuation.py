"""How another attempt goes on with an answer that has begun, so that its reader sees one text.

Three ways: a target that takes a prefix writes on by itself; another one is shown the answer and told to go on, and
what it repeats is taken away; one that follows no instructions answers from the start and is followed to where the two
texts part. A seam tells of each piece that is written where it stands in the answer.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from services.inference.model import Generation, Message, Role
from services.inference.providers.base import Profile

SHOWN_CHARS_MAX: Final = 16_000
"""Of the end of the answer that a model is shown."""
ANCHOR_CHARS: Final = 60
"""Of the end of the answer that a model is told to begin with: they tell where it goes on, blanks included."""
OVERLAP_CHARS_MIN: Final = 8
"""A shorter agreement may be chance, and taking it away would lose words."""

GO_ON: Final = (
    "Your last message broke off in transmission; the reader has it as it stands above. Write only what comes after "
    "it, in the same voice and format, and without any remark about this. Begin by repeating its last words exactly, "
    "so that both pieces can be joined:\n\n{anchor}"
)


class Way(StrEnum):
    """How a target goes on."""

    PREFIX = "prefix"
    INSTRUCTED = "instructed"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class Placed:
    """A piece of text, and where it stands in the answer; what stood from there on is void."""

    offset: int
    text: str


class Seam(Protocol):
    """Between what stands and what is written now."""

    def feed(self, text: str) -> Placed | None:
        """Takes a piece and gives what of it is certain now."""
        ...

    def end(self) -> Placed | None:
        """Gives what was held back, once no more comes."""
        ...


def way_of(profile: Profile, wish: Generation) -> Way:
    """How a target with this profile goes on with an answer to `wish`."""
    if profile.takes_prefix:
        return Way.PREFIX
    # A format or a tool binds the whole answer: a piece of it alone would not fit it.
    is_bound = wish.parameters.format is not None or bool(wish.prompt.tools)
    return Way.RESTART if profile.cites or is_bound else Way.INSTRUCTED


def resumed(profile: Profile, wish: Generation) -> str:
    """What a target with this profile goes on with of the answer that an earlier call began: all of it, or nothing.

    Only a prefix is sure to be gone on with; and of an answer with calls of tools, text is not all there was.
    """
    is_sure = way_of(profile, wish) is Way.PREFIX and not wish.prompt.tools
    return wish.continue_from if is_sure else ""


def seam_of(way: Way, standing: str) -> Seam:
    """The seam of an attempt that goes on with `standing`."""
    if not standing:
        return Plain(0)
    match way:
        case Way.PREFIX:
            return AfterPrefix(standing)
        case Way.INSTRUCTED:
            return AfterOverlap(standing)
        case Way.RESTART:
            return AfterAgreement(standing)


def prefix_of(standing: str) -> str:
    """What a target is given to go on with: vendors refuse a prefix that ends with blanks."""
    return standing.rstrip()


def turns_after(standing: str) -> tuple[Message, ...]:
    """What a model is shown and told that goes on by instruction."""
    return (
        Message(Role.ASSISTANT, standing[-SHOWN_CHARS_MAX:]),
        Message(Role.USER, GO_ON.format(anchor=anchor_of(standing))),
    )


def anchor_of(standing: str) -> str:
    """The last words of what stands, which a model is told to begin with."""
    return standing[-ANCHOR_CHARS:].lstrip()


class Plain:
    """Everything follows what stands."""

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def feed(self, text: str) -> Placed | None:
        """See `Seam.feed`."""
        if not text:
            return None
        placed = Placed(self._offset, text)
        self._offset += len(text)
        return placed

    def end(self) -> Placed | None:
        """See `Seam.end`."""
        return None


class AfterPrefix:
    """The target writes on; blanks at the end of what stands were not shown to it, so it may write them once more."""

    def __init__(self, standing: str) -> None:
        self._rest = Plain(len(standing))
        self._blanks = standing[len(prefix_of(standing)) :]

    def feed(self, text: str) -> Placed | None:
        """See `Seam.feed`."""
        common = 0
        while common < min(len(text), len(self._blanks)) and text[common] == self._blanks[common]:
            common += 1
        self._blanks = self._blanks[common:] if common == len(text) else ""
        return self._rest.feed(text[common:])

    def end(self) -> Placed | None:
        """See `Seam.end`."""
        return None


class AfterOverlap:
    """The target was told to go on; what it repeats of the end of what stands, or of all of it, is taken away."""

    def __init__(self, standing: str) -> None:
        self._standing = standing
        self._anchor = anchor_of(standing)
        self._held: str | None = ""
        self._rest: Seam = Plain(len(standing))

    def feed(self, text: str) -> Placed | None:
        """See `Seam.feed`."""
        if self._held is None:
            return self._rest.feed(text)
        self._held += text
        if self._may_repeat(self._held.lstrip()):
            return None
        return self._open(self._held)

    def end(self) -> Placed | None:
        """See `Seam.end`."""
        return self._open(self._held) if self._held else None

    def _may_repeat(self, begun: str) -> bool:
        """Whether what was written stands somewhere before the end, so that what comes may repeat the rest of it."""
        anchor = self._anchor.rstrip()
        if anchor and begun.startswith(anchor):
            return len(begun) == len(anchor)
        return not begun or self._standing.find(begun, 0, len(self._standing) - 1) >= 0

    def _open(self, held: str) -> Placed | None:
        self._held = None
        begun = held.lstrip()
        if self._anchor.strip() and begun.startswith(self._anchor.rstrip()):
            # It did as it was told, so there is no guessing, however often its last words stand there.
            return self._after_blanks(begun[len(self._anchor.rstrip()) :])
        for standing, written in (
            (self._standing, held),
            (self._standing, begun),
            (self._standing.rstrip(), held),
            (self._standing.rstrip(), begun),
        ):
            repeated = _overlap(standing, written)
            if repeated and standing != self._standing:
                return self._after_blanks(written[repeated:])
            if repeated:
                return self._rest.feed(written[repeated:])
        return self._rest.feed(held)

    def _after_blanks(self, text: str) -> Placed | None:
        """Blanks that stand after what is repeated come once more with what follows it."""
        self._rest = AfterPrefix(self._standing)
        return self._rest.feed(text)


class AfterAgreement:
    """The target answers from the start; it is followed as far as it writes what stands."""

    def __init__(self, standing: str) -> None:
        self._standing = standing
        self._agreed = 0
        self._rest: Plain | None = None

    def feed(self, text: str) -> Placed | None:
        """See `Seam.feed`."""
        if self._rest is not None:
            return self._rest.feed(text)
        common = 0
        left = len(self._standing) - self._agreed
        while common < min(len(text), left) and text[common] == self._standing[self._agreed + common]:
            common += 1
        self._agreed += common
        if common == len(text):
            return None
        self._rest = Plain(self._agreed)
        return self._rest.feed(text[common:])

    def end(self) -> Placed | None:
        """See `Seam.end`. A new answer may be shorter than the old one."""
        return Placed(self._agreed, "") if self._rest is None else None


def _overlap(standing: str, written: str) -> int:
    """How many characters `written` begins with that `standing` ends with; 0 for less than is no chance."""
    least = min(OVERLAP_CHARS_MIN, len(standing))
    for size in range(min(len(standing), len(written)), least - 1, -1):
        if standing.endswith(written[:size]):
            return size
    return 0
