"""Who is asked next for one answer, and after how long; and what is said when there is nobody left."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.inference import metrics
from services.inference.generating.retries import Budgets, Patience
from services.inference.providers.failures import ACTIONS, TRANSIENT, Action, Failure, Kind
from services.inference.routing import Target
from services.inference.standing.standings import Admission, Blocked, Standings
from services.mesh.errors import (
    DeadlineExceeded,
    MeshError,
    ProviderMisconfigured,
    ProviderUnavailable,
    RateLimited,
    Reason,
)

RETRY_AFTER_S: Final = 2.0
"""Asked of callers when nobody knows better: the pause after which most of these faults were gone."""

_BLOCKED: Final[dict[Kind, tuple[type[MeshError], str]]] = {
    Kind.RATE_LIMITED: (RateLimited, "the provider limits the rate of calls"),
    Kind.KEY_REFUSED: (ProviderMisconfigured, "the provider refused the operator's key"),
}


@dataclass(frozen=True, slots=True)
class Next:
    """The answer is to be asked for at `target`, after a pause."""

    target: Target
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tactics:
    """What decides who is asked, shared by all calls of a process.

    Attributes:
        standings: who may be asked, and what is remembered of each.
        budgets: what repeats may cost.
        patience: how often and how long the same target is tried.
        chance: draws pauses.
    """

    standings: Standings = field(default_factory=Standings)
    budgets: Budgets = field(default_factory=Budgets)
    patience: Patience = field(default_factory=Patience)
    chance: Callable[[], float] = random.random


class Course:
    """The way of one call through its targets.

    Args:
        targets: in their order, never empty.
        tactics: what decides who is asked.
    """

    def __init__(self, targets: Sequence[Target], tactics: Tactics) -> None:
        self._targets = list(targets)
        self._asked = targets[0].name
        self._tactics = tactics
        self._patience = tactics.patience
        self._repeats = 0
        self._tried: set[str] = set()
        self._errors: list[MeshError] = []
        self._has_earned = False

    @property
    def target(self) -> Target:
        """Who is to be asked."""
        return self._targets[0]

    async def admit(self, tokens: int, left_s: float) -> Admission | Next:
        """A key of the target for a call of about `tokens`, or who is to be asked instead.

        Raises:
            MeshError: nobody may be asked now.
        """
        found = await self._tactics.standings.admit(self.target, tokens, without=self._tried)
        if isinstance(found, Blocked):
            return self._after_block(found, left_s)
        if not self._has_earned:
            self._has_earned = True
            self._tactics.budgets.earn(self.target.profile.name)
        return found

    def after(self, failure: Failure, *, key_id: str = "", left_s: float, is_begun: bool = False) -> Next:
        """Who is asked after `failure`; an answer that has begun goes on elsewhere rather than where it broke off.

        Raises:
            MeshError: nobody.
        """
        self._errors.append(failure.error)
        action = ACTIONS[failure.kind]
        if action is Action.GIVE_UP:
            raise failure.error
        if action is Action.LARGER_CONTEXT:
            return self._larger(failure)
        if action is Action.NEXT_KEY and key_id:
            self._tried.add(key_id)
            if any(key.id not in self._tried for key in self.target.keys):
                return Next(self.target)
        has_others = len(self._targets) > 1
        if action is Action.RETRY_HERE and has_others and not is_begun and self._may_repeat(self._patience.here_max):
            return self._repeat(0.0)
        if has_others:
            return self.skip()
        wait_s = failure.error.retry_after_s or 0.0
        is_worth_it = failure.kind in TRANSIENT and wait_s <= min(self._patience.wait_s_max, left_s)
        if is_worth_it and self._may_repeat(self._patience.last_max):
            return self._repeat(wait_s)
        raise self.exhausted()

    def skip(self) -> Next:
        """The next target, whatever the present one could still do.

        Raises:
            MeshError: there is none.
        """
        if len(self._targets) == 1:
            raise self.exhausted()
        del self._targets[0]
        self._repeats = 0
        self._tried.clear()
        self._has_earned = False
        return Next(self.target)

    def exhausted(self) -> MeshError:
        """The error of a call that tried everybody: the one that all gave, or that none could answer."""
        waits = [error.retry_after_s for error in self._errors if error.retry_after_s is not None]
        wait_s = min(waits, default=RETRY_AFTER_S)
        if not self._errors:
            return DeadlineExceeded("too little time is left to ask anybody")
        # Where somebody else has read the prompt, what they said of it tells more than a key that nobody could use.
        read = [error for error in self._errors if error.reason is not Reason.PROVIDER_MISCONFIGURED] or self._errors
        first = read[0]
        if len({error.reason for error in read}) > 1:
            return ProviderUnavailable(
                f"none of {len(self._errors)} attempts was answered",
                metadata={"model": self._asked},
                retry_after_s=wait_s,
            )
        may_pass = isinstance(first, ProviderUnavailable) and first.retry_after_s is None
        return type(first)(
            first.message,
            metadata=first.metadata,
            fields=first.fields,
            retry_after_s=wait_s if may_pass or waits else None,
        )

    def _after_block(self, blocked: Blocked, left_s: float) -> Next:
        error, words = _BLOCKED.get(blocked.kind, (ProviderUnavailable, "the provider cannot answer now"))
        self._errors.append(error(words, metadata={"model": self.target.name}, retry_after_s=blocked.wait_s or None))
        is_short = 0 < blocked.wait_s <= min(self._patience.wait_s_max, left_s)
        is_last = len(self._targets) == 1
        if is_last and is_short and blocked.kind is Kind.RATE_LIMITED and self._repeats < self._patience.last_max:
            # No call was made, so this costs nobody a repeat; the wait is what the provider asked for.
            self._repeats += 1
            self._tried.clear()
            return Next(self.target, blocked.wait_s)
        return self.skip()

    def _larger(self, failure: Failure) -> Next:
        """The next target whose window is larger, or is not known.

        Raises:
            MeshError: there is none.
        """
        card = self.target.card
        while len(self._targets) > 1:
            self.skip()
            other = self.target.card
            if card is None or other is None or other.context_tokens > card.context_tokens:
                return Next(self.target)
        raise failure.error

    def _may_repeat(self, repeats_max: int) -> bool:
        return self._repeats < repeats_max and self._tactics.budgets.spend(self.target.profile.name)

    def _repeat(self, wait_s: float) -> Next:
        pause_s = max(wait_s, self._patience.pause_s(self._repeats, self._tactics.chance))
        self._repeats += 1
        self._tried.clear()
        metrics.repeated(self.target)
        return Next(self.target, pause_s)
