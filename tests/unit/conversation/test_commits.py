"""What the broker is told of what is done, and when."""

from services.conversation.model import ConversationId, TurnId
from services.conversation.queue.kafka.commits import REFUSED_S, Commits
from services.conversation.queue.ledger import Ledger
from services.conversation.store.work import TurnRef


class Worker:
    """Reads messages and is done with each at once; its clock goes by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ledger = Ledger()
        self.commits = Commits(self.ledger, clock=lambda: self.now)

    def does(self, partition: int, offset: int) -> None:
        turn = TurnId(f"turn_{partition}_{offset}")
        self.ledger.add(partition, offset, TurnRef("org_acme", ConversationId("conv_1"), turn))
        (delivery,) = self.ledger.take(1)
        self.ledger.acknowledge(delivery.token)


def test_what_is_done_is_told_once() -> None:
    worker = Worker()
    worker.does(3, 10)

    assert worker.commits.due() == {3: 11}
    worker.commits.answered([])

    assert worker.commits.due() == {}


def test_nothing_more_is_told_before_the_answer() -> None:
    worker = Worker()
    worker.does(3, 10)
    worker.commits.due()
    for offset in range(11, 20):
        worker.does(3, offset)
        worker.does(4, offset)

        assert worker.commits.due() == {}

    worker.commits.answered([])
    assert worker.commits.due() == {3: 20, 4: 20}


def test_what_was_refused_is_told_again_after_a_pause() -> None:
    worker = Worker()
    worker.does(3, 10)
    worker.does(4, 10)
    worker.commits.due()
    worker.commits.answered([3])

    assert worker.commits.due() == {}
    worker.now += REFUSED_S
    assert worker.commits.due() == {3: 11}


def test_a_refused_commit_is_told_again_as_a_whole() -> None:
    worker = Worker()
    worker.does(3, 10)
    worker.does(4, 10)
    worker.commits.due()
    worker.commits.refused()
    worker.now += REFUSED_S

    assert worker.commits.due() == {3: 11, 4: 11}


def test_who_leaves_tells_what_is_under_way_once_more() -> None:
    worker = Worker()
    worker.does(3, 10)
    worker.does(4, 10)
    worker.commits.due()
    worker.does(5, 10)

    assert worker.commits.last({3, 5}) == {3: 11, 5: 11}

    worker.commits.answered([])
    assert worker.commits.due() == {}


def test_who_leaves_some_partitions_tells_of_the_others_later() -> None:
    worker = Worker()
    worker.does(3, 10)
    worker.does(4, 10)

    assert worker.commits.last({3}) == {3: 11}
    assert worker.commits.due() == {4: 11}


def test_a_new_connection_owes_no_answer() -> None:
    worker = Worker()
    worker.does(3, 10)
    worker.commits.due()
    worker.does(3, 11)

    worker.commits.start()

    assert worker.commits.due() == {3: 12}
