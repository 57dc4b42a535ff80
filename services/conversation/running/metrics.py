"""What operators see of turns: how long people wait before their answer begins, and why turns fail."""

from collections.abc import Callable
from typing import Final

from services.conversation.events import PartStarted, TextDelta
from services.conversation.store.work import Claim, Ending
from services.mesh.telemetry import counter, histogram

# With the bounds of what is promised: 1 and 5 s in the queue, 0.15 and 0.4 s until the model begins.
_QUEUE_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_START_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

_QUEUED: Final = histogram(
    "parley_conversation_queue_wait_seconds",
    "From a turn's acceptance to its first claim, of turns that had no other one before them.",
    buckets=_QUEUE_BUCKETS_S,
)
_BEGUN: Final = histogram(
    "parley_conversation_answer_start_seconds",
    "From a turn's acceptance until its model is asked: all that is ours of the wait for the first token.",
    buckets=_START_BUCKETS_S,
)
_FIRST_TEXT: Final = histogram(
    "parley_conversation_first_text_seconds",
    "From a turn's acceptance to the first text of its answer, the provider's time included.",
    buckets=_START_BUCKETS_S,
)
_FAILED: Final = counter(
    "parley_conversation_turns_failed", "Turns that ended with an error, by its reason.", ["reason"]
)

Put = Callable[..., None]


def ended(ending: Ending) -> None:
    """A turn has ended."""
    if ending.error is not None:
        _FAILED.labels(ending.error.reason).inc()


def watched(put: Put, claim: Claim, *, clock: Callable[[], float], claimed_at: float) -> Put:
    """`put`, with a look at when the model begins and when its first text comes.

    Only first claims of turns that had nobody before them are measured: what others have waited for is not ours.

    Args:
        put: takes the steps of the answer.
        claim: the turn.
        clock: seconds that only grow.
        claimed_at: by that clock.
    """
    waited_s = claim.queued_s
    if waited_s is None or claim.hold.fence > 1:
        return put
    _QUEUED.observe(waited_s)
    accepted_at = claimed_at - waited_s
    # What goes on with another answer begins with that one's text, before any model is asked.
    is_begun = is_written = claim.continued is not None

    def watching(*steps: object) -> None:
        nonlocal is_begun, is_written
        put(*steps)
        if is_begun and is_written:
            return
        for step in steps:
            if isinstance(step, PartStarted) and not is_begun:
                is_begun = True
                _BEGUN.observe(clock() - accepted_at)
            elif isinstance(step, TextDelta) and not is_written:
                is_written = True
                _FIRST_TEXT.observe(clock() - accepted_at)

    return watching
