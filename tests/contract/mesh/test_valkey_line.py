"""Commands that share a connection: each gets its own answer, and no other one's trouble but the connection's."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.mesh.errors import Overloaded, Unavailable
from services.mesh.valkey import Client, open_valkey
from services.mesh.valkey.line import Line
from tests.contract.mesh.test_valkey import Wire, settings


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[Client]:
    async with open_valkey(settings(valkey_url), application="test") as opened:
        yield opened


async def test_commands_share_one_connection_and_get_their_own_answers(client: Client) -> None:
    texts = [f"{number} " * 3_000 * (number % 3) for number in range(60)]

    answers = await asyncio.gather(*(client.execute_command("ECHO", text) for text in texts))

    assert answers == [text.encode() for text in texts]
    assert client.births == 1


async def test_a_command_that_fails_or_is_cancelled_leaves_the_others_alone(client: Client) -> None:
    await client.set("text", "no number")
    tasks = [asyncio.ensure_future(client.execute_command("ECHO", number)) for number in range(20)]
    failing = asyncio.ensure_future(client.incr("text"))
    await asyncio.sleep(0)
    tasks[7].cancel()

    answers = await asyncio.gather(*tasks, failing, return_exceptions=True)

    assert isinstance(answers.pop(), Exception)
    assert isinstance(answers.pop(7), asyncio.CancelledError)
    assert answers == [str(number).encode() for number in range(20) if number != 7]
    assert client.births == 1


async def test_a_late_answer_ends_the_connection_and_the_next_command_makes_another(valkey_url: str) -> None:
    wire = Wire(valkey_url)
    async with wire.listening() as url, open_valkey(settings(url, timeout_s=0.2), application="test") as shaky:
        await shaky.ping()
        wire.swallows_answers = True
        late = await asyncio.gather(*(shaky.ping() for _ in range(3)), return_exceptions=True)
        wire.swallows_answers = False

        assert [type(error) for error in late] == [Unavailable] * 3
        assert await shaky.ping()
        assert shaky.births == 2


async def test_all_who_wait_learn_that_no_connection_can_be_made() -> None:
    async with open_valkey(settings("redis://127.0.0.1:1"), application="test") as away:
        told = await asyncio.gather(*(away.ping() for _ in range(50)), return_exceptions=True)

    assert [type(error) for error in told] == [Unavailable] * 50


async def test_who_waits_for_a_connection_has_one_when_its_maker_was_cancelled(client: Client) -> None:
    tasks = [asyncio.ensure_future(client.ping()) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()

    _, *told = await asyncio.gather(*tasks, return_exceptions=True)

    assert told == [True] * 4


async def test_a_batch_of_nothing_has_no_answers(client: Client) -> None:
    assert await client.batch([]) == []


@pytest.mark.parametrize(("waiting", "is_refused"), [(1, False), (2, False), (3, True)])
async def test_commands_beyond_the_limit_are_refused(client: Client, waiting: int, *, is_refused: bool) -> None:
    line = Line(client.connection_pool, timeout_s=2.0, is_final=lambda _: False, in_flight_max=3)
    await line.ask([("PING",)])
    before = asyncio.ensure_future(line.ask([("PING",)] * waiting))
    await asyncio.sleep(0)

    if is_refused:
        with pytest.raises(Overloaded):
            await line.ask([("PING",)])
    else:
        assert await line.ask([("PING",)]) == [b"PONG"]
    assert await before == [b"PONG"] * waiting
    line.close()


async def test_a_command_that_waits_holds_up_no_other_one(client: Client) -> None:
    waiting = asyncio.ensure_future(client.execute_command("BLPOP", "bell", 60))
    reading = asyncio.ensure_future(client.execute_command("XREAD", "BLOCK", 60_000, "STREAMS", "news", "$"))
    async with asyncio.timeout(30.0):
        while (await client.info("clients"))["blocked_clients"] < 2:  # noqa: ASYNC110 - it is Valkey that knows
            await asyncio.sleep(0.01)

    await client.rpush("bell", "1")
    assert await waiting == (b"bell", b"1")
    await client.xadd("news", {"t": "1"})
    assert len(await reading) == 1
