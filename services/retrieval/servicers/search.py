"""SearchService and EmbeddingService."""

from parley.retrieval.v1 import search_service_pb2 as pb
from parley.retrieval.v1 import search_service_pb2_grpc
from services.mesh.errors import invalid_field
from services.mesh.rpc import RpcContext
from services.retrieval import wire
from services.retrieval.embedding.service import Embedder
from services.retrieval.model import QUERY_CHARACTERS_MAX, TEXTS_PER_EMBED_MAX, KnowledgeBaseId
from services.retrieval.search import Search
from services.retrieval.servicers.knowledge_bases import organization


class SearchServicer(search_service_pb2_grpc.SearchServiceServicer):
    """See the contract."""

    def __init__(self, search: Search) -> None:
        self._search = search

    async def Search(self, request: pb.SearchRequest, context: RpcContext) -> pb.SearchResponse:
        """See the contract."""
        found = await self._search.find(
            organization(), KnowledgeBaseId(request.knowledge_base_id), wire.question(request)
        )
        return wire.findings(found)


class EmbeddingServicer(search_service_pb2_grpc.EmbeddingServiceServicer):
    """See the contract."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def Embed(self, request: pb.EmbedRequest, context: RpcContext) -> pb.EmbedResponse:
        """See the contract."""
        texts = list(request.texts)
        if not 1 <= len(texts) <= TEXTS_PER_EMBED_MAX:
            raise invalid_field("texts", f"must be 1 to {TEXTS_PER_EMBED_MAX}")
        for place, text in enumerate(texts):
            if not 1 <= len(text) <= QUERY_CHARACTERS_MAX:
                raise invalid_field(f"texts[{place}]", f"must be 1 to {QUERY_CHARACTERS_MAX} characters")
        self._embedder.require(request.model)
        embed = self._embedder.embed_questions if wire.is_question(request) else self._embedder.embed_passages
        return pb.EmbedResponse(
            embeddings=wire.embeddings(await embed(texts)),
            encoder=self._embedder.revision,
            input_tokens=await self._embedder.count_tokens(texts),
            dimension=self._embedder.dimension,
        )
