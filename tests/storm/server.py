"""The server's side: handlers that do what each call's plan says, and a book of what became of them."""

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from typing import Final

from google.protobuf.wrappers_pb2 import StringValue

from services.mesh.errors import AlreadyExists
from services.mesh.rpc import RpcContext
from services.mesh.server import RunningServer, running
from services.mesh.settings import ServerSettings
from tests.storm.plans import PATIENCE_S, End, Plan, Served, Shape
from tests.support.echo import Behaviour, register
from tests.support.waiting import until

CALLS_MAX: Final = 100_000


class Book:
    """What became of each call, by its name."""

    def __init__(self) -> None:
        self._served: defaultdict[str, Served] = defaultdict(Served)

    @contextmanager
    def entry(self, plan: Plan) -> Iterator[Served]:
        """Around a handler."""
        entry = self._served[plan.name]
        entry.begun += 1
        try:
            yield entry
        finally:
            entry.ended += 1

    async def closed(self) -> Mapping[str, Served]:
        """All of it, once every handler has ended; a new book begins."""
        await until(self._is_idle, within_s=PATIENCE_S)
        closed, self._served = self._served, defaultdict(Served)
        return closed

    def _is_idle(self) -> bool:
        return all(entry.begun == entry.ended for entry in self._served.values())


def handlers(book: Book) -> dict[Shape, Behaviour]:
    """What the server does with calls of each shape."""

    async def one(request: StringValue, _context: RpcContext) -> StringValue:
        plan = Plan.read(request.value.partition("\n")[0])
        with book.entry(plan) as entry:
            if len(request.value) < plan.size:
                entry.wrong = f"a request of {len(request.value)}"
            await _end(plan, entry)
            return StringValue(value=plan.said(0))

    async def split(request: StringValue, _context: RpcContext) -> AsyncIterator[StringValue]:
        plan = Plan.read(request.value)
        with book.entry(plan) as entry:
            for index in range(plan.count):
                yield StringValue(value=plan.said(index))
            await _end(plan, entry)

    async def join(requests: AsyncIterator[StringValue], _context: RpcContext) -> StringValue:
        plan = Plan.read((await anext(requests)).value)
        with book.entry(plan) as entry:
            async for _ in _heard(plan, requests, entry):
                pass
            await _end(plan, entry)
            return StringValue(value=plan.said(0))

    async def talk(requests: AsyncIterator[StringValue], _context: RpcContext) -> AsyncIterator[StringValue]:
        plan = Plan.read((await anext(requests)).value)
        with book.entry(plan) as entry:
            async for message in _heard(plan, requests, entry):
                yield message
            await _end(plan, entry)

    return {Shape.HELLO: one, Shape.SHOUT: one, Shape.SPLIT: split, Shape.JOIN: join, Shape.TALK: talk}


async def _heard(plan: Plan, requests: AsyncIterator[StringValue], entry: Served) -> AsyncIterator[StringValue]:
    """The messages after the plan; `entry` learns when they are not those of the plan."""
    count = 0
    async for message in requests:
        if message.value != plan.said(count):
            entry.wrong = f"as request {count} came {message.value[:60]!r}"
        count += 1
        yield message
    if count != plan.count:
        entry.wrong = f"{count} requests"


async def _end(plan: Plan, entry: Served) -> None:
    if plan.end is End.HANG:
        await asyncio.Event().wait()
    entry.whole += 1
    if plan.end is End.FAIL:
        raise AlreadyExists(plan.name)


@asynccontextmanager
async def served(book: Book) -> AsyncIterator[RunningServer]:
    """The server, behind all interceptors."""
    settings = ServerSettings(drain_s=1.0, not_serving_pause_s=0.0, calls_max=CALLS_MAX)
    behaviours = {str(shape): handler for shape, handler in handlers(book).items()}
    async with running(settings, servicers=[lambda to: register(to, **behaviours)], verifier=None) as server:
        yield server


async def serve() -> None:
    """As a process: tells its port, and then, for each line that it is sent, closes its book and tells that."""
    book, loop = Book(), asyncio.get_running_loop()
    async with served(book) as server:
        _tell(str(server.port))
        while await loop.run_in_executor(None, sys.stdin.readline):
            closed = await book.closed()
            _tell(json.dumps({name: asdict(entry) for name, entry in closed.items()}))


def read(line: str | bytes) -> Mapping[str, Served]:
    """The book that `serve` told."""
    return {name: Served(**entry) for name, entry in json.loads(line).items()}


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
