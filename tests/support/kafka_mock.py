"""librdkafka's mock cluster: the real protocol over TCP, in memory, whose brokers fail on command.

The Python package does not expose it, so its C functions are called in the library that the package brings along.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

import confluent_kafka
from confluent_kafka import KafkaError

from services.conversation.queue.port import PARTITIONS

_TEXT_MAX = 512
_PRODUCER = 0
_BROKER = 1


class Request(IntEnum):
    """Requests that can be made to fail, by their keys in the protocol."""

    PRODUCE = 0
    FETCH = 1
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    HEARTBEAT = 12


class MockCluster:
    """One broker, and the topics that a test makes."""

    def __init__(self, library: ctypes.CDLL, cluster: ctypes.c_void_p) -> None:
        self._library = library
        self._cluster = cluster

    @property
    def bootstrap(self) -> str:
        self._library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        found: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        return found.decode()

    def make_topic(self, name: str, *, partitions: int = PARTITIONS) -> None:
        self._done(self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1))

    def fail(self, request: Request, *errors: int) -> None:
        """The next requests of this kind get these answers, one after the other."""
        codes = (ctypes.c_int * len(errors))(*errors)
        size = ctypes.c_size_t(len(errors))
        self._library.rd_kafka_mock_push_request_errors_array(self._cluster, ctypes.c_int16(request), size, codes)

    def left_to_fail(self, request: Request) -> int:
        """Failures that were asked for and did not happen yet."""
        count = ctypes.c_size_t()
        self._done(
            self._library.rd_kafka_mock_broker_error_stack_cnt(
                self._cluster, _BROKER, ctypes.c_int16(request), ctypes.byref(count)
            )
        )
        return count.value

    def set_down(self) -> None:
        self._done(self._library.rd_kafka_mock_broker_set_down(self._cluster, _BROKER))

    def set_up(self) -> None:
        self._done(self._library.rd_kafka_mock_broker_set_up(self._cluster, _BROKER))

    def set_round_trip_ms(self, milliseconds: int) -> None:
        self._done(self._library.rd_kafka_mock_broker_set_rtt(self._cluster, _BROKER, milliseconds))

    def _done(self, code: int) -> None:
        assert code == KafkaError.NO_ERROR, f"the mock cluster says {code}"


@contextmanager
def mock_cluster() -> Iterator[MockCluster]:
    library = _library()
    library.rd_kafka_new.restype = ctypes.c_void_p
    library.rd_kafka_conf_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
    text = ctypes.create_string_buffer(_TEXT_MAX)
    configuration = ctypes.c_void_p(library.rd_kafka_conf_new())
    client = ctypes.c_void_p(library.rd_kafka_new(_PRODUCER, configuration, text, ctypes.c_size_t(_TEXT_MAX)))
    assert client.value is not None, text.value
    cluster = ctypes.c_void_p(library.rd_kafka_mock_cluster_new(client, 1))
    try:
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0)
        yield MockCluster(library, cluster)
    finally:
        library.rd_kafka_mock_cluster_destroy(cluster)
        library.rd_kafka_destroy(client)


def _library() -> ctypes.CDLL:
    folder = Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
    (path,) = folder.glob("librdkafka-*.so*")
    return ctypes.CDLL(str(path))
