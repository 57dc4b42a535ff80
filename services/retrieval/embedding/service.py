"""Vectors for whoever asks: off the event loop, those of several callers together, cached for questions.

Questions and passages have a batcher each, and both send to the one thread of the encoder, which they take in turns: a
question waits for one batch of passages at most, however many there are. A batch is as large as one run of the encoder.
"""

import asyncio
import unicodedata
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from typing import Final

import numpy as np

from services.mesh.errors import ModelUnknown
from services.mesh.groupcommit import GroupCommit
from services.mesh.tasks import BoundedExecutor
from services.retrieval.embedding.cache import VectorCache
from services.retrieval.embedding.encoder import Encoder, Vectors
from services.retrieval.model import Vector

# On a CPU a larger batch is no faster and delays its first text. Questions together cost some two thirds of what they
# cost alone, eight as much as sixteen; long passages cost the same in any company. `make bench-embedding` measures it.
_BATCH_TOKENS_MAX: Final = 1_024
_BATCH_TEXTS_MAX: Final = 16
_PENDING_MAX: Final = 1_024
_QUEUE_MAX: Final = 64
# What one caller has in a batcher at once, so that nobody waits for all of another one's texts.
_STRIDE: Final = 16
_CHARACTERS_PER_TOKEN: Final = 4
_SPECIAL_TOKENS: Final = 2  # one in front, one behind


class Embedder:
    """Encodes questions and passages; make it with `open_embedder`."""

    def __init__(
        self,
        encoder: Encoder,
        cache: VectorCache,
        tokenizer: BoundedExecutor,
        questions: GroupCommit[str, Vector],
        passages: GroupCommit[str, Vector],
    ) -> None:
        self._encoder = encoder
        self._cache = cache
        self._tokenizer = tokenizer
        self._questions = questions
        self._passages = passages

    @property
    def revision(self) -> str:
        """Of the encoder."""
        return self._encoder.revision

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._encoder.dimension

    def require(self, model: str) -> None:
        """Accepts the name of the encoder, with its revision or without; empty for whichever it is.

        Raises:
            ModelUnknown: it is another one's.
        """
        name = self.revision.partition("@")[0]
        if model not in {"", name, self.revision}:
            raise ModelUnknown(f"no such encoder: {name!r} is the one of this platform", metadata={"model": model})

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
            vectors = await _in_strides(self._questions, list(missing.values()))
            fresh = dict(zip(missing, vectors, strict=True))
            await self._cache.put(fresh)
            known |= fresh
        return np.stack([known[key] for key in keys])

    async def embed_passages(self, texts: Sequence[str]) -> Vectors:
        """One vector per text, not cached.

        Raises:
            Overloaded: too many passages wait.
        """
        return np.stack(await _in_strides(self._passages, texts))

    async def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens that the encoder reads of all texts together, special ones included.

        Raises:
            Overloaded: too many jobs wait for the tokenizer.
        """
        counts = await self._tokenizer.run(self._encoder.count_tokens, texts)
        return sum(min(count + _SPECIAL_TOKENS, self._encoder.tokens_max) for count in counts)


@asynccontextmanager
async def open_embedder(encoder: Encoder, cache: VectorCache) -> AsyncIterator[Embedder]:
    """The embedder of a process. One thread runs the encoder, which spreads over the cores that it owns by itself."""
    async with AsyncExitStack() as stack:
        tokenizer = await stack.enter_async_context(BoundedExecutor("tokenizer", threads=1, queue_max=_QUEUE_MAX))
        executor = await stack.enter_async_context(BoundedExecutor("encoder", threads=1, queue_max=_QUEUE_MAX))

        async def encode(texts: Sequence[str]) -> Sequence[Vector]:
            return list(await executor.run(encoder.encode, texts))

        def weigh(text: str) -> int:
            tokens = min(len(text) // _CHARACTERS_PER_TOKEN, encoder.tokens_max)
            return max(tokens, _BATCH_TOKENS_MAX // _BATCH_TEXTS_MAX)

        questions, passages = [
            await stack.enter_async_context(
                GroupCommit(encode, name=name, batch_max=_BATCH_TOKENS_MAX, pending_max=_PENDING_MAX, weigh=weigh)
            )
            for name in ("questions", "passages")
        ]
        yield Embedder(encoder, cache, tokenizer, questions, passages)


async def _in_strides(batcher: GroupCommit[str, Vector], texts: Sequence[str]) -> list[Vector]:
    """Vectors of the texts of one caller, who lets others in between."""
    vectors: list[Vector] = []
    for start in range(0, len(texts), _STRIDE):
        vectors += await asyncio.gather(*(batcher.add(text) for text in texts[start : start + _STRIDE]))
    return vectors
