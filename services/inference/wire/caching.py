"""Translates what calls let the cache do, and whether it answered them, between the contract and the model."""

from collections.abc import Mapping
from typing import Final

from google.protobuf.duration_pb2 import Duration

from parley.inference.v1 import generation_pb2
from services.inference.model import CacheHit, CacheUse, HitKind
from services.mesh.errors import invalid_field

_USES: Final[Mapping[generation_pb2.CacheUse.ValueType, CacheUse]] = {
    generation_pb2.CACHE_USE_UNSPECIFIED: CacheUse.ROUTE,
    generation_pb2.CACHE_USE_REFRESH: CacheUse.REFRESH,
    generation_pb2.CACHE_USE_OFF: CacheUse.OFF,
}
_KINDS: Final[Mapping[HitKind, generation_pb2.CacheHitKind.ValueType]] = {
    HitKind.EXACT: generation_pb2.CACHE_HIT_KIND_EXACT,
    HitKind.SEMANTIC: generation_pb2.CACHE_HIT_KIND_SEMANTIC,
    HitKind.SHARED: generation_pb2.CACHE_HIT_KIND_SHARED,
    HitKind.STALE: generation_pb2.CACHE_HIT_KIND_STALE,
}


def use(number: generation_pb2.CacheUse.ValueType) -> CacheUse:
    """What a caller lets the cache do.

    Raises:
        InvalidArgument: a value that the contract does not have: a stricter wish than we know must not be passed over.
    """
    found = _USES.get(number)
    if found is None:
        raise invalid_field("cache", "must be refresh or off")
    return found


def to_hit(hit: CacheHit | None) -> generation_pb2.CacheHit | None:
    """Where an answer came from; None for one that was made for its call."""
    if hit is None:
        return None
    return generation_pb2.CacheHit(kind=_KINDS[hit.kind], age=Duration(seconds=int(hit.age_s)))
