"""What a process remembers of what it wrote to a log."""

from services.conversation.model import ConversationId, TurnId
from services.conversation.queue.kafka.cluster import Span
from services.conversation.queue.kafka.published import TRUSTED_S, Published
from services.conversation.store.work import TurnRef

REF = TurnRef("org_acme", ConversationId("conv_1"), TurnId("turn_1"))


def written(offset: int) -> Published:
    published = Published(clock=lambda: 0.0)
    published.remember(REF, 3, offset)
    return published


def test_what_still_waits_is_not_missing() -> None:
    assert written(7).missing([REF], {3: Span(7, 8)}) == []


def test_what_was_read_is_missing() -> None:
    assert written(7).missing([REF], {3: Span(8, 9)}) == [REF]


def test_what_is_in_a_partition_that_is_done_is_missing() -> None:
    assert written(7).missing([REF], {4: Span(0, 9)}) == [REF]


def test_what_a_wiped_log_does_not_hold_is_missing() -> None:
    assert written(7).missing([REF], {3: Span(0, 7)}) == [REF]


def test_what_was_never_written_is_missing() -> None:
    published = Published()

    assert not published.knows_any([REF])
    assert published.missing([REF], {3: Span(0, 100)}) == [REF]


def test_what_was_dealt_with_is_missing() -> None:
    published = written(7)
    published.forget(REF)

    assert published.missing([REF], {3: Span(7, 8)}) == [REF]


def test_an_old_memory_is_not_trusted() -> None:
    now = [0.0]
    published = Published(clock=lambda: now[0])
    published.remember(REF, 3, 7)

    now[0] = TRUSTED_S - 1
    assert published.knows_any([REF])
    now[0] = TRUSTED_S
    assert not published.knows_any([REF])
    assert published.missing([REF], {3: Span(7, 8)}) == [REF]
