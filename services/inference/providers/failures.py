"""What can go wrong with a call to a provider, and what is done about it: one closed set of kinds, one table.

Knows no vendor: `faults.py` tells which status and code of which vendor is which kind.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Self

from services.inference.providers.allowances import Allowance
from services.mesh.errors import MeshError, Reason


class Kind(StrEnum):
    """What went wrong; a closed set, and a label of metrics."""

    RATE_LIMITED = "rate_limited"
    QUOTA_SPENT = "quota_spent"
    KEY_REFUSED = "key_refused"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    UNREACHABLE = "unreachable"
    SLOW = "slow"
    STALLED = "stalled"
    CUT = "cut"
    CORRUPT = "corrupt"
    ENDLESS = "endless"
    CONTEXT_LENGTH = "context_length"
    CONTENT_FILTERED = "content_filtered"
    REFUSED = "refused"
    MODEL_UNKNOWN = "model_unknown"
    OTHER = "other"


class Action(StrEnum):
    """Where the answer is asked for next."""

    RETRY_HERE = "retry_here"
    NEXT_KEY = "next_key"
    NEXT_TARGET = "next_target"
    LARGER_CONTEXT = "larger_context"
    GIVE_UP = "give_up"


ACTIONS: Final[Mapping[Kind, Action]] = MappingProxyType(
    {
        # The limit, the account or the refusal is the key's; another one may do.
        Kind.RATE_LIMITED: Action.NEXT_KEY,
        Kind.QUOTA_SPENT: Action.NEXT_KEY,
        Kind.KEY_REFUSED: Action.NEXT_KEY,
        # A server that says that it is overloaded is not asked again at once.
        Kind.OVERLOADED: Action.NEXT_TARGET,
        Kind.SERVER_ERROR: Action.RETRY_HERE,
        Kind.UNREACHABLE: Action.RETRY_HERE,
        # Who was slow once has cost its time already; the person who waits gets another one.
        Kind.SLOW: Action.NEXT_TARGET,
        Kind.STALLED: Action.NEXT_TARGET,
        Kind.CUT: Action.RETRY_HERE,
        Kind.CORRUPT: Action.RETRY_HERE,
        Kind.ENDLESS: Action.NEXT_TARGET,
        Kind.CONTEXT_LENGTH: Action.LARGER_CONTEXT,
        # A filtered prompt is not shown to one provider after another until one takes it.
        Kind.CONTENT_FILTERED: Action.GIVE_UP,
        Kind.REFUSED: Action.NEXT_TARGET,
        Kind.MODEL_UNKNOWN: Action.NEXT_TARGET,
        Kind.OTHER: Action.GIVE_UP,
    }
)
"""What is done first; where there is no other key or target, a transient kind is tried here again."""

TRANSIENT: Final = frozenset(
    {
        Kind.RATE_LIMITED,
        Kind.OVERLOADED,
        Kind.SERVER_ERROR,
        Kind.UNREACHABLE,
        Kind.SLOW,
        Kind.STALLED,
        Kind.CUT,
        Kind.CORRUPT,
    }
)
"""What may be gone a moment later."""

BLAMED: Final = frozenset(
    {
        Kind.OVERLOADED,
        Kind.SERVER_ERROR,
        Kind.UNREACHABLE,
        Kind.SLOW,
        Kind.STALLED,
        Kind.CUT,
        Kind.CORRUPT,
        Kind.ENDLESS,
    }
)
"""What speaks against the target itself, and so counts for its circuit breaker."""

_BY_REASON: Final[Mapping[Reason, Kind]] = MappingProxyType(
    {
        Reason.RATE_LIMITED: Kind.RATE_LIMITED,
        Reason.PROVIDER_UNAVAILABLE: Kind.SERVER_ERROR,
        Reason.PROVIDER_TIMEOUT: Kind.SLOW,
        Reason.PROVIDER_REJECTED: Kind.REFUSED,
        Reason.PROVIDER_MISCONFIGURED: Kind.KEY_REFUSED,
        Reason.MODEL_UNPRICED: Kind.REFUSED,
        Reason.MODEL_UNKNOWN: Kind.MODEL_UNKNOWN,
        Reason.CONTEXT_LENGTH_EXCEEDED: Kind.CONTEXT_LENGTH,
        Reason.CONTENT_FILTERED: Kind.CONTENT_FILTERED,
    }
)


class Failure(Exception):  # noqa: N818 - it is what happened to one attempt; the error that a client may see is in it
    """A call to a provider failed.

    Args:
        kind: what went wrong.
        error: the same in words that a client may see.
        allowance: what the key still had, as far as the provider said.
    """

    def __init__(self, kind: Kind, error: MeshError, *, allowance: Allowance | None = None) -> None:
        super().__init__(kind.value)
        self.kind = kind
        self.error = error
        self.allowance = allowance

    @classmethod
    def of(cls, error: MeshError) -> Self:
        """The failure that an error without a kind stands for."""
        return cls(_BY_REASON.get(error.reason, Kind.OTHER), error)
