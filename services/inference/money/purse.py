"""The seam between generating and paying: each attempt reserves before it calls a provider, and settles afterwards.

    reservation = await purse.reserve(payer, Estimate(...))     # refused here: nothing was called
    ...
    reservation.commit(usage)                                   # or release(), when nothing was consumed

Settling never waits and never fails, so it may stand in a `finally`; a reservation that is never settled lapses.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from services.inference.catalog import ModelCard
from services.inference.model import Usage


class Purpose(StrEnum):
    """What a call is for."""

    ANSWER = "answer"
    REWRITE = "rewrite"
    SUMMARY = "summary"
    EVALUATION = "evaluation"
    EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payer:
    """Who pays for a call.

    Attributes:
        organization_id: the tenant.
        user_id: on whose behalf the call is made.
        credential_id: the API key, login session or workload behind it.
        purpose: what the call is for.
        is_repeat: an earlier call for the same answer was counted as a request already.
    """

    organization_id: str
    user_id: str
    credential_id: str
    purpose: Purpose = Purpose.ANSWER
    is_repeat: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What one attempt will consume at most, as far as one can tell before it.

    Attributes:
        model: `<provider>/<model>` that will be called.
        card: what the catalog knows of it; without one its cost is unknown, which a budget of money refuses.
        input_tokens: of the assembled prompt.
        output_tokens: that the answer may have, or is assumed to have when nobody limits it.
        time_s: seconds after which the attempt is over, whatever happens; the reservation lapses some time later.
        is_repeat: another attempt at a request that has been counted already.
    """

    model: str
    card: ModelCard | None
    input_tokens: int
    output_tokens: int
    time_s: float
    is_repeat: bool = False


class Reservation(Protocol):
    """What is held for one attempt. The first settlement counts; later ones do nothing."""

    @property
    def output_tokens_max(self) -> int | None:
        """Length of answer that the budgets still pay for; None when no budget bounds it."""
        ...

    def commit(self, usage: Usage) -> None:
        """The attempt consumed this much."""
        ...

    def release(self) -> None:
        """The attempt consumed nothing."""
        ...


class Purse(Protocol):
    """Where attempts are paid from."""

    async def reserve(self, payer: Payer, estimate: Estimate) -> Reservation:
        """Holds what an attempt may consume.

        Raises:
            QuotaExhausted: a budget of money has no room for it; `retry_after_s` tells until when.
            RateLimited: a limit per minute is reached.
            ModelUnpriced: a budget limits money, and nobody knows what the model costs.
            Unavailable: there is a budget, and the database that keeps it cannot be reached.
        """
        ...


class _Nothing:
    """A reservation of nothing."""

    output_tokens_max: Final = None

    def commit(self, usage: Usage) -> None:
        """See `Reservation.commit`."""

    def release(self) -> None:
        """See `Reservation.release`."""


class FreePurse:
    """Implements `Purse` where nobody counts."""

    _NOTHING: Final = _Nothing()

    async def reserve(self, payer: Payer, estimate: Estimate) -> Reservation:
        """See `Purse.reserve`."""
        return self._NOTHING


FREE: Final = FreePurse()
NOBODY: Final = Payer(organization_id="", user_id="", credential_id="")
"""Pays where nobody counts."""
