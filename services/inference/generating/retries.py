"""How often, and after how long, the same target is asked again: full jitter, and a budget that outages cannot drain.

Source of both: Brooker, "Exponential Backoff And Jitter" (2015), and the retry budgets of Finagle and SRE chapter 21.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

SHARE: Final = 0.2
"""Calls to a provider that may be repeats, in addition to its first calls."""
RESERVE: Final = 2.0
"""Repeats that a provider without recent calls has, so that a quiet system tries again at all."""
SAVED_MAX: Final = 10.0
"""Repeats that a good hour may save for a bad minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long and how often to try again.

    Attributes:
        base_s: the first pause is drawn from 0 to this; each further one from twice as much.
        pause_s_max: no pause is longer.
        here_max: repeats at a target while there is another one to go to.
        last_max: repeats at the last target.
        wait_s_max: longer waits that a provider asks for are passed on to the caller instead.
    """

    base_s: float = 0.2
    pause_s_max: float = 2.0
    here_max: int = 1
    last_max: int = 2
    wait_s_max: float = 2.0

    def pause_s(self, repeat: int, chance: Callable[[], float] = random.random) -> float:
        """The pause before the repeat with this number, from 0."""
        return chance() * min(self.pause_s_max, self.base_s * 2.0**repeat)


IMPATIENT: Final = Patience(here_max=0, last_max=0)
"""Asks nobody twice."""


class Budgets:
    """Repeats that each provider may still cost: its first calls earn them, `SHARE` each."""

    def __init__(self) -> None:
        self._left: dict[str, float] = {}

    def earn(self, provider: str) -> None:
        """A first call is made."""
        self._left[provider] = min(self._left.get(provider, RESERVE) + SHARE, SAVED_MAX)

    def spend(self, provider: str) -> bool:
        """Whether a repeat may be made; if so, it is paid."""
        left = self._left.get(provider, RESERVE)
        if left < 1.0:
            return False
        self._left[provider] = left - 1.0
        return True
