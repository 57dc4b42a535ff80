"""What operators see of the cache; labels are closed sets."""

from typing import Final

from services.mesh.telemetry import counter

CALLS: Final = counter(
    "parley_inference_cache_calls",
    "Calls of routes with a cache, by where their answer came from: exact, semantic, shared, stale, made, or bypassed.",
    ["result"],
)
STORED: Final = counter(
    "parley_inference_cache_answers",
    "Answers that were made, by whether they are stored: stored, unfit, too_large, unreachable.",
    ["result"],
)
SAVED: Final = counter(
    "parley_inference_cache_saved_cost_micros",
    "What stored answers cost when they were made, in millionths of a US dollar, each time that one served again.",
)
"""Shared answers are not in it: what they cost is known at their end only, when their readers may have left."""
VECTORS: Final = counter(
    "parley_inference_cache_vectors",
    "Vectors that were asked for, by whether they came: found, unreachable.",
    ["result"],
)
FLIGHTS: Final = counter(
    "parley_inference_cache_flights",
    "Calls that could be shared, by how they ended: landed, failed, left by all readers.",
    ["result"],
)
PURGES: Final = counter(
    "parley_inference_cache_purges",
    "Times that answers were made void by hand, by reach: organization, model.",
    ["reach"],
)
