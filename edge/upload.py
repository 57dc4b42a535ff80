"""`POST /api/v1/knowledge_bases/{id}/documents`: a file from a multipart form, streamed to retrieval as it arrives."""

import asyncio
from typing import Final

import grpc.aio
from starlette.types import Receive, Scope, Send

from edge.http import Exchange
from edge.middleware import ROUTE_KEY
from edge.multipart import FileForm
from edge.transcoding.contracts import contracts
from edge.transcoding.encoding import Encoders, dump
from edge.transcoding.endpoints import Border
from edge.transcoding.requests import refusal
from edge.transcoding.routes import PARAMETERS_KEY
from edge.transcoding.scalars import Misfit
from parley.retrieval.v1 import document_service_pb2, document_service_pb2_grpc, knowledge_base_pb2
from services.mesh.client import unary

METHOD: Final = "parley.retrieval.v1.DocumentService.UploadDocument"
PATH: Final = "/api/v1/knowledge_bases/{knowledge_base_id}/documents"
MESSAGE_BYTES_MAX: Final = 512 * 1024
"""Half of what the contract lets a message hold."""

_Call = grpc.aio.StreamUnaryCall[
    document_service_pb2.UploadDocumentRequest, document_service_pb2.UploadDocumentResponse
]


class UploadDocument:
    """The endpoint; the file is never whole in memory."""

    def __init__(
        self, border: Border, documents: document_service_pb2_grpc.DocumentServiceStub, encoders: Encoders
    ) -> None:
        self._border = border
        self._documents = documents
        self._contract = contracts()[METHOD]
        self._encode = encoders.of(knowledge_base_pb2.Document.DESCRIPTOR)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        scope[ROUTE_KEY] = METHOD
        metadata = await self._border.metadata(exchange, self._contract)
        try:
            form = FileForm(exchange)
            header = document_service_pb2.UploadDocumentHeader(
                knowledge_base_id=scope[PARAMETERS_KEY]["knowledge_base_id"], display_name=await form.begin()
            )
            call = self._documents.UploadDocument(metadata=metadata)
            try:
                await _send(call, header, form)
                response = await unary(call)
            finally:
                call.cancel()  # nothing after an answer; before one, retrieval drops what it has
        except Misfit as misfit:
            raise refusal(misfit) from None
        await exchange.respond(self._contract.success_status, dump(self._encode(response.document)))


async def _send(call: _Call, header: document_service_pb2.UploadDocumentHeader, form: FileForm) -> None:
    """Header and bytes, until retrieval has heard enough: its answer is then read by the caller."""
    try:
        await call.write(document_service_pb2.UploadDocumentRequest(header=header))
        async for piece in form.pieces():
            for start in range(0, len(piece), MESSAGE_BYTES_MAX):
                data = piece[start : start + MESSAGE_BYTES_MAX]
                await call.write(document_service_pb2.UploadDocumentRequest(data=data))
        await call.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return
