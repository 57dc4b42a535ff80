"""Frames, the order of what is sent, and which failures are repeated."""

import asyncio

import pytest

from services.mesh.tunnel import frames
from services.mesh.tunnel.frames import END, KIND_BITS, KIND_MASK, MESSAGE, PART, PART_BYTES, FrameError
from services.mesh.tunnel.outbox import BACKLOG_BYTES_MAX, BATCH_BYTES, Outbox
from services.mesh.tunnel.retries import ATTEMPTS_MAX, BACKOFF_S_MAX, BACKOFF_S_MIN, BUDGET_TOKENS, Retries
from tests.support.waiting import until

Batch = list[tuple[int, int, bytes]]


class Wire:
    """Takes batches, one at a time, as slowly as a test likes."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.may = asyncio.Event()
        self.may.set()

    async def write(self, heads: list[int], bodies: list[bytes]) -> None:
        batch = [(head >> KIND_BITS, head & KIND_MASK, body) for head, body in zip(heads, bodies, strict=True)]
        self.batches.append(batch)
        await self.may.wait()

    @property
    def frames(self) -> Batch:
        return [frame for batch in self.batches for frame in batch]


async def sent(outbox: Outbox) -> None:
    outbox.close()
    await outbox.run()


@pytest.mark.parametrize(
    "metadata",
    [(), (("a", "b"),), (("a", ""), ("a", "2"), ("x-bin", b"\x00\n\xff")), (("x-bin", b""),)],
)
def test_metadata_comes_back_as_it_was(metadata: frames.Metadata) -> None:
    opened = frames.parse_opening(frames.opening("/a.B/C", 1.5, frames.metadata_text(metadata)))
    assert opened == frames.Opening("/a.B/C", 1.5, metadata)
    ended = frames.parse_ending(frames.ending(5, "not\nthere: é %", metadata))
    assert ended == frames.Ending(5, "not\nthere: é %", metadata)
    assert frames.parse_headers(frames.headers(metadata)) == metadata


def test_call_without_a_bound_has_none() -> None:
    assert frames.parse_opening(frames.opening("/a.B/C", None, "")).timeout_s is None


@pytest.mark.parametrize("value", ["a\nb", "é", "\n"])
def test_value_that_grpc_refuses_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="metadata was invalid"):
        frames.metadata_text((("key", value),))


@pytest.mark.parametrize("body", [b"", b"/a.B/C", b"/a.B/C\nsoon", b"/a.B/C\n5\nkey", b"\xff\n5"])
def test_opening_that_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(FrameError):
        frames.parse_opening(body)


async def test_what_comes_up_during_a_write_goes_in_the_next_one() -> None:
    wire = Wire()
    wire.may.clear()
    outbox = Outbox(wire.write)
    async with asyncio.TaskGroup() as group:
        group.create_task(outbox.run())
        outbox.send(1, MESSAGE, b"a")
        await until(lambda: wire.batches)
        outbox.send(1, MESSAGE, b"b")
        outbox.send(2, MESSAGE, b"c")
        wire.may.set()
        outbox.close()
    assert wire.batches == [[(1, MESSAGE, b"a")], [(1, MESSAGE, b"b"), (2, MESSAGE, b"c")]]


async def test_large_messages_take_turns_and_keep_the_order_of_their_call() -> None:
    wire = Wire()
    outbox = Outbox(wire.write)
    large = bytes(range(256)) * (PART_BYTES // 64)
    outbox.send(1, MESSAGE, large)
    outbox.send(1, END, b"")
    outbox.send(2, MESSAGE, large)
    outbox.send(3, MESSAGE, b"small")
    await sent(outbox)
    assert wire.batches[0][0] == (3, MESSAGE, b"small")
    for number in (1, 2):
        parts = [body for call, kind, body in wire.frames if call == number and kind in (PART, MESSAGE)]
        assert b"".join(parts) == large
        assert max(map(len, parts)) <= PART_BYTES
    assert [kind for call, kind, _ in wire.frames if call == 1] == [PART, PART, PART, MESSAGE, END]
    assert [call for call, _, _ in wire.frames if call != 3][:4] == [1, 2, 1, 2]


async def test_what_was_to_be_said_of_a_call_that_has_ended_is_dropped() -> None:
    wire = Wire()
    outbox = Outbox(wire.write)
    outbox.send(1, MESSAGE, bytes(10 * PART_BYTES))
    outbox.drop(1)
    await sent(outbox)
    assert wire.frames == []
    assert not outbox.is_full


async def test_batch_has_a_bound_and_everything_arrives() -> None:
    wire = Wire()
    outbox = Outbox(wire.write)
    body = bytes(PART_BYTES)
    count = 3 * BATCH_BYTES // PART_BYTES
    for number in range(1, count + 1):
        outbox.send(number, MESSAGE, body)
    await sent(outbox)
    assert len(wire.batches) == 3
    assert [number for number, _, _ in wire.frames] == list(range(1, count + 1))


async def test_large_message_stays_behind_what_its_call_said_before() -> None:
    wire = Wire()
    outbox = Outbox(wire.write)
    early, late = 1, 2
    large = bytes(3 * PART_BYTES)
    outbox.send(early, MESSAGE, b"first")
    for number in range(3, 3 + 2 * BATCH_BYTES // PART_BYTES):  # more than a batch has room for
        outbox.send(number, MESSAGE, bytes(PART_BYTES))
    outbox.send(late, MESSAGE, b"first")
    for number in (early, late):
        outbox.send(number, MESSAGE, large)
    await sent(outbox)
    for number in (early, late):
        assert [kind for call, kind, _ in wire.frames if call == number] == [MESSAGE, PART, PART, MESSAGE]


@pytest.mark.parametrize(("beyond", "is_full"), [(-1, False), (0, False), (1, True)])
async def test_backlog_is_full_above_its_bound(beyond: int, is_full: bool) -> None:  # noqa: FBT001 - a parameter of the test
    outbox = Outbox(Wire().write)
    outbox.send(1, MESSAGE, bytes(BACKLOG_BYTES_MAX + beyond))
    assert outbox.is_full is is_full
    outbox.close()
    await outbox.run()
    await outbox.room()


def test_attempts_are_bounded_and_pauses_grow() -> None:
    retries = Retries()
    first, second = retries.pause_s(1, ()), retries.pause_s(2, ())
    assert first is not None
    assert second is not None
    assert BACKOFF_S_MIN * 0.8 <= first < second <= BACKOFF_S_MAX
    assert retries.pause_s(ATTEMPTS_MAX, ()) is None


@pytest.mark.parametrize(("pushback", "pause_s"), [("250", 0.25), ("1", 0.001), ("-1", None), ("soon", None)])
def test_server_says_when_a_repeat_helps(pushback: str, pause_s: float | None) -> None:
    assert Retries().pause_s(1, (("grpc-retry-pushback-ms", pushback),)) == pause_s


def test_repeats_stop_when_most_calls_fail_and_return_when_most_succeed() -> None:
    retries = Retries()
    allowed = sum(retries.pause_s(1, ()) is not None for _ in range(100))
    assert allowed == BUDGET_TOKENS // 2 - 1
    for _ in range(10 * BUDGET_TOKENS):
        retries.succeeded()
    assert retries.pause_s(1, ()) is not None
