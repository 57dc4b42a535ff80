"""What a turn has consumed, attempts that came to nothing included.

A provider settles tokens at the end of an answer. One that breaks off is not settled, so what was read and written of
it is estimated, and the sum says so: to leave it out would call it free.
"""

from typing import Final

from services.conversation.events import Draft
from services.conversation.model import Usage

LENGTH_PER_TOKEN: Final = 4
"""Code points of English prose on a token, about; inference reports text the same way where no provider counts it."""


class Account:
    """The account of one attempt, after those before it.

    Args:
        draft: the answer as the last attempt left it; read at once.
        standing: code points at its start that no attempt of this turn wrote.

    Attributes:
        written: code points that this attempt has written.
    """

    def __init__(self, draft: Draft, *, standing: int) -> None:
        self.written = 0
        self._before = draft.usage
        self._lost = max(0, draft.uncounted - standing)
        self._input_tokens: int | None = None

    @property
    def has_news(self) -> bool:
        """Whether the model has been asked."""
        return self._input_tokens is not None

    def begun(self, input_tokens: int) -> None:
        """The model has been asked, and was given so much to read."""
        self._input_tokens = input_tokens

    def finished(self, usage: Usage) -> Usage:
        """All attempts together, of which this one was settled."""
        for other in (self._estimated(self._lost) if self._lost else None, self._before):
            usage = usage if other is None else together(other, usage)
        return usage

    def broken_off(self) -> Usage:
        """All attempts together, of which this one was not settled."""
        return self.finished(self._estimated(self.written))

    def _estimated(self, length: int) -> Usage:
        """Of an attempt that wrote so much; whoever was asked before was given the same to read."""
        output_tokens = -(-length // LENGTH_PER_TOKEN)
        return Usage(input_tokens=self._input_tokens or 0, output_tokens=output_tokens, estimated=True)


def together(one: Usage, other: Usage) -> Usage:
    """The sum; its cost is known where both are."""
    costs = (one.cost_micros, other.cost_micros)
    return Usage(
        input_tokens=one.input_tokens + other.input_tokens,
        cached_input_tokens=one.cached_input_tokens + other.cached_input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        reasoning_tokens=one.reasoning_tokens + other.reasoning_tokens,
        cost_micros=None if costs[0] is None or costs[1] is None else costs[0] + costs[1],
        estimated=one.estimated or other.estimated,
    )
