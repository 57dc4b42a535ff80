"""When another model may take over, and what is said when none is left."""

from collections.abc import Sequence
from typing import Final

from services.mesh.errors import MeshError, ProviderUnavailable, Reason

# A filtered prompt is not shown to one provider after another until one takes it.
SWITCHABLE: Final = frozenset(
    {
        Reason.PROVIDER_UNAVAILABLE,
        Reason.PROVIDER_TIMEOUT,
        Reason.PROVIDER_REJECTED,
        Reason.RATE_LIMITED,
        Reason.MODEL_UNKNOWN,
        Reason.CONTEXT_LENGTH_EXCEEDED,
    }
)


def may_switch(error: MeshError, *, is_begun: bool) -> bool:
    """Whether the next model may be tried: not for every error, and never once text has been sent."""
    return not is_begun and error.reason in SWITCHABLE


def exhausted(errors: Sequence[MeshError], asked: str) -> MeshError:
    """The error of a call that tried every model: the one that all gave, or that none could answer."""
    if len({error.reason for error in errors}) == 1:
        return errors[0]
    waits = [error.retry_after_s for error in errors if error.retry_after_s is not None]
    return ProviderUnavailable(
        f"none of {len(errors)} models could answer",
        metadata={"model": asked},
        retry_after_s=min(waits, default=None),
    )
