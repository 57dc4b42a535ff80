"""Passwords: hashed with Argon2id in a bounded pool of threads, and judged without telling why they were refused."""

import asyncio
import os
from dataclasses import dataclass
from typing import Final

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from services.auth.model import PASSWORD_LENGTH_MAX, PASSWORD_LENGTH_MIN
from services.mesh.errors import invalid_field
from services.mesh.tasks import BoundedExecutor

QUEUE_PER_THREAD: Final = 2
"""Hashes that may wait per thread: at ~70 ms each, the last one in line waits about 0.2 s."""
_SALT_BYTES: Final = 16
_HASH_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one hash costs. The default is the first choice of OWASP's Password Storage Cheat Sheet (read 2026-11).

    Measured on one core: 68 ms. Threads do not help beyond the number of cores.
    """

    memory_kib: int = 19 * 1024
    passes: int = 2
    lanes: int = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a password was right; and then, where the stored hash is of another cost, the hash to store instead."""

    is_right: bool
    rehashed: str | None = None


class Passwords:
    """Hashes and verifies passwords, taken byte for byte as they were received.

    Args:
        cost: of new hashes; older ones are replaced when their owner logs in.
        pool: where the work is done, so that the event loop goes on. It refuses with `Overloaded` when it is full.
    """

    def __init__(self, pool: BoundedExecutor, cost: Cost | None = None) -> None:
        cost = cost or Cost()
        self._pool = pool
        self._hasher = PasswordHasher(
            time_cost=cost.passes,
            memory_cost=cost.memory_kib,
            parallelism=cost.lanes,
            hash_len=_HASH_BYTES,
            salt_len=_SALT_BYTES,
            type=Type.ID,
        )
        self._nobody: str | None = None
        self._nobody_lock = asyncio.Lock()

    async def hash(self, password: str) -> str:
        """The text to store for a password.

        Raises:
            Overloaded: too many hashes wait.
        """
        return await self._pool.run(self._hasher.hash, password)

    async def verify(self, stored: str | None, password: str) -> Verdict:
        """Whether `password` is the one behind `stored`. Without a stored hash the same work is done, for nothing.

        Raises:
            Overloaded: too many hashes wait.
        """
        reference = stored if stored is not None else await self._hash_of_nobody()
        is_right = await self._pool.run(self._is_right, reference, password)
        if stored is None or not is_right:
            return Verdict(is_right=False)
        if self._hasher.check_needs_rehash(stored):
            return Verdict(is_right=True, rehashed=await self.hash(password))
        return Verdict(is_right=True)

    async def prepare(self) -> None:
        """Makes what the first unknown account would otherwise wait for."""
        await self._hash_of_nobody()

    async def _hash_of_nobody(self) -> str:
        if self._nobody is None:
            async with self._nobody_lock:
                if self._nobody is None:
                    self._nobody = await self.hash(os.urandom(_SALT_BYTES).hex())
        return self._nobody

    def _is_right(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False


def check_password(field: str, password: str) -> None:
    """Refuses a new password of the wrong length.

    Lengths are in characters (NIST SP 800-63B section 3.1.1.2); there are no rules of composition.

    Raises:
        InvalidArgument: naming `field`, never the password.
    """
    if not PASSWORD_LENGTH_MIN <= len(password) <= PASSWORD_LENGTH_MAX:
        raise invalid_field(field, f"must have {PASSWORD_LENGTH_MIN} to {PASSWORD_LENGTH_MAX} characters")
