"""A stand-in for retrieval's EmbeddingService: vectors that tell which text they are of."""

# ruff: noqa: N802 - gRPC names methods after RPCs.

from typing import Final

from parley.retrieval.v1 import search_service_pb2 as pb
from parley.retrieval.v1 import search_service_pb2_grpc
from services.mesh.errors import MeshError, ModelUnknown
from services.mesh.rpc import RpcContext
from tests.support.fakes.serving import serving

ENCODER: Final = "words@1"
DIMENSION: Final = 4


@serving(search_service_pb2_grpc.EmbeddingServiceServicer)
class FakeEmbedding:
    """Embeds by the length of a text, and counts words for tokens; `failure` is what it says instead."""

    def __init__(self) -> None:
        self.requests: list[pb.EmbedRequest] = []
        self.failure: MeshError | None = None

    async def Embed(self, request: pb.EmbedRequest, context: RpcContext) -> pb.EmbedResponse:
        self.requests.append(request)
        if self.failure is not None:
            raise self.failure
        if request.model not in {"", "words", ENCODER}:
            raise ModelUnknown("no such encoder", metadata={"model": request.model})
        return pb.EmbedResponse(
            embeddings=[pb.Embedding(values=vector(text)) for text in request.texts],
            encoder=ENCODER,
            input_tokens=sum(len(text.split()) for text in request.texts),
            dimension=DIMENSION,
        )


def vector(text: str) -> list[float]:
    return [float(len(text)), 0.5, 0.0, -0.25]
