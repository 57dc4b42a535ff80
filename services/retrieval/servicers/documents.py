"""DocumentService."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from parley.retrieval.v1 import document_service_pb2 as pb
from parley.retrieval.v1 import document_service_pb2_grpc
from services.mesh import pages
from services.mesh.errors import InvalidArgument, invalid_field
from services.mesh.rpc import RpcContext
from services.retrieval import wire
from services.retrieval.documents import Documents
from services.retrieval.model import DocumentId, KnowledgeBaseId
from services.retrieval.servicers.knowledge_bases import organization


class DocumentServicer(document_service_pb2_grpc.DocumentServiceServicer):
    """See the contract."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def UploadDocument(
        self, request_iterator: AsyncIterator[pb.UploadDocumentRequest], context: RpcContext
    ) -> pb.UploadDocumentResponse:
        """See the contract."""
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("content") != "header":
            raise invalid_field("content", "the first message must be the header")
        stored = await self._documents.upload(
            organization(),
            KnowledgeBaseId(first.header.knowledge_base_id),
            first.header.display_name,
            _data(request_iterator),
        )
        return pb.UploadDocumentResponse(document=wire.document(stored))

    async def GetDocument(self, request: pb.GetDocumentRequest, context: RpcContext) -> pb.GetDocumentResponse:
        """See the contract."""
        found = await self._documents.get(organization(), DocumentId(request.document_id))
        return pb.GetDocumentResponse(document=wire.document(found))

    async def ListDocuments(self, request: pb.ListDocumentsRequest, context: RpcContext) -> pb.ListDocumentsResponse:
        """See the contract."""
        query = ("documents", request.knowledge_base_id)
        page = pages.parse_page(request.page_size, request.page_token, query=query)
        found = await self._documents.list(organization(), KnowledgeBaseId(request.knowledge_base_id), wire.page(page))
        shown, token = wire.cut(found, page, query)
        return pb.ListDocumentsResponse(documents=[wire.document(made) for made in shown], next_page_token=token)

    async def WatchDocument(
        self, request: pb.WatchDocumentRequest, context: RpcContext
    ) -> AsyncIterator[pb.WatchDocumentResponse]:
        """See the contract."""
        follow = request.follow if request.HasField("follow") else True
        states = self._documents.watch(organization(), DocumentId(request.document_id), follow=follow)
        async with aclosing(states):
            async for state in states:
                yield pb.WatchDocumentResponse(document=wire.document(state))

    async def GetDocumentText(
        self, request: pb.GetDocumentTextRequest, context: RpcContext
    ) -> pb.GetDocumentTextResponse:
        """See the contract."""
        read = await self._documents.read(
            organization(),
            DocumentId(request.document_id),
            version=request.document_version,
            start=request.start,
            end=request.end,
        )
        return wire.text_range(read)

    async def DeleteDocument(self, request: pb.DeleteDocumentRequest, context: RpcContext) -> pb.DeleteDocumentResponse:
        """See the contract."""
        await self._documents.delete(organization(), DocumentId(request.document_id))
        return pb.DeleteDocumentResponse()


async def _data(messages: AsyncIterator[pb.UploadDocumentRequest]) -> AsyncIterator[bytes]:
    async for message in messages:
        if message.WhichOneof("content") != "data":
            raise InvalidArgument("after the header, an upload holds data only")
        yield message.data
