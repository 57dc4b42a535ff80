"""Retrieval over gRPC, on behalf of the user whose answer it is for."""

import asyncio
from collections.abc import Sequence
from typing import Final

import grpc.aio

from parley.retrieval.v1 import search_service_pb2, search_service_pb2_grpc
from services.inference.embedding import TEXT_CHARS_MAX, Embedded
from services.inference.money.purse import Payer
from services.mesh.client import unary
from services.mesh.errors import Cancelled, DeadlineExceeded, Overloaded, RetrievalUnavailable, Unavailable
from services.mesh.tokens import OnBehalfOf, WorkloadTokens

RETRIEVAL: Final = search_service_pb2.DESCRIPTOR


class EmbeddingClient:
    """See `services.inference.embedding.Embeds`.

    Args:
        channel: to retrieval.
        tokens: of this workload.
        timeout_s: of a call, its token included.
    """

    def __init__(self, channel: grpc.aio.Channel, tokens: WorkloadTokens, *, timeout_s: float) -> None:
        self._stub = search_service_pb2_grpc.EmbeddingServiceStub(channel)
        self._tokens = tokens
        self._timeout_s = timeout_s

    async def embed(self, payer: Payer, texts: Sequence[str]) -> Embedded:
        """See `Embeds.embed`."""
        request = search_service_pb2.EmbedRequest(
            texts=[text[:TEXT_CHARS_MAX] for text in texts], kind=search_service_pb2.EMBEDDING_KIND_QUESTION
        )
        absent = OnBehalfOf(organization_id=payer.organization_id, subject_id=payer.user_id)
        try:
            async with asyncio.timeout(self._timeout_s):
                metadata = await self._tokens.metadata("retrieval", absent)
                response = await unary(self._stub.Embed(request, metadata=metadata, timeout=self._timeout_s))
        except (Unavailable, Overloaded, DeadlineExceeded, Cancelled, TimeoutError) as error:
            raise RetrievalUnavailable("the encoder cannot be asked now", retry_after_s=1.0) from error
        vectors = tuple(tuple(embedding.values) for embedding in response.embeddings)
        return Embedded(vectors=vectors, encoder=response.encoder)
