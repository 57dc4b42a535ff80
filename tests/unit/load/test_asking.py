import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest

from tests.load.asking import Asking, Plan, Question, Words
from tests.load.http1 import Answer, Events
from tests.load.paced import Answering, Timetable
from tests.load.tally import Course
from tests.load.trials import chat_body
from tests.load.wish import Wish, now_us, stamp
from tests.support.waiting import until

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Parley-Turn: turn_1\r\n\r\n"
APART_US = 2_000
SECOND = 1_000_000


def chunked(*bodies: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(body), body) for body in bodies)


def delta(number: int) -> bytes:
    text = stamp(number * APART_US).decode()
    return f'id: {number}\nevent: text_delta\ndata: {{"text_delta":{{"offset":0,"text":"{text}"}}}}\n\n'.encode()


def finished(state: str = "completed") -> bytes:
    return f'id: 9\nevent: turn_finished\ndata: {{"turn_finished":{{"state":"{state}"}}}}\n\n'.encode()


async def asked(port: int, questions: Sequence[Question], *, words: Words, answer_s_max: float = 60.0) -> list[Course]:
    plan = Plan(
        port=port,
        key="key",
        words=words,
        begin_us=now_us(),
        answer_s_max=answer_s_max,
        apart_us=APART_US,
        questions=questions,
    )
    asking = Asking(Plan.of(plan.text()))
    await asking.run()
    return asking.tally.courses


async def answered(*pieces: bytes, answer_s_max: float = 60.0, is_held: bool = False) -> Course:
    """The course of one question to a server that writes these pieces and, unless held, hangs up."""
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.writelines(pieces)
        if is_held:
            await reader.read()  # until the client leaves
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        closed.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        (course,) = await asked(port, [Question(0, "/", "{}")], words=Words.TURN, answer_s_max=answer_s_max)
        await closed.wait()
    return course


def test_answer_is_read_whatever_pieces_it_comes_in() -> None:
    sent = HEAD + chunked(b"one", b"and two", b"")
    for cut in range(len(sent)):
        answer = Answer()
        assert answer.feed(sent[:cut]) + answer.feed(sent[cut:]) == b"oneand two"
        assert (answer.status, answer.is_whole, answer.header("x-parley-turn")) == (200, True, "turn_1")


def test_answer_of_a_known_length_is_read() -> None:
    answer = Answer()
    assert answer.feed(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbu") == b"bu"
    assert not answer.is_whole
    assert answer.feed(b"sy") == b"sy"
    assert (answer.status, answer.is_whole) == (503, True)


def test_event_is_given_when_it_is_complete() -> None:
    events = Events()
    assert list(events.feed(b"data: 1\n\nda")) == [b"data: 1"]
    assert list(events.feed(b"ta: 2\n\n")) == [b"data: 2"]


async def test_turn_that_finishes_is_whole() -> None:
    course = await answered(HEAD, chunked(delta(0), delta(1) + delta(2), finished(), b""))

    assert course.is_whole
    assert (course.tokens, course.turn_id) == (3, "turn_1")


@pytest.mark.parametrize(
    ("pieces", "cause"),
    [
        ((HEAD, chunked(delta(0))), "its connection broke"),
        ((HEAD, chunked(delta(0), b"")), "its answer ended without an end"),
        ((HEAD, chunked(delta(0), finished("failed"), b"")), "its answer ended without an end"),
        ((HEAD, chunked(delta(0), delta(2), finished(), b"")), "a token is missing"),
        ((HEAD, chunked(b"id: 1\nevent: snapshot\ndata: {}\n\n", finished(), b"")), "it was begun anew"),
        ((HEAD, chunked(b'event: error\ndata: {"reason":"INTERNAL"}\n\n')), "an error in its stream: INTERNAL"),
        ((b'HTTP/1.1 503 Busy\r\ncontent-length: 17\r\n\r\n{"reason":"BUSY"}',), "503 BUSY"),
        ((b"what?\r\n\r\n",), "its answer is no HTTP"),
    ],
)
async def test_answer_that_is_not_whole_is_lost(pieces: tuple[bytes, ...], cause: str) -> None:
    course = await answered(*pieces)

    assert (course.lost, course.is_whole) == (cause, False)


async def test_answer_that_takes_too_long_is_lost() -> None:
    course = await answered(HEAD, chunked(delta(0)), answer_s_max=0.1, is_held=True)

    assert course.lost == "it took too long"


async def test_double_keeps_to_its_timetable_and_ends_when_told() -> None:
    timetable = Timetable()
    served: list[Answering] = []

    def answering() -> Answering:
        served.append(Answering(timetable))
        return served[-1]

    server = await asyncio.get_running_loop().create_server(answering, "127.0.0.1", 0)
    limited = Wish(tokens=3, apart_us=APART_US, first_us=APART_US)
    endless = Wish(tokens=SECOND, apart_us=APART_US, first_us=None)
    questions = [Question(0, "/", chat_body("m", wish.words)) for wish in (limited, endless)]
    async with server:
        running = asyncio.create_task(asked(server.sockets[0].getsockname()[1], questions, words=Words.CHAT))
        await until(lambda: timetable._held)
        told_us = now_us()
        timetable.begin(told_us)
        timetable.end(told_us + 200_000, 1)
        short, long = await running
        await until(lambda: not any(one.is_connected for one in served))

    assert [short.lost, long.lost] == ["", ""]
    assert short.tokens == 3
    assert long.tokens > 3
    assert long.first_us >= told_us
    assert short.first_us >= short.asked_us + APART_US
