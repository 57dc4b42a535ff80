"""Many turns at once, in memory."""

from collections.abc import Sequence

from services.conversation.model import TurnId
from services.conversation.store.turns import Progress, TurnKey
from services.conversation.store.work import Folding, Hold
from services.conversation.store_memory.work import MemoryWork


class MemoryMany(MemoryWork):
    """See `TurnStore.progress`, `WorkStore.fold_all` and `WorkStore.renew_all`."""

    async def fold_all(self, foldings: Sequence[Folding], *, lease_s: float) -> list[bool]:
        """See `WorkStore.fold_all`."""
        return [
            await self.fold(one.hold, one.fold, lease_s=lease_s, sequence_limit=one.sequence_limit, epoch=one.epoch)
            for one in foldings
        ]

    async def renew_all(self, holds: Sequence[Hold], *, lease_s: float) -> list[bool]:
        """See `WorkStore.renew_all`."""
        return [await self.renew(hold, lease_s=lease_s) for hold in holds]

    async def progress(self, turns: Sequence[TurnKey]) -> dict[TurnId, Progress]:
        """See `TurnStore.progress`."""
        found: dict[TurnId, Progress] = {}
        for key in turns:
            row = self.tables.turns.get(TurnId(key.turn_id))
            if row is not None and row.owner.organization_id == key.organization_id:
                message = self.owned_message(row.owner, row.turn.assistant_message_id)
                found[row.turn.id] = Progress(row.turn.state.has_ended, message.last_sequence)
        return found
