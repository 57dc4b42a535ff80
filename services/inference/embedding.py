"""What inference needs of retrieval: vectors of texts, for whatever goes by meaning. Optional: it can do without."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from services.inference.money.purse import Payer

TEXTS_MAX: Final = 256
TEXT_CHARS_MAX: Final = 8_000
"""Bounds of retrieval's contract. Longer texts are cut: the encoder reads 256 tokens of each, which is far less."""

Vector = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of texts.

    Attributes:
        vectors: of length 1, one per text, in their order.
        encoder: model and revision; vectors of different ones cannot be compared.
    """

    vectors: tuple[Vector, ...]
    encoder: str


class Embeds(Protocol):
    """Turns short texts that somebody waits for, such as questions, into vectors."""

    async def embed(self, payer: Payer, texts: Sequence[str]) -> Embedded:
        """One vector per text, on behalf of the payer. It is short of patience: whoever calls can do without.

        Args:
            payer: for whom.
            texts: 1 to `TEXTS_MAX`, none of them empty.

        Raises:
            RetrievalUnavailable: nobody can tell now.
            MeshError: the payer may not, or the texts are out of bounds.
        """
        ...
