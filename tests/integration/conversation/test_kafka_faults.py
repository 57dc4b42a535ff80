"""The queue on Kafka when a broker answers with errors, on librdkafka's mock cluster: no Java needed."""

from collections.abc import AsyncIterator, Iterator

import pytest
from confluent_kafka import KafkaError

from services.conversation.model import ConversationId, TurnId
from services.conversation.queue.kafka.cluster import KafkaOptions
from services.conversation.queue.kafka.queue import KafkaQueue, open_kafka_queue
from services.conversation.store.work import TurnRef
from services.mesh.errors import Unavailable
from tests.support.kafka import WITHIN_S, joined, own_topic, published, received, until_away, until_depth
from tests.support.kafka_mock import MockCluster, Request, mock_cluster
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def mock() -> Iterator[MockCluster]:
    with mock_cluster() as cluster:
        yield cluster


@pytest.fixture
def options(mock: MockCluster) -> KafkaOptions:
    options = own_topic(mock.bootstrap)
    mock.make_topic(options.topic)
    mock.make_topic(options.dead_topic, partitions=1)
    return options


@pytest.fixture
async def queue(options: KafkaOptions) -> AsyncIterator[KafkaQueue]:
    async with open_kafka_queue(options) as opened:
        await joined(opened)
        yield opened


def refs(count: int) -> list[TurnRef]:
    return [TurnRef("org_acme", ConversationId("conv_1"), TurnId(f"turn_{number}")) for number in range(count)]


@pytest.mark.parametrize(
    "error",
    [
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError._TRANSPORT,  # a connection that is cut
    ],
)
async def test_publishing_survives_a_passing_error(mock: MockCluster, queue: KafkaQueue, error: int) -> None:
    mock.fail(Request.PRODUCE, *[error] * 3)

    await queue.publish(refs(20))

    assert mock.left_to_fail(Request.PRODUCE) == 0
    assert await received(queue, refs(20)) == refs(20)  # in order
    await until_depth(queue, 0)


@pytest.mark.parametrize("error", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.MSG_SIZE_TOO_LARGE])
async def test_a_lasting_error_is_told_and_the_next_publish_works(
    mock: MockCluster, queue: KafkaQueue, error: int
) -> None:
    mock.fail(Request.PRODUCE, error)

    with pytest.raises(Unavailable):
        await queue.publish(refs(1))
    await queue.publish(refs(1))

    assert set(await received(queue, refs(1))) == set(refs(1))


@pytest.mark.parametrize("error", [KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, KafkaError.UNKNOWN_PRODUCER_ID])
async def test_a_broker_that_forgot_the_producer_gets_a_new_one(
    mock: MockCluster, queue: KafkaQueue, error: int
) -> None:
    await queue.publish(refs(1))
    mock.fail(Request.PRODUCE, error)

    await published(queue, *refs(3))

    assert set(await received(queue, refs(3))) == set(refs(3))


@pytest.mark.parametrize(
    "error",
    [
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError._TRANSPORT,
    ],
)
async def test_a_refused_commit_is_repeated(mock: MockCluster, queue: KafkaQueue, error: int) -> None:
    mock.fail(Request.OFFSET_COMMIT, *[error] * 3)
    await queue.publish(refs(5))

    assert await received(queue, refs(5)) == refs(5)

    await until_depth(queue, 0)
    assert mock.left_to_fail(Request.OFFSET_COMMIT) == 0


@pytest.mark.parametrize("error", [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART])
async def test_reading_survives_a_passing_error(mock: MockCluster, queue: KafkaQueue, error: int) -> None:
    mock.fail(Request.FETCH, *[error] * 5)

    await queue.publish(refs(5))

    assert set(await received(queue, refs(5))) == set(refs(5))


@pytest.mark.parametrize(
    "error", [KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS]
)
async def test_a_coordinator_that_moves_does_not_hide_the_depth(
    mock: MockCluster, options: KafkaOptions, error: int
) -> None:
    async with open_kafka_queue(options) as onlooker:  # as in an API process, which is no member of the group
        await onlooker.publish(refs(3))
        mock.fail(Request.OFFSET_FETCH, error)

        await until_depth(onlooker, 3)

    assert mock.left_to_fail(Request.OFFSET_FETCH) == 0


async def test_a_member_that_the_group_forgot_joins_again(mock: MockCluster, queue: KafkaQueue) -> None:
    mock.fail(Request.HEARTBEAT, KafkaError.UNKNOWN_MEMBER_ID)
    await until(lambda: mock.left_to_fail(Request.HEARTBEAT) == 0, within_s=WITHIN_S)
    await joined(queue)

    await queue.publish(refs(5))

    assert set(await received(queue, refs(5))) == set(refs(5))


async def test_a_worker_learns_that_the_brokers_are_down_and_that_they_are_back(
    mock: MockCluster, queue: KafkaQueue
) -> None:
    mock.set_down()
    await until_away(queue)
    mock.set_up()

    await published(queue, *refs(1))
    assert await received(queue, refs(1)) == refs(1)


async def test_a_slow_broker_delays_and_loses_nothing(mock: MockCluster, queue: KafkaQueue) -> None:
    mock.set_round_trip_ms(200)

    await queue.publish(refs(50))

    assert await received(queue, refs(50)) == refs(50)
    mock.set_round_trip_ms(0)
    await until_depth(queue, 0)
