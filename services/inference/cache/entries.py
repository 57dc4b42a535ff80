"""Where stored answers lie, as bytes that only `archive` understands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

NEIGHBOURS_MAX: Final = 64
"""Questions of a scope that are compared with a new one; the newest ones. To read and compare as many takes 2 ms."""
EPOCHS_MAX: Final = 1_000
"""Names of an organization that were made void one by one; beyond, all of it is made void."""
KEEP_EPOCHS_S: Final = 90 * 24 * 3600
"""Longer than any entry is kept. Epochs that are lost are drawn anew, which makes all entries void and none valid."""

Epochs = Mapping[str, str]
"""By name of a model or a route, and under the empty name for all: drawn anew whenever what they cover is made void."""


@dataclass(frozen=True, slots=True)
class Found:
    """The epochs of an organization, and the entry, both of the same instant."""

    epochs: Epochs
    entry: bytes | None


class Entries(Protocol):
    """Every method may raise MeshError, and is bounded by its caller. Organizations never see one another."""

    async def get(self, organization_id: str, name: str) -> Found:
        """The entry, and the epochs of the organization, which always have one for all."""
        ...

    async def put(self, organization_id: str, name: str, entry: bytes, *, keep_s: float) -> None:
        """Keeps the entry in place of any other of this name."""
        ...

    async def neighbours(self, organization_id: str, scope: str) -> Sequence[bytes]:
        """What was added to the scope, the newest first; at most `NEIGHBOURS_MAX`."""
        ...

    async def add_neighbour(self, organization_id: str, scope: str, neighbour: bytes, *, keep_s: float) -> None:
        """Adds to the scope, which is kept as long as what was added last."""
        ...

    async def void(self, organization_id: str, name: str) -> None:
        """Draws the epoch of `name` anew; those of all names, when it is empty."""
        ...
