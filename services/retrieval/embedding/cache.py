"""Vectors of questions that were asked before: a small cache in the process, and one in Valkey for all replicas.

A cache is a convenience: when it cannot be reached, questions are encoded again and nobody waits for it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import numpy as np

from services.mesh import telemetry
from services.mesh.errors import MeshError
from services.mesh.valkey import Client
from services.retrieval.model import Vector

# Encoding takes 4 ms; a cache that takes longer than a few of those is not worth waiting for.
_TIMEOUT_S: Final = 0.05
_LIFE_S: Final = 24 * 3600
_PREFIX: Final = "parley:retrieval:vector:"
_FORMAT: Final = "<f4"

_log = telemetry.logger("retrieval.cache")
_LOOKUPS: Final = telemetry.counter(
    "parley_retrieval_vector_lookups", "Look-ups of question vectors by where they were found.", ["found"]
)


class VectorCache(Protocol):
    """Vectors by key. Neither method raises: what cannot be reached is not there."""

    async def get(self, keys: Sequence[str]) -> dict[str, Vector]:
        """Those that are there."""
        ...

    async def put(self, vectors: Mapping[str, Vector]) -> None:
        """Remembers them for a while."""
        ...


class LocalVectors:
    """The last vectors of this process, with an optional cache behind them."""

    def __init__(self, entries_max: int, behind: VectorCache | None) -> None:
        self._entries_max = entries_max
        self._behind = behind
        self._entries: OrderedDict[str, Vector] = OrderedDict()

    async def get(self, keys: Sequence[str]) -> dict[str, Vector]:
        """See `VectorCache.get`."""
        found = {key: self._entries[key] for key in keys if key in self._entries}
        for key in found:
            self._entries.move_to_end(key)
        missing = [key for key in keys if key not in found]
        shared = await self._behind.get(missing) if missing and self._behind else {}
        self._remember(shared)
        _LOOKUPS.labels("process").inc(len(found))
        _LOOKUPS.labels("shared").inc(len(shared))
        _LOOKUPS.labels("nowhere").inc(len(missing) - len(shared))
        return found | shared

    async def put(self, vectors: Mapping[str, Vector]) -> None:
        """See `VectorCache.put`."""
        self._remember(vectors)
        if self._behind:
            await self._behind.put(vectors)

    def _remember(self, vectors: Mapping[str, Vector]) -> None:
        for key, vector in vectors.items():
            self._entries[key] = vector
            self._entries.move_to_end(key)
        while len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)


class ValkeyVectors:
    """Vectors in Valkey, shared by all replicas."""

    def __init__(self, client: Client, *, dimension: int) -> None:
        self._client = client
        self._bytes = dimension * np.dtype(_FORMAT).itemsize

    async def get(self, keys: Sequence[str]) -> dict[str, Vector]:
        """See `VectorCache.get`."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                found = await self._client.mget([_PREFIX + key for key in keys])
        except (MeshError, TimeoutError) as error:
            _log.warning("vector_cache_unreachable", error=repr(error))
            return {}
        pairs = zip(keys, found, strict=True)
        return {
            key: np.frombuffer(packed, _FORMAT)
            for key, packed in pairs
            if isinstance(packed, bytes) and len(packed) == self._bytes
        }

    async def put(self, vectors: Mapping[str, Vector]) -> None:
        """See `VectorCache.put`."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._client.batch(
                    [
                        ("SET", _PREFIX + key, vector.astype(_FORMAT).tobytes(), "EX", _LIFE_S)
                        for key, vector in vectors.items()
                    ]
                )
        except (MeshError, TimeoutError) as error:
            _log.warning("vector_cache_unreachable", error=repr(error))
