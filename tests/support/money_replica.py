"""A replica of inference as far as money goes, in a process of its own, so that it can be killed.

Says `ready`; reserves for as many calls as a line on its input says, all at once, and says how many were granted and
how many refused; commits what it holds when told to, says `stored`, and goes on settling what others left behind.
"""

import asyncio
import os
import sys
from contextlib import AsyncExitStack

from services.inference.app import open_money
from services.inference.model import Usage
from services.inference.money.purse import Purse, Reservation
from services.inference.settings import ServeSettings
from services.mesh import telemetry
from services.mesh.errors import QuotaExhausted
from services.mesh.postgres.database import open_database
from services.mesh.settings import load
from services.mesh.tasks import supervised
from services.mesh.valkey import open_valkey
from tests.support.money import ESTIMATE, PAYER


async def main() -> None:
    settings = load(ServeSettings)
    telemetry.configure_logging("inference", level="WARNING", form="json")
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings, application="replica"))
        valkey = await stack.enter_async_context(open_valkey(settings, application="replica"))
        money = await open_money(settings, database, valkey, stack)
        await stack.enter_async_context(supervised(tuple(money.loops), drain_s=settings.drain_s))
        await database.ping()
        say("ready")
        held = await reserved(money.purse, int(await line()))
        await line()
        for reservation in held:
            reservation.commit(Usage(input_tokens=ESTIMATE.input_tokens, output_tokens=ESTIMATE.output_tokens))
        books = next(loop for loop in money.loops if loop.name == "inference_books")
        await books.drain()
        say("stored")
        await line()


async def reserved(purse: Purse, calls: int) -> list[Reservation]:
    outcomes = await asyncio.gather(*(purse.reserve(PAYER, ESTIMATE) for _ in range(calls)), return_exceptions=True)
    unexpected = [one for one in outcomes if isinstance(one, BaseException) and not isinstance(one, QuotaExhausted)]
    if unexpected:
        raise unexpected[0]
    held = [one for one in outcomes if not isinstance(one, BaseException)]
    say(f"{len(held)} {len(outcomes) - len(held)}")
    return held


def say(words: str) -> None:
    os.write(1, f"{words}\n".encode())


async def line() -> str:
    return await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(main())
