"""Vectors for whoever asks: off the event loop, batched under load, cached for questions."""

import asyncio
import unicodedata
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from typing import Final

import numpy as np

from services.mesh.groupcommit import GroupCommit
from services.mesh.tasks import BoundedExecutor
from services.retrieval.embedding.cache import VectorCache
from services.retrieval.embedding.encoder import Encoder, Vectors
from services.retrieval.model import Vector

# On a CPU a larger batch is no faster and delays its first question; see the encoder's measurements.
_BATCH_QUESTIONS_MAX: Final = 16
_PENDING_MAX: Final = 1_024
_QUEUE_MAX: Final = 64


class Embedder:
    """Encodes questions and passages; make it with `open_embedder`."""

    def __init__(
        self,
        encoder: Encoder,
        cache: VectorCache,
        executor: BoundedExecutor,
        questions: GroupCommit[str, Vector],
    ) -> None:
        self._encoder = encoder
        self._cache = cache
        self._executor = executor
        self._questions = questions

    @property
    def revision(self) -> str:
        """Of the encoder."""
        return self._encoder.revision

    async def embed_questions(self, texts: Sequence[str]) -> Vectors:
        """One vector per question, from the cache where it was asked before. Spelling variants of Unicode are one.

        Raises:
            Overloaded: too many questions wait.
        """
        normal = [unicodedata.normalize("NFKC", text) for text in texts]
        keys = [f"{self.revision}:{sha256(text.encode()).hexdigest()}" for text in normal]
        known = await self._cache.get(list(dict.fromkeys(keys)))
        missing = {key: text for key, text in zip(keys, normal, strict=True) if key not in known}
        if missing:
            vectors = await asyncio.gather(*(self._questions.add(text) for text in missing.values()))
            fresh = dict(zip(missing, vectors, strict=True))
            await self._cache.put(fresh)
            known |= fresh
        return np.stack([known[key] for key in keys])

    async def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """One vector per text, not cached.

        Raises:
            Overloaded: too many jobs wait for the encoder.
        """
        return await self._executor.run(self._encoder.encode, texts)

    async def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens that the encoder reads of all texts together, special ones included."""
        counts = await self._executor.run(self._encoder.count_tokens, texts)
        return sum(min(count + _SPECIAL_TOKENS, self._encoder.tokens_max) for count in counts)


_SPECIAL_TOKENS: Final = 2  # one in front, one behind


@asynccontextmanager
async def open_embedder(encoder: Encoder, cache: VectorCache) -> AsyncIterator[Embedder]:
    """The embedder of a process. One thread runs the encoder, which spreads over the cores that it owns by itself."""
    async with AsyncExitStack() as stack:
        executor = await stack.enter_async_context(BoundedExecutor("encoder", threads=1, queue_max=_QUEUE_MAX))

        async def encode(texts: Sequence[str]) -> Sequence[Vector]:
            return list(await executor.run(encoder.encode, texts))

        questions = await stack.enter_async_context(
            GroupCommit(encode, name="questions", batch_max=_BATCH_QUESTIONS_MAX, pending_max=_PENDING_MAX)
        )
        yield Embedder(encoder, cache, executor, questions)
