"""Questions of the same meaning: vectors choose among those that agree in what they say (see `gist`)."""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.inference.cache import metrics
from services.inference.cache.archive import Neighbour
from services.inference.cache.gist import Gist, gist
from services.inference.embedding import Embeds, Vector
from services.inference.money.purse import Payer
from services.mesh.errors import MeshError

CANDIDATES_MAX: Final = 3
"""Questions whose stored answers are looked at: the nearest ones. Those of void answers may be among them."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a question means, as far as it can be compared."""

    gist: Gist
    vector: Vector
    encoder: str

    def nearest(self, neighbours: Sequence[Neighbour], *, similarity_min: float) -> list[Neighbour]:
        """Those that mean the same, the nearest first; at most `CANDIDATES_MAX`."""
        alike = [one for one in neighbours if one.encoder == self.encoder and self.gist.agrees(one.gist)]
        near = [(cosine, one) for one in alike if (cosine := self._cosine(one.vector)) >= similarity_min]
        near.sort(key=lambda pair: -pair[0])
        return [one for _, one in near[:CANDIDATES_MAX]]

    def _cosine(self, vector: Vector) -> float:
        return math.fsum(map(operator.mul, self.vector, vector))


class Meanings:
    """Finds what questions mean.

    Args:
        embeds: makes vectors; None where nobody does, and then nothing goes by meaning.
    """

    def __init__(self, embeds: Embeds | None) -> None:
        self._embeds = embeds

    async def of(self, question: str, payer: Payer) -> Meaning | None:
        """The meaning of a question, or None when it cannot be told now; it waits no longer than `Embeds` does."""
        if self._embeds is None:
            return None
        try:
            embedded = await self._embeds.embed(payer, [question])
        except MeshError:
            metrics.VECTORS.labels("unreachable").inc()
            return None
        metrics.VECTORS.labels("found").inc()
        return Meaning(gist(question), embedded.vectors[0], embedded.encoder)
