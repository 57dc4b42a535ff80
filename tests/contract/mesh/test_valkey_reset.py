import asyncio

import pytest
import uvloop

from services.mesh.errors import Unavailable
from services.mesh.valkey import translated


async def write_to_closed_connection() -> None:
    """What redis-py does when a connection is reset while it is being made: it writes its login all the same."""
    server = await asyncio.start_server(lambda _, writer: writer.transport.abort(), "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.transport.abort()
        await asyncio.sleep(0)
        with translated():
            writer.writelines([b"AUTH"])


def test_connection_that_is_reset_while_it_is_made_is_unavailable() -> None:
    # Under uvloop, which the processes run on: it says RuntimeError where asyncio's own loop says nothing.
    with pytest.raises(Unavailable):
        uvloop.run(write_to_closed_connection())


@pytest.mark.parametrize("text", ["ours", "the handler is closed by us"])
def test_bug_of_ours_is_not_taken_for_a_closed_connection(text: str) -> None:
    with pytest.raises(RuntimeError, match=text), translated():
        raise RuntimeError(text)
