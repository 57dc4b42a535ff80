"""Calls of all shapes in a tunnel whose network breaks: each sees what it may, and nothing is left of any of them.

A short run in one process; `make storm` runs two of them for minutes.
"""

from contextlib import aclosing

import pytest

from tests.storm.client import Storm
from tests.storm.plans import CANCELLED, FAILED, LATE, LOST, OK
from tests.storm.server import Book, served

STREAMS = 150
CALLS = 2_500


@pytest.mark.timeout(300)
async def test_calls_see_what_they_may_while_the_network_breaks() -> None:
    book = Book()
    async with (
        served(book) as server,
        aclosing(Storm(server.port, book.closed, seed=7).rounds(streams=STREAMS, calls=CALLS)) as rounds,
    ):
        told = await anext(rounds)
    assert told.wrong == []
    assert sum(told.codes.values()) == CALLS
    assert set(told.codes) <= {OK, FAILED, LATE, CANCELLED, LOST}
    assert told.troubles
