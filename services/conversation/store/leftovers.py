"""Which conversations were deleted, and may have left something elsewhere; see `leftovers`."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from services.conversation.model import Owner


@dataclass(frozen=True, slots=True)
class Leftover:
    """A deleted conversation with the turns that it had."""

    owner: Owner
    conversation_id: str
    turn_ids: Sequence[str]


class LeftoverStore(Protocol):
    """Which conversations were deleted; a part of `Store`."""

    def leftovers(self, *, older_s: float, limit: int) -> AbstractAsyncContextManager[list[Leftover]]:
        """Conversations deleted longer ago than this, forgotten when the block ends well; they stay when it raises."""
        ...
