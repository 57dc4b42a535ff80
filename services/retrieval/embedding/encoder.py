"""The Encoder port, and the check that every vector passes before it is believed."""

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

_NORM_TOLERANCE: Final = 1e-3


class EncoderError(Exception):
    """The encoder cannot be loaded, or returned something that is no unit vector."""


class Encoder(Protocol):
    """Turns texts into unit vectors. Calls block, and may come from several threads."""

    @property
    def revision(self) -> str:
        """Names model and weights: vectors of different revisions cannot be compared."""
        ...

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    @property
    def tokens_max(self) -> int:
        """Tokens that are read of a text, special ones included; the rest is cut off."""
        ...

    def encode(self, texts: Sequence[str]) -> Vectors:
        """One unit vector per text, in order.

        Raises:
            EncoderError: the model returned no unit vectors.
        """
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each whole text, special ones not counted."""
        ...


def checked(vectors: Vectors, *, rows: int, dimension: int) -> Vectors:
    """The vectors themselves. FAISS takes NaN without a word and answers nonsense ever after, so they stop here.

    Raises:
        EncoderError: wrong shape, not finite, or not of length 1.
    """
    if vectors.shape != (rows, dimension):
        raise EncoderError(f"the encoder returned shape {vectors.shape}, not {(rows, dimension)}")
    if not np.isfinite(vectors).all():
        raise EncoderError("the encoder returned values that are not finite")
    if rows and float(np.abs(np.linalg.norm(vectors, axis=1) - 1.0).max()) > _NORM_TOLERANCE:
        raise EncoderError("the encoder returned vectors that are not of length 1")
    return vectors
