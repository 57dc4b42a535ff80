"""The caller's side: calls as they are planned, all through one network, which breaks now and then."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, assert_never

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import StringValue

from services.mesh.client import channel_target
from services.mesh.policy import policies_of
from services.mesh.tunnel.channel import TunnelChannel
from services.mesh.tunnel.frames import MESSAGE_COST_BYTES, WINDOW_BYTES
from services.mesh.tunnel.link import TunnelLink
from tests.chaos.proxy import Proxy, Trouble
from tests.storm.plans import OK, PATIENCE_S, STREAMED, End, Plan, Seen, Served, Shape, drawn, judged
from tests.support.echo import CONTRACT, EchoStub
from tests.support.waiting import until

TROUBLES: Final = (Trouble.RESET, Trouble.BLACK_HOLE, Trouble.TRUNCATE, Trouble.LOST_REPLY, Trouble.LATENCY)
DAWDLE_S: Final = 0.002
"""Between two messages that a slow reader takes."""
CALLS_BETWEEN: Final = (100, 600)
"""Calls that end between two troubles, and within one that does not last longer than TROUBLE_S_MAX."""
CALLS_WITHIN: Final = (1, 60)
TROUBLE_S_MAX: Final = 0.5

Closed = Callable[[], Awaitable[Mapping[str, Served]]]


@dataclass(slots=True)
class Told:
    """A round of calls: how they ended, what befell the network, and what no call should have seen."""

    codes: Counter[str] = field(default_factory=Counter)
    troubles: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Storm:
    """Calls to a server through a network that breaks.

    Args:
        port: of the server.
        closed: gives the server's book, once all its handlers have ended.
        seed: of everything that is drawn.
    """

    def __init__(self, port: int, closed: Closed, *, seed: int) -> None:
        self._closed = closed
        self._random = Random(seed)
        self._proxy = Proxy(lambda: port)
        self._made = self._ended = self._troubles = 0
        self._is_quiet = True

    async def rounds(self, *, streams: int, calls: int) -> AsyncGenerator[Told, None]:
        """Rounds of so many calls, `streams` at once, without end."""
        await self._proxy.open()
        target = channel_target(f"127.0.0.1:{self._proxy.port}")
        try:
            async with TunnelChannel(target, policies_of([CONTRACT]), grpc.aio.insecure_channel) as channel:
                while True:
                    yield await self._round(channel, streams, calls)
        finally:
            await self._proxy.close()
            await until(lambda: not self._proxy._pipes, within_s=PATIENCE_S)  # or the loop ends before they do

    async def _round(self, channel: TunnelChannel, streams: int, calls: int) -> Told:
        told = Told()
        seen: dict[str, tuple[Plan, Seen]] = {}
        last = self._made + calls
        stub = EchoStub(channel)
        async with asyncio.TaskGroup() as group:
            nemesis = group.create_task(self._break(stub, told))
            async with asyncio.TaskGroup() as callers:
                for _ in range(streams):
                    callers.create_task(self._call_until(last, stub, seen))
            nemesis.cancel()
        self._proxy.heal()
        self._is_quiet = True
        served = await self._closed()
        for plan, saw in seen.values():
            told.codes[saw.code] += 1
            told.wrong += [f"{plan}: {text}" for text in judged(plan, saw, served.get(plan.name, Served()))]
        told.wrong += _left_over(channel)
        return told

    async def _call_until(self, last: int, stub: EchoStub, seen: dict[str, tuple[Plan, Seen]]) -> None:
        while self._made < last:
            self._made += 1
            plan = drawn(self._random, str(self._made))
            before, was_quiet = self._troubles, self._is_quiet
            made = _Made(plan)
            code = await made.run(stub)
            in_trouble = not was_quiet or self._troubles != before
            seen[plan.name] = plan, Seen(messages=made.messages, wrong=made.wrong, code=code, in_trouble=in_trouble)
            self._ended += 1

    async def _break(self, stub: EchoStub, told: Told) -> None:
        while True:
            await self._have_ended(self._random.randint(*CALLS_BETWEEN))
            trouble = self._random.choice(TROUBLES)
            told.troubles[trouble] += 1
            self._troubles += 1
            self._is_quiet = False
            self._proxy.trouble(trouble)
            with suppress(TimeoutError):
                async with asyncio.timeout(TROUBLE_S_MAX):
                    await self._have_ended(self._random.randint(*CALLS_WITHIN))
            self._proxy.heal()
            await _answered(stub)  # until then others may still be lost with a connection that was hit
            self._is_quiet = True

    async def _have_ended(self, calls: int) -> None:
        enough = self._ended + calls
        await until(lambda: self._ended >= enough, within_s=PATIENCE_S)


class _Made:
    """One call, and what its caller sees of it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.messages = 0
        self.wrong = ""

    async def run(self, stub: EchoStub) -> str:
        """Makes it; gives the code that it ended with."""
        plan = self._plan
        options: dict[str, Any] = {"timeout": plan.timeout_s, "wait_for_ready": True}  # Any: gRPC's own
        call: Any  # calls of all shapes
        match plan.shape:
            case Shape.HELLO | Shape.SHOUT:
                call = stub.unary(plan.shape)(_first(plan), **options)
            case Shape.SPLIT:
                call = stub.split(_first(plan), **options)
            case Shape.JOIN:
                call = stub.join(**options)
                await self._write_all(call)
            case Shape.TALK:
                call = stub.talk(self._said(), **options)
            case _:
                assert_never(plan.shape)
        await self._listen(call)
        code: grpc.StatusCode = await call.code()
        return code.name

    async def _listen(self, call: Any) -> None:  # Any: calls of all shapes
        try:
            await (self._take_all(call) if self._plan.shape in STREAMED else self._take_one(call))
        except DecodeError as error:
            self.wrong = f"message {self.messages} is none: {error}"
            call.cancel()

    async def _said(self) -> AsyncIterator[StringValue]:
        yield _first(self._plan)
        for index in range(self._plan.count):
            yield StringValue(value=self._plan.said(index))

    async def _write_all(self, call: Any) -> None:  # Any: as above
        written = 0
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the call has ended; its code says how
            async for message in self._said():
                if written == self._plan.leaves_after:
                    return
                await call.write(message)
                written += 1
            await call.done_writing()

    async def _take_one(self, call: Any) -> None:  # Any: as above
        if self._plan.leaves_after is not None:
            for _ in range(self._plan.leaves_after):
                await asyncio.sleep(0)
            call.cancel()
        if await call.code() is grpc.StatusCode.OK:
            self._hear(await call)

    async def _take_all(self, call: Any) -> None:  # Any: as above
        with suppress(grpc.aio.AioRpcError):  # its code says how it ended
            while self.messages != self._plan.leaves_after:
                message = await call.read()
                if message is grpc.aio.EOF:
                    return
                self._hear(message)
                if self._plan.dawdles:
                    self._look_at(call)
                    await asyncio.sleep(DAWDLE_S)
            call.cancel()

    def _hear(self, message: StringValue) -> None:
        if message.value != self._plan.said(self.messages):
            self.wrong = f"as message {self.messages} came {message.value[:60]!r}"
        self.messages += 1

    def _look_at(self, call: Any) -> None:  # Any: as above
        """What waits for a slow reader is bounded, whatever its server would like to say."""
        waiting = sum(len(message) + MESSAGE_COST_BYTES for message in call._inbox)
        if waiting > WINDOW_BYTES + self._plan.size + 2 * MESSAGE_COST_BYTES:
            self.wrong = f"{waiting} bytes wait"


def _first(plan: Plan) -> StringValue:
    """The request with the plan; one that is all there is to send has the size of a message."""
    is_unary = plan.shape in {Shape.HELLO, Shape.SHOUT}
    return StringValue(value=f"{plan.text}\n".ljust(plan.size, "x") if is_unary else plan.text)


async def _answered(stub: EchoStub) -> None:
    probe = Plan(
        name="probe",
        shape=Shape.HELLO,
        count=1,
        size=1,
        end=End.RETURN,
        timeout_s=1.0,
        leaves_after=None,
        dawdles=False,
    )
    async with asyncio.timeout(PATIENCE_S):
        while await _Made(probe).run(stub) != OK:
            pass


def _left_over(channel: TunnelChannel) -> list[str]:
    """What a channel still keeps when all its calls have ended."""
    fleet = channel._fleet
    found = [f"{link.load} calls on a link" for link in fleet._links() if link.load]
    found += [
        "words that nobody waits for"
        for link in fleet._links()
        if isinstance(link, TunnelLink) and (link._outbox._bulk or link._outbox._bulk_bytes)
    ]
    if fleet._waiting or fleet._pauses:
        found.append(f"{len(fleet._waiting)} calls wait for a link, {len(fleet._pauses)} for another try")
    return found
