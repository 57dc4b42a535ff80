"""Folds and renewals of all turns of a worker, merged: a round trip each when alone, one for hundreds under load."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import cycle
from types import TracebackType
from typing import Final, Self

from services.conversation.journal.port import Batch, Receipt
from services.conversation.store.work import Folding, Hold, WorkStore
from services.mesh.groupcommit import GroupCommit

TOGETHER_MAX: Final = 512
"""Turns in one statement; a long answer counts for several."""
LANES: Final = 4
"""Statements at a time of either kind: one that is slow holds up a part of the turns only."""
_LENGTH_OF_ONE: Final = 4_096


class Keeping:
    """Keeps turns; entered for as long as any turn is held.

    Args:
        store: the truth.
        lease_s: that every fold and renewal begins anew.
    """

    def __init__(self, store: WorkStore, *, lease_s: float) -> None:
        self._store = store
        self._lease_s = lease_s
        self._folds = [
            GroupCommit[Folding, bool](self._fold_all, name="conversation_folds", batch_max=TOGETHER_MAX, weigh=_weight)
            for _ in range(LANES)
        ]
        self._renewals = [
            GroupCommit[Hold, bool](self._renew_all, name="conversation_renewals", batch_max=TOGETHER_MAX)
            for _ in range(LANES)
        ]
        self._lanes: Iterator[int] = cycle(range(LANES))
        self._opened = AsyncExitStack()

    async def fold(self, one: Folding) -> bool:
        """See `WorkStore.fold`."""
        if await self._folds[next(self._lanes)].add(one):
            return True
        # Together, rows that others have locked are passed over; alone it waits, and tells whether the turn was lost.
        return await self._store.fold(
            one.hold, one.fold, lease_s=self._lease_s, sequence_limit=one.sequence_limit, epoch=one.epoch
        )

    async def renew(self, hold: Hold) -> bool:
        """See `WorkStore.renew`."""
        if await self._renewals[next(self._lanes)].add(hold):
            return True
        # As above.
        return await self._store.renew(hold, lease_s=self._lease_s)

    async def __aenter__(self) -> Self:
        for folds in self._folds:
            await self._opened.enter_async_context(folds)
        for renewals in self._renewals:
            await self._opened.enter_async_context(renewals)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._opened.__aexit__(kind, error, traceback)

    async def _fold_all(self, foldings: Sequence[Folding]) -> list[bool]:
        return await self._store.fold_all(foldings, lease_s=self._lease_s)

    async def _renew_all(self, holds: Sequence[Hold]) -> list[bool]:
        return await self._store.renew_all(holds, lease_s=self._lease_s)


@dataclass(frozen=True, slots=True)
class Sinks:
    """What the turns of a worker write to together.

    Attributes:
        commit: appends to the journal.
        keeping: folds and renews.
        moved_up: is called when the next turn of a conversation stands in the outbox.
    """

    commit: GroupCommit[Batch, Receipt]
    keeping: Keeping
    moved_up: Callable[[], None]


def _weight(folding: Folding) -> int:
    return 1 + len(folding.fold.text or "") // _LENGTH_OF_ONE
