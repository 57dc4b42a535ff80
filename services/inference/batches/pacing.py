"""How often batches are looked at, and how much is done at once."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

_POLL_SHARE: Final = 10
"""A vendor's batch is looked at again after a tenth of its age: short ones need not wait, long ones are not watched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The pace of runners.

    Attributes:
        lease_s: after this without a sign of life, another runner may take a batch.
        idle_s: pause when no batch wants anything.
        poll_s_min, poll_s_max: between two looks at a vendor's batch.
        retry_s: pause before a second attempt at an item, doubled with each further one.
        batches: that a process works on at once.
        answers: of a batch that a process makes at once, the ordinary way.
        chance: draws what pauses differ by, so that replicas do not work in step.
    """

    lease_s: float = 60.0
    idle_s: float = 1.0
    poll_s_min: float = 10.0
    poll_s_max: float = 300.0
    retry_s: float = 10.0
    batches: int = 4
    answers: int = 8
    chance: Callable[[], float] = random.random

    @property
    def lease(self) -> timedelta:
        """How long a claim holds without a sign of life."""
        return timedelta(seconds=self.lease_s)

    def poll_at(self, submitted_at: datetime, now: datetime) -> datetime:
        """When a vendor's batch is looked at again."""
        age_s = (now - submitted_at).total_seconds()
        pause_s = min(self.poll_s_max, max(self.poll_s_min, age_s / _POLL_SHARE))
        return now + timedelta(seconds=pause_s * (0.8 + 0.4 * self.chance()))

    def retry_at(self, attempts: int, now: datetime, *, asked_s: float | None = None) -> datetime:
        """When an item is tried again that failed so often; not before the time that somebody asked for."""
        pause_s = min(self.poll_s_max, self.retry_s * 2.0 ** max(0, attempts - 1))
        return now + timedelta(seconds=max(asked_s or 0.0, pause_s * (0.8 + 0.4 * self.chance())))
