"""`POST /v1/embeddings`: vectors of the platform's own encoder."""

import base64
import struct
from dataclasses import dataclass
from typing import Final

from starlette.types import Receive, Scope, Send

from edge.compat.body import Body
from edge.compat.generations import DEFAULT_MODEL, Callers
from edge.http import Exchange
from edge.middleware import ROUTE_KEY
from edge.transcoding.encoding import dump
from edge.transcoding.requests import read_json, refusal
from edge.transcoding.scalars import Misfit
from parley.retrieval.v1 import search_service_pb2, search_service_pb2_grpc
from services.mesh.client import unary

TEXTS_MAX: Final = 2_048
"""What OpenAI takes in one request."""
CHARACTERS_MAX: Final = 8_000
"""What retrieval takes of one text, of which the shipped encoder reads 256 tokens."""
TEXTS_PER_CALL: Final = 64
"""A call of so many long texts ends well within its time, also on a machine that is busy."""
_FORMATS: Final = frozenset({"float", "base64"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked for.

    Attributes:
        model: of the vectors; empty for the platform's encoder.
        dimensions: that the vectors shall have; None for as many as they have.
    """

    texts: list[str]
    model: str
    is_base64: bool
    dimensions: int | None


class CreateEmbeddings:
    """The endpoint."""

    def __init__(self, callers: Callers, stub: search_service_pb2_grpc.EmbeddingServiceStub) -> None:
        self._callers = callers
        self._stub = stub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        scope[ROUTE_KEY] = "openai.embeddings"
        await self._callers.metadata_for(exchange, "retrieval")  # before the body is read: nobody, no work
        try:
            answer = await self._embed(exchange, read_wish(await read_json(exchange)))
        except Misfit as misfit:
            raise refusal(misfit) from None
        await exchange.respond(200, dump(answer))

    async def _embed(self, exchange: Exchange, wish: Wish) -> dict[str, object]:
        data: list[dict[str, object]] = []
        encoder, tokens = "", 0
        for start in range(0, len(wish.texts), TEXTS_PER_CALL):
            request = search_service_pb2.EmbedRequest(
                texts=wish.texts[start : start + TEXTS_PER_CALL], model=wish.model
            )
            metadata = await self._callers.metadata_for(exchange, "retrieval")
            made = await unary(self._stub.Embed(request, metadata=metadata))
            if wish.dimensions not in {None, made.dimension}:
                raise Misfit(f"must be {made.dimension}: vectors of this encoder cannot be shortened", "dimensions")
            encoder, tokens = made.encoder, tokens + made.input_tokens
            for index, embedding in enumerate(made.embeddings, start):
                vector = _packed(embedding) if wish.is_base64 else list(embedding.values)
                data.append({"object": "embedding", "index": index, "embedding": vector})
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": encoder, "usage": usage}


def read_wish(document: object) -> Wish:
    """What a body asks for.

    Raises:
        Misfit: it cannot be served as it is; the parameter is named.
    """
    body = Body(document)
    model = body.required_text("model")
    encoding = body.text("encoding_format") or "float"
    if encoding not in _FORMATS:
        raise Misfit("must be `float` or `base64`", "encoding_format")
    wish = Wish(
        texts=_texts(body),
        model="" if model == DEFAULT_MODEL else model,
        is_base64=encoding == "base64",
        dimensions=body.integer("dimensions"),
    )
    body.refuse_unknown(frozenset({"user"}))
    return wish


def _texts(body: Body) -> list[str]:
    if type(body.take("input")) is str:
        return [_sound(body.text("input"), "input")]
    items = body.items("input")
    if not 1 <= len(items) <= TEXTS_MAX:
        raise Misfit(f"must be a text, or a list of 1 to {TEXTS_MAX} texts", "input")
    if any(type(item) in {int, list} for item in items):
        raise Misfit("must be text: tokens of another model's tokenizer mean nothing to this encoder", "input")
    return [_sound(Body({"text": item}).text("text"), f"input[{index}]") for index, item in enumerate(items)]


def _sound(text: str | None, name: str) -> str:
    if not text or len(text) > CHARACTERS_MAX:
        raise Misfit(f"must be a text of 1 to {CHARACTERS_MAX} characters", name)
    return text


def _packed(embedding: search_service_pb2.Embedding) -> str:
    """Four bytes per value, the least significant first, in base64."""
    values = embedding.values
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode("ascii")
