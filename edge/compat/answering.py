"""Answers a request in a dialect, whole or as events; errors in the form that belongs where they happen."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Protocol, TypeVar, cast

from edge.compat.caching import cache_headers
from edge.compat.generations import Piece, Step
from edge.http import Exchange, HeaderList
from edge.sse import EventStream, EventStreams
from edge.transcoding.encoding import dump
from parley.inference.v1 import generation_pb2
from services.mesh.errors import MeshError, Unavailable

E_contra = TypeVar("E_contra", contravariant=True)
E = TypeVar("E")


class Form(Protocol[E_contra]):
    """How a dialect writes one answer."""

    def whole(self, ending: E_contra) -> object:
        """The whole answer, as JSON."""
        ...

    def begin(self, context: generation_pb2.ContextReport) -> None:
        """The model has been given this; nothing is written for it."""
        ...

    def pieces(self, pieces: Sequence[Piece]) -> bytes:
        """Events for pieces of the answer."""
        ...

    def end(self, ending: E_contra) -> bytes:
        """Events for the end of the answer."""
        ...

    def failure(self, error: MeshError) -> bytes:
        """The event of an error after which nothing follows."""
        ...


async def respond(
    exchange: Exchange,
    steps: AsyncIterator[Step[E]],
    form: Form[E],
    *,
    streams: EventStreams | None,
    headers: HeaderList,
) -> None:
    """Answers with `steps`: as events when there are `streams`, else whole.

    Raises:
        MeshError: the answer failed before its first event.
    """
    # Both are async generators; leaving one early must end its call at once, not when it is collected.
    async with aclosing(cast("AsyncGenerator[Step[E], None]", steps)):
        if streams is None:
            ending, cache = await _ending(steps)
            await exchange.respond(200, dump(form.whole(ending)), headers=(*headers, *cache_headers(cache)))
            return
        with streams.opened(exchange, headers=headers, is_resumable=False) as stream:
            await stream.finish(await _last(stream, steps, form))


async def _ending(steps: AsyncIterator[Step[E]]) -> tuple[E, generation_pb2.CacheHit | None]:
    async for step in steps:
        if step.ending is not None:
            return step.ending, step.cache
    raise Unavailable("the answer broke off")


async def _last(stream: EventStream, steps: AsyncIterator[Step[E]], form: Form[E]) -> bytes:
    """Writes the events but for the last, which is returned to travel with the end of the stream.

    An error before the first event is an ordinary answer, later it is the last event.

    Raises:
        MeshError: the answer failed before its first event.
    """
    task = asyncio.current_task()
    assert task is not None
    stream.attach(task.cancel)
    try:
        return await _write(stream, steps, form)
    except MeshError as error:
        if not stream.is_begun:
            raise
        return form.failure(error)
    except asyncio.CancelledError:
        if not stream.is_ended or task.uncancel():
            raise  # the client left
        # The dialects have no way to go on elsewhere, and an end without a word reads like a whole answer.
        return form.failure(Unavailable("the server is restarting: ask again"))


async def _write(stream: EventStream, steps: AsyncIterator[Step[E]], form: Form[E]) -> bytes:
    async for step in steps:
        if step.context is not None:
            form.begin(step.context)
        if step.cache is not None:
            stream.add_headers(cache_headers(step.cache))
        text = form.pieces(step.pieces) if step.pieces else b""
        if step.ending is not None:
            return text + form.end(step.ending)
        if text:
            await stream.write(text)
    raise Unavailable("the answer broke off")
