"""A consumer's book-keeping: what was acknowledged in any order is committed up to the first open message."""

import pytest

from services.conversation.model import ConversationId, TurnId
from services.conversation.queue.body import UnreadableError, dead_letter, decode, encode
from services.conversation.queue.ledger import Ledger
from services.conversation.queue.port import BACKOFF_MAX, JITTER, backoff_s
from services.conversation.store.work import TurnRef


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ref(name: str) -> TurnRef:
    return TurnRef("org_acme", ConversationId("conv_1"), TurnId(name))


def filled(*names: str, first: int = 10) -> Ledger:
    ledger = Ledger(chance=lambda: 0.0)
    for offset, name in enumerate(names, first):
        ledger.add(3, offset, ref(name))
    return ledger


def test_nothing_is_committed_before_it_is_acknowledged() -> None:
    ledger = filled("a", "b")
    ledger.take(2)

    assert ledger.commits() == {}


def test_the_position_stops_at_the_first_open_message() -> None:
    ledger = filled("a", "b", "c")
    a, b, c = ledger.take(3)

    ledger.acknowledge(b.token)
    assert ledger.commits() == {}
    ledger.acknowledge(a.token)
    assert ledger.commits() == {3: 12}
    ledger.acknowledge(c.token)
    assert ledger.commits() == {3: 13}
    assert ledger.commits() == {}


def test_a_lost_commit_is_told_again() -> None:
    ledger = filled("a")
    ledger.acknowledge(ledger.take(1)[0].token)

    assert ledger.commits() == {3: 11}
    ledger.uncommitted(3)
    assert ledger.commits() == {3: 11}


def test_all_messages_of_a_turn_are_done_with_it() -> None:
    ledger = filled("a", "b", "a")
    a, b = ledger.take(5)

    ledger.acknowledge(b.token)
    assert ledger.commits() == {}
    ledger.acknowledge(a.token)
    assert ledger.commits() == {3: 13}


def test_a_skipped_message_holds_nothing_up() -> None:
    ledger = filled("a")
    ledger.skip(3, 11)
    ledger.acknowledge(ledger.take(1)[0].token)

    assert ledger.commits() == {3: 12}


def test_partitions_that_moved_away_are_forgotten() -> None:
    ledger = filled("a", "b")
    ledger.add(4, 0, ref("c"))
    (a,) = ledger.take(1)

    ledger.forget([3, 7])
    ledger.acknowledge(a.token)

    assert ledger.commits() == {}
    assert (ledger.waiting, ledger.held) == (1, 1)
    assert [delivery.ref for delivery in ledger.take(5)] == [ref("c")]


def test_a_topic_that_was_made_anew_begins_anew() -> None:
    ledger = filled("a", "b", first=100)
    ledger.take(2)

    ledger.add(3, 0, ref("a"))
    (again,) = ledger.take(5)
    ledger.acknowledge(again.token)

    assert ledger.commits() == {3: 1}


def test_what_waits_here_is_not_due() -> None:
    assert filled("a").due(count_max=5, idle_s=0.0) == []


def test_a_message_that_came_again_pauses_longer() -> None:
    clock = Clock()
    ledger = Ledger(clock=clock, chance=lambda: 0.0)
    ledger.add(0, 0, ref("a"))
    ledger.take(1)
    pauses = []
    for _ in range(3):
        begun = clock.now
        while not (due := ledger.due(count_max=1, idle_s=10.0)):
            clock.now += 1.0
        pauses.append(clock.now - begun)
        ledger.hand_out_again(due[0])

    assert pauses == [10.0, 20.0, 20.0]


def test_a_pause_is_bounded_and_jittered() -> None:
    assert backoff_s(10.0, 1, 0.0) == 10.0
    assert backoff_s(10.0, 60, 0.0) == 10.0 * BACKOFF_MAX
    assert backoff_s(10.0, 2, 0.5) == 20.0 * (1 + JITTER / 2)
    assert backoff_s(0.0, 5, 0.9) == 0.0


def test_a_turn_survives_the_way_through_a_message() -> None:
    assert decode(encode(ref("a"))) == ref("a")


@pytest.mark.parametrize("body", [b"", b"\xff", b"{}", b'["a", "b"]', b'["a", "b", 3]', b"null", "none"])
def test_what_names_no_turn_is_unreadable(body: bytes | str) -> None:
    with pytest.raises(UnreadableError):
        decode(body)
    assert dead_letter(body, "unreadable").ref is None
