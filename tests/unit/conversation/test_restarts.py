"""An answer that another model begins again: watchers are told from where, and what stood there is void."""

from services.conversation.events import AttemptStarted, ProviderSwitched, TextDelta
from services.conversation.model import ANSWER_PART_ID
from services.conversation.running.continuation import Continuation


def switched(offset: int) -> ProviderSwitched:
    return ProviderSwitched("a/x", "b/y", "PROVIDER_TIMEOUT", offset)


def test_switch_at_the_end_takes_nothing_back() -> None:
    continuation = Continuation(1, "", (), resumes=True)
    continuation.begin(is_takeover=False)
    continuation.text(0, "Half")

    assert continuation.step(switched(4)) == [switched(4)]


def test_switch_before_the_end_voids_what_stood_from_there_on() -> None:
    continuation = Continuation(1, "", (), resumes=True)
    continuation.begin(is_takeover=False)
    continuation.text(0, "Half an")

    assert continuation.step(switched(2)) == [switched(2), AttemptStarted(1, 2)]
    assert continuation.text(2, "llo") == [TextDelta(ANSWER_PART_ID, 2, "llo")]


def test_attempt_that_follows_an_older_text_goes_back_silently() -> None:
    continuation = Continuation(2, "Hello there", (), resumes=True)
    continuation.begin(is_takeover=True)
    continuation.text(0, "Hello")

    assert continuation.step(switched(2)) == []
    assert continuation.text(2, "llo") == []
    assert continuation.text(5, " there!") == [
        AttemptStarted(2, 11),
        switched(2),
        TextDelta(ANSWER_PART_ID, 11, "!"),
    ]
