"""`POST /anthropic/v1/messages` and `POST /anthropic/v1/messages/count_tokens`: answered, and stored by nobody."""

import secrets
from typing import Final

from starlette.types import Receive, Scope, Send

from edge.compat.answering import respond
from edge.compat.anthropic.answers import Message
from edge.compat.anthropic.errors import REQUEST_ID
from edge.compat.anthropic.requests import Wish, read_wish
from edge.compat.caching import cache_use
from edge.compat.generations import Callers, Generations, refuse_huge
from edge.http import Exchange
from edge.middleware import ROUTE_KEY
from edge.sse import EventStreams
from edge.transcoding.encoding import dump
from edge.transcoding.requests import read_json, refusal
from edge.transcoding.scalars import Misfit
from parley.inference.v1 import generation_pb2, generation_service_pb2, generation_service_pb2_grpc
from services.mesh import context
from services.mesh.client import unary

ESTIMATED: Final = "x-parley-estimated"
"""Says `true` on a count that the model's own tokenizer did not make."""


class CreateMessage:
    """An answer, whole or as events."""

    def __init__(
        self, callers: Callers, generations: Generations[generation_pb2.Answer], streams: EventStreams
    ) -> None:
        self._callers = callers
        self._generations = generations
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        scope[ROUTE_KEY] = "anthropic.messages"
        metadata = await self._callers.metadata_for(exchange, "inference")  # before the body is read: nobody, no work
        wish = await _read(exchange, is_count=False)
        request = generation_service_pb2.StreamGenerateRequest(
            model=wish.model,
            prompt=wish.prompt,
            parameters=wish.parameters,
            # An inference of before `is_whole` sends all of it, of which nobody has seen any.
            is_whole=not wish.is_stream,
            accepts_restart=not wish.is_stream,
            cache=cache_use(exchange),
            defers_started=True,
        )
        request_id = context.request_id()
        form = Message(identity=f"msg_{secrets.token_hex(12)}", model=wish.model_name, request_id=request_id)
        await respond(
            exchange,
            self._generations.steps(request, metadata),
            form,
            streams=self._streams if wish.is_stream else None,
            headers=((REQUEST_ID, request_id),),
        )


class CountTokens:
    """What a prompt would cost to read."""

    def __init__(self, callers: Callers, stub: generation_service_pb2_grpc.GenerationServiceStub) -> None:
        self._callers = callers
        self._stub = stub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        scope[ROUTE_KEY] = "anthropic.messages.count_tokens"
        metadata = await self._callers.metadata_for(exchange, "inference")
        wish = await _read(exchange, is_count=True)
        request = generation_service_pb2.CountTokensRequest(model=wish.model, prompt=wish.prompt)
        refuse_huge(request.ByteSize())
        count = await unary(self._stub.CountTokens(request, metadata=metadata))
        headers = ((REQUEST_ID, context.request_id()), (ESTIMATED, "true" if count.estimated else "false"))
        await exchange.respond(200, dump({"input_tokens": count.input_tokens}), headers=headers)


async def _read(exchange: Exchange, *, is_count: bool) -> Wish:
    try:
        return read_wish(await read_json(exchange), is_count=is_count)
    except Misfit as misfit:
        raise refusal(misfit) from None
