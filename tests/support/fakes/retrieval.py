"""A stand-in for retrieval, for tests of the edge: knowledge bases and uploads in memory."""

# ruff: noqa: N802 - gRPC names methods after RPCs.

from collections.abc import AsyncIterator, Iterable

from parley.retrieval.v1 import document_service_pb2 as documents_pb
from parley.retrieval.v1 import knowledge_base_pb2, knowledge_base_service_pb2_grpc
from parley.retrieval.v1 import knowledge_base_service_pb2 as bases_pb
from parley.retrieval.v1.document_service_pb2_grpc import DocumentServiceServicer
from services.mesh.errors import DocumentTooLarge, DocumentUnsupported, NotFound
from services.mesh.ids import new_id
from services.mesh.rpc import RpcContext
from tests.support.fakes.serving import serving


@serving(knowledge_base_service_pb2_grpc.KnowledgeBaseServiceServicer)
class FakeKnowledgeBases:
    """Knowledge bases in a dictionary."""

    def __init__(self) -> None:
        self.stored: dict[str, knowledge_base_pb2.KnowledgeBase] = {}

    async def CreateKnowledgeBase(
        self, request: bases_pb.CreateKnowledgeBaseRequest, context: RpcContext
    ) -> bases_pb.CreateKnowledgeBaseResponse:
        base = knowledge_base_pb2.KnowledgeBase(id=new_id("kb"), display_name=request.display_name)
        self.stored[base.id] = base
        return bases_pb.CreateKnowledgeBaseResponse(knowledge_base=base)

    async def ListKnowledgeBases(
        self, request: bases_pb.ListKnowledgeBasesRequest, context: RpcContext
    ) -> bases_pb.ListKnowledgeBasesResponse:
        return bases_pb.ListKnowledgeBasesResponse(knowledge_bases=self.stored.values())


@serving(DocumentServiceServicer)
class FakeDocuments:
    """Keeps uploads; refuses what begins with `%BAD`, and more than `bytes_max` bytes.

    Attributes:
        files: bytes by file name, whole uploads only.
        broken: uploads that ended before their last byte.
        largest: size of the largest message.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.broken = 0
        self.largest = 0
        self.bytes_max = 25 * 1024 * 1024

    async def UploadDocument(
        self, request_iterator: AsyncIterator[documents_pb.UploadDocumentRequest], context: RpcContext
    ) -> documents_pb.UploadDocumentResponse:
        content, header = b"", documents_pb.UploadDocumentHeader()
        is_whole = False
        try:
            async for request in request_iterator:
                if request.HasField("header"):
                    header = request.header
                    continue
                self.largest = max(self.largest, len(request.data))
                content += request.data
                if content.startswith(b"%BAD"):
                    raise DocumentUnsupported("no supported type", metadata={"media_type": "application/x-bad"})
                if len(content) > self.bytes_max:
                    raise DocumentTooLarge(metadata={"limit": str(self.bytes_max)})
            is_whole = True
        finally:
            self.broken += not is_whole
        self.files[header.display_name] = content
        document = knowledge_base_pb2.Document(
            id=new_id("doc"),
            knowledge_base_id=header.knowledge_base_id,
            version=1,
            display_name=header.display_name,
            size_bytes=len(content),
            state=knowledge_base_pb2.DOCUMENT_STATE_QUEUED,
        )
        return documents_pb.UploadDocumentResponse(document=document)

    async def WatchDocument(
        self, request: documents_pb.WatchDocumentRequest, context: RpcContext
    ) -> AsyncIterator[documents_pb.WatchDocumentResponse]:
        if not request.document_id.startswith("doc_"):
            raise NotFound.of("document")
        states: Iterable[knowledge_base_pb2.DocumentState.ValueType] = (
            knowledge_base_pb2.DOCUMENT_STATE_PROCESSING,
            knowledge_base_pb2.DOCUMENT_STATE_READY,
        )
        for state in states:
            document = knowledge_base_pb2.Document(id=request.document_id, state=state)
            yield documents_pb.WatchDocumentResponse(document=document)
            if request.HasField("follow") and not request.follow:
                return
