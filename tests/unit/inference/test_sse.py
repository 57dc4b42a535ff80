from collections.abc import AsyncIterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.model import FinishReason
from services.inference.providers.base import ANSWER_CHARS_MAX, Ended
from services.inference.providers.sse import (
    EVENT_BYTES_MAX,
    MalformedStream,
    ServerEvent,
    at,
    count_at,
    parse,
    server_events,
    text_at,
)
from services.mesh.errors import Reason
from tests.support.inference import FakeProvider, collect, collect_until, said, task


async def read(*chunks: bytes) -> list[ServerEvent]:
    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return [event async for event in server_events(body())]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"data: 1\n\n", [ServerEvent("", b"1")]),
        (b"event: a\ndata: 1\n\ndata: 2\n\n", [ServerEvent("a", b"1"), ServerEvent("", b"2")]),
        (b"data:1\r\n\r\n", [ServerEvent("", b"1")]),
        (b"data: 1\ndata: 2\n\n", [ServerEvent("", b"1\n2")]),
        (b": comment\n\ndata: 1\n\n", [ServerEvent("", b"1")]),
        (b"id: 7\nretry: 1\ndata: 1\n\n", [ServerEvent("", b"1")]),
        (b"event: a\n\ndata: 1\n\n", [ServerEvent("", b"1")]),
        (b"data: 1\n\ndata: 2", [ServerEvent("", b"1")]),
        (b"data: 1\n\ndata: 2\n", [ServerEvent("", b"1")]),
        (b"", []),
    ],
)
async def test_events_of_a_body(body: bytes, expected: list[ServerEvent]) -> None:
    assert await read(body) == expected


@given(st.lists(st.integers(0, 60), max_size=8))
async def test_events_are_the_same_however_the_bytes_arrive(cuts: Sequence[int]) -> None:
    body = b"event: a\r\ndata: one\r\n\r\n: x\n\ndata: \xe7\xa9\xba\ndata: two\n\nevent: b\ndata: three\n\n"
    borders = sorted({0, len(body), *cuts})

    chunks = [body[start:end] for start, end in pairwise(borders)]

    assert await read(*chunks) == await read(body)


@pytest.mark.parametrize("size", [EVENT_BYTES_MAX - 1, EVENT_BYTES_MAX])
async def test_event_up_to_the_bound_is_read(size: int) -> None:
    line = b"data:" + b"x" * (size - 5)

    assert len(await read(line, b"\n\n")) == 1


@pytest.mark.parametrize("pieces", [1, 10])
async def test_event_beyond_the_bound_is_refused_before_it_ends(pieces: int) -> None:
    line = b"data:" + b"x" * (EVENT_BYTES_MAX - 4)

    with pytest.raises(MalformedStream):
        await read(*[line[start::pieces] for start in range(pieces)])


def test_json_is_read_by_path() -> None:
    value = parse(b'{"a": [{"b": "c", "n": 3, "t": true, "m": -1}]}')

    assert text_at(value, "a", 0, "b") == "c"
    assert text_at(value, "a", 1, "b") == text_at(value, "x") == text_at(value, "a", 0, "n") == ""
    assert count_at(value, "a", 0, "n") == 3
    assert count_at(value, "a", 0, "t") is count_at(value, "a", 0, "m") is count_at(value, "a") is None
    assert at(value, "a", "b", 0) is None


@pytest.mark.parametrize("data", [b"", b"{", b'"\xff"', b"[DONE]"])
def test_what_is_no_json_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedStream):
        parse(data)


async def test_answer_up_to_the_bound_is_whole() -> None:
    provider = FakeProvider("a", ("x" * (ANSWER_CHARS_MAX - 1), "x", Ended(FinishReason.STOP)))

    assert len(said(await collect(provider, task()))) == ANSWER_CHARS_MAX


async def test_answer_that_does_not_end_is_refused() -> None:
    provider = FakeProvider("a", ("x" * ANSWER_CHARS_MAX, "x", Ended(FinishReason.STOP)))

    _, error = await collect_until(provider, task())

    assert error.reason is Reason.PROVIDER_UNAVAILABLE
    assert provider.closed == 1


async def test_event_with_the_number_of_the_last_one_is_given_once() -> None:
    assert [event.data for event in await read(b"id: 1\ndata: a\n\nid: 1\ndata: a\n\nid: 2\ndata: a\n\n")] == [
        b"a",
        b"a",
    ]


async def test_missing_number_is_a_fault() -> None:
    with pytest.raises(MalformedStream):
        await read(b"id: 1\ndata: a\n\nid: 3\ndata: c\n\nid: 2\ndata: b\n\n")


async def test_chunk_with_the_same_obfuscation_is_given_once() -> None:
    first, second = b'data: {"a":"ha","obfuscation":"xk"}\n\n', b'data: {"a":"ha","obfuscation":"q"}\n\n'

    assert len(await read(first + first + second)) == 2


async def test_equal_chunks_without_marks_are_both_given() -> None:
    assert len(await read(b'data: {"a":"ha"}\n\n' * 2)) == 2
