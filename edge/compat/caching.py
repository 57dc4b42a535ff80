"""What a request lets the cache do, and whether it answered, in headers: SDKs send and show them as they are."""

from typing import Final

from edge.http import Exchange, HeaderList
from parley.inference.v1 import generation_pb2

CACHE_HEADER: Final = "x-parley-cache"
"""Where an answer came from that was not made for the request: exact, semantic, shared or stale."""

_KINDS: Final = {
    generation_pb2.CACHE_HIT_KIND_EXACT: "exact",
    generation_pb2.CACHE_HIT_KIND_SEMANTIC: "semantic",
    generation_pb2.CACHE_HIT_KIND_SHARED: "shared",
    generation_pb2.CACHE_HIT_KIND_STALE: "stale",
}


def cache_use(exchange: Exchange) -> generation_pb2.CacheUse.ValueType:
    """What `Cache-Control` says: `no-store` wants nothing of the cache, `no-cache` an answer that is made anew."""
    values = exchange.headers("cache-control")
    if not values:
        return generation_pb2.CACHE_USE_UNSPECIFIED
    said = {directive.strip().lower() for value in values for directive in value.split(",")}
    if "no-store" in said:
        return generation_pb2.CACHE_USE_OFF
    return generation_pb2.CACHE_USE_REFRESH if "no-cache" in said else generation_pb2.CACHE_USE_UNSPECIFIED


def cache_headers(hit: generation_pb2.CacheHit | None) -> HeaderList:
    """Headers of an answer; none for one that was made for the request."""
    if hit is None or hit.kind not in _KINDS:
        return ()
    return ((CACHE_HEADER, _KINDS[hit.kind]), ("age", str(hit.age.seconds)))
