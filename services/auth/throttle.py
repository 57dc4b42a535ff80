"""How often a password may be tried: per account and altogether, counted before any hash is computed.

The count lies with all replicas' Valkey, and in one step, so that a hundred guesses at once are a hundred guesses.
Without Valkey each replica counts for itself: never unlimited, and never a lock that lasts.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

from services.mesh.clock import Clock
from services.mesh.errors import RateLimited
from services.mesh.limiter import TokenBucket


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`burst` tries at once, then one every `interval_s` seconds."""

    burst: int
    interval_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Limits of password tries; a right password gives its own try on the account back."""

    account: Rate
    everyone: Rate


class CounterUnavailableError(Exception):
    """The shared counter does not answer."""


class SharedCounter(Protocol):
    """Counts over all replicas."""

    async def take(self, account: str, rates: Rates) -> float:
        """Counts one try on `account` and on everyone, or none of both; seconds to wait, 0 when it was counted.

        Raises:
            CounterUnavailableError: it does not answer.
        """
        ...

    async def give_back(self, account: str, rates: Rates) -> None:
        """Takes one try on `account` back.

        Raises:
            CounterUnavailableError: it does not answer.
        """
        ...


class LoginThrottle:
    """Counts password tries."""

    def __init__(self, counter: SharedCounter, rates: Rates, clock: Clock) -> None:
        self._counter = counter
        self._rates = rates
        self._account = TokenBucket(rate=1 / rates.account.interval_s, burst=rates.account.burst, clock=clock)
        self._everyone = TokenBucket(rate=1 / rates.everyone.interval_s, burst=rates.everyone.burst, clock=clock)

    async def take(self, account: str) -> None:
        """Counts one try.

        Args:
            account: canonical name of the account, whether or not there is one.

        Raises:
            RateLimited: there were too many; it tells when to come back, and not whether the account exists.
        """
        name = _name(account)
        try:
            wait_s = await self._counter.take(name, self._rates)
        except CounterUnavailableError:
            self._account.take(name)
            self._everyone.take("")
            return
        if wait_s > 0:
            raise RateLimited("too many attempts to log in", retry_after_s=wait_s)

    async def give_back(self, account: str) -> None:
        """The try was good: who knows the password is not counted among those who guess it."""
        try:
            await self._counter.give_back(_name(account), self._rates)
        except CounterUnavailableError:
            return  # the local limit forgives nothing


def _name(account: str) -> str:
    """Valkey and its logs get no e-mail addresses."""
    return hashlib.sha256(account.encode()).hexdigest()
