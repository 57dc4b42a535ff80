"""Organization to shard, and what else of shards is a number: known to settings, processes and commands alike."""

from collections.abc import Iterable
from hashlib import sha256
from typing import Final
from zlib import crc32

SHARDS_COUNT: Final = 64
"""Logical shards; `shard_of` depends on it, so it is for ever."""
MAIN: Final = "main"
"""Name of the instance of `PARLEY_DATABASE_URL`."""
_KEY_BITS: Final = 48
_INSTANCES_BITS: Final = 15


def shard_of(organization_id: str) -> int:
    """The shard of an organization, for ever; PostgreSQL computes the same."""
    return sha256(organization_id.encode()).digest()[0] % SHARDS_COUNT


def first_key(instance: str) -> int:
    """Where generated numbers of an instance begin, so that no two instances ever give the same one."""
    if instance == MAIN:
        return 1
    return (1 + crc32(instance.encode()) % ((1 << _INSTANCES_BITS) - 1)) << _KEY_BITS


def check_names(instances: Iterable[str]) -> None:
    """Raises ValueError when two instances would generate the same numbers."""
    keys: dict[int, str] = {}
    for name in instances:
        other = keys.setdefault(first_key(name), name)
        if other != name:
            raise ValueError(f"{name!r} and {other!r} would generate the same numbers: choose another name for one")
