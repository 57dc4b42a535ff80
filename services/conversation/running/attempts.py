"""When an answer that broke off is tried again, and after which pause.

Below this there are retries within one call, by gRPC and by inference; an attempt begins where those have given up. It
costs the turn nothing but time: the next one goes on with the text that stands.
"""

from typing import Final
from zlib import crc32

from services.mesh.errors import LEAVING, MeshError, Reason, Unavailable

TRANSIENT: Final = frozenset(
    {
        Reason.UNAVAILABLE,
        Reason.OVERLOADED,
        Reason.CANCELLED,  # a server that stops ends its calls so; a person's own cancellation never comes as an error
        Reason.DEADLINE_EXCEEDED,  # of one call: the turn's own deadline is watched elsewhere
        Reason.PROVIDER_UNAVAILABLE,
        Reason.PROVIDER_TIMEOUT,
        Reason.RATE_LIMITED,
        Reason.RETRIEVAL_UNAVAILABLE,
    }
)
"""What the same question may not meet again. A spent budget and a refusal stay what they are until somebody acts."""
HELD_S_MAX: Final = 10.0
"""A budget that says to come back this soon is not spent: calls that run hold the rest of it, or its day ends now."""
OURS: Final = frozenset({Reason.UNAVAILABLE, Reason.OVERLOADED, Reason.CANCELLED, Reason.DEADLINE_EXCEEDED})
"""Those that say something of our processes, and nothing that a person could make use of."""
UNSPENT_MAX: Final = 16
"""Times that a turn goes from one worker to the next without spending an attempt because inference left: rolling
restarts of that many replicas within one turn. What looks like that for longer is a fault."""
GROWTH: Final = 3.0
PAUSE_S_MAX: Final = 10.0
"""With five attempts and a first pause of a second, an outage of 12 to 23 seconds is outlasted, and once it is over no
turn waits longer than this."""
_SPREAD: Final = 2**32
_SUBJECT: Final = "subject_id"
"""Names whose budget it is, in the metadata of a limit of our own; a provider's names the model."""


def broke_off() -> Unavailable:
    """What is told of a turn that has no attempt left, where the cause says nothing to a person."""
    return Unavailable("the answer broke off too often; try again later")


def is_transient(error: MeshError) -> bool:
    """Whether another attempt may not meet this error."""
    if error.reason is Reason.QUOTA_EXHAUSTED:
        return error.retry_after_s is not None and error.retry_after_s <= HELD_S_MAX
    return error.reason in TRANSIENT


def waits_for_room(error: MeshError) -> bool:
    """Whether the attempt only met a limit per minute of whoever asks: no fault, and over sooner or later.

    A turn waits for that as long as its time allows: of many that wait, each minute lets only some through.
    """
    return error.reason is Reason.RATE_LIMITED and _SUBJECT in error.metadata


def is_handed_on(error: MeshError, *, fence: int, attempt: int) -> bool:
    """Whether the attempt broke off only because the process that wrote was told to leave: another one is there.

    Args:
        error: what the attempt met.
        fence: of the turn; each claim raises it, and those that spend no attempt raise it alone.
        attempt: of the turn.
    """
    return error.reason is Reason.UNAVAILABLE and LEAVING in error.metadata and fence - attempt < UNSPENT_MAX


def pause_s(turn_id: str, attempt: int, *, base_s: float, asked_s: float | None) -> float:
    """Seconds until the attempt after this one.

    Args:
        turn_id: gives the jitter, so that what failed together does not come back together.
        attempt: that broke off, from 1.
        base_s: the longest first pause; each further one is `GROWTH` times as long, `PAUSE_S_MAX` at most.
        asked_s: what the error asked for, which is never undercut.
    """
    chance = crc32(f"{turn_id} {attempt}".encode()) / _SPREAD
    own_s: float = min(base_s * GROWTH ** (attempt - 1), PAUSE_S_MAX) * (1.0 + chance) / 2.0
    return max(own_s, (asked_s or 0.0) * (1.0 + chance / 4.0))
