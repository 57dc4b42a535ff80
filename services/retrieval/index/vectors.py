"""The one place that touches FAISS: a flat inner-product index that is built once and never changed.

FAISS crashes when vectors are added during a search (measured, every time), so nothing is ever added.
"""

from typing import Any, Final, Self

import faiss
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

_NO_ROW: Final = -1


class FlatVectors:
    """Unit vectors with exact search by cosine. Safe for any number of threads."""

    def __init__(self, matrix: Matrix) -> None:
        _one_thread()
        self._index = faiss.IndexFlatIP(matrix.shape[1])
        self._index.add(np.ascontiguousarray(matrix, dtype=np.float32))

    @classmethod
    def joined(cls, parts: list[tuple[Self, Mask]]) -> Self:
        """The live rows of all parts, in order."""
        return cls(np.concatenate([part.matrix[live] for part, live in parts]))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def matrix(self) -> Matrix:
        """FAISS's own copy of the vectors, not to be written to."""
        flat: Matrix = faiss.rev_swig_ptr(self._index.get_xb(), len(self) * self._index.d)
        return flat.reshape(len(self), self._index.d)

    @property
    def size_bytes(self) -> int:
        """Memory of the vectors."""
        return len(self) * int(self._index.d) * np.dtype(np.float32).itemsize

    def search(self, query: NDArray[np.float32], count: int, live: Mask) -> tuple[NDArray[np.float32], Rows]:
        """Cosines and rows of the best live rows, best first; fewer than `count` when fewer are live."""
        _one_thread()
        count = min(count, int(live.sum()))
        if count == 0:
            return np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)
        bitmap = np.packbits(live, bitorder="little")
        only_live = None if live.all() else _selector(bitmap)
        scores, rows = self._index.search(query[None, :], count, params=only_live)
        found = rows[0] != _NO_ROW
        return scores[0][found], rows[0][found]


def _selector(bitmap: NDArray[np.uint8]) -> Any:  # Any: FAISS adds these arguments at run time; its types lack them
    search_parameters: Any = faiss.SearchParameters
    bitmap_selector: Any = faiss.IDSelectorBitmap
    return search_parameters(sel=bitmap_selector(bitmap))


def _one_thread() -> None:
    """A query over two OpenMP threads was never faster and up to 40 times slower. The setting belongs to the thread."""
    faiss.omp_set_num_threads(1)
