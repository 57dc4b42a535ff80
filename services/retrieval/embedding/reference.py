"""The other encoder: any sentence-transformers model, from a folder or the hub. Also what the default is held against.

Imported only when an operator asks for it: torch takes ten seconds and 600 MB.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from services.retrieval.embedding.encoder import EncoderError, Vectors, checked

_BATCH_TEXTS_MAX: Final = 32


class SentenceTransformerEncoder:
    """An Encoder on sentence-transformers.

    Args:
        model: folder of a saved model, or its name on the Hugging Face hub.
        threads: cores that torch may use.

    Raises:
        EncoderError: the package is not installed.
    """

    def __init__(self, model: str, *, threads: int) -> None:
        try:
            import sentence_transformers  # noqa: PLC0415 - see the module's docstring
            import torch  # noqa: PLC0415 - as above
        except ImportError as err:
            raise EncoderError(
                "this encoder needs the package sentence-transformers: pip install 'parley[sentence-transformers]'"
            ) from err
        torch.set_num_threads(threads)
        # Any: the package ships no types that mypy can follow without installing torch everywhere.
        self._model: Any = sentence_transformers.SentenceTransformer(model, device="cpu")
        self._lock = threading.Lock()  # tokenizers change their truncation in place
        self._revision = f"sentence-transformers:{Path(model).name if Path(model).exists() else model}"
        self._dimension = int(self._model.get_embedding_dimension() or 0)

    @property
    def revision(self) -> str:
        """See `Encoder.revision`."""
        return self._revision

    @property
    def dimension(self) -> int:
        """See `Encoder.dimension`."""
        return self._dimension

    @property
    def tokens_max(self) -> int:
        """See `Encoder.tokens_max`."""
        return int(self._model.max_seq_length)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `Encoder.encode`."""
        with self._lock:
            vectors = self._model.encode(
                list(texts), batch_size=_BATCH_TEXTS_MAX, normalize_embeddings=True, show_progress_bar=False
            )
        return checked(np.asarray(vectors, dtype=np.float32), rows=len(texts), dimension=self._dimension)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """See `Encoder.count_tokens`."""
        with self._lock:
            ids = self._model.tokenizer(list(texts), add_special_tokens=False, truncation=False)["input_ids"]
        return [len(row) for row in ids]
