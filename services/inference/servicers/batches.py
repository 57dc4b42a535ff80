"""Batches and their results."""

from parley.inference.v1 import batch_service_pb2, batch_service_pb2_grpc
from services.inference.batches.making import Batches
from services.inference.batches.model import Owner
from services.inference.wire import batches
from services.mesh.pages import next_page_token, parse_page
from services.mesh.rpc import RpcContext, principal


class BatchServicer(batch_service_pb2_grpc.BatchServiceServicer):
    """Serves parley.inference.v1.BatchService for the calling user.

    Args:
        made: keeps them.
    """

    def __init__(self, made: Batches) -> None:
        self._made = made

    async def CreateBatch(
        self, request: batch_service_pb2.CreateBatchRequest, context: RpcContext
    ) -> batch_service_pb2.CreateBatchResponse:
        """See the contract."""
        entries, repeat = batches.entries(request), batches.repeat(request)
        made = await self._made.create(batches.payer(principal()), entries, repeat)
        return batch_service_pb2.CreateBatchResponse(batch=batches.to_batch(made))

    async def GetBatch(
        self, request: batch_service_pb2.GetBatchRequest, context: RpcContext
    ) -> batch_service_pb2.GetBatchResponse:
        """See the contract."""
        found = await self._made.get(_owner(), request.batch_id)
        return batch_service_pb2.GetBatchResponse(batch=batches.to_batch(found))

    async def ListBatches(
        self, request: batch_service_pb2.ListBatchesRequest, context: RpcContext
    ) -> batch_service_pb2.ListBatchesResponse:
        """See the contract."""
        owner = _owner()
        query = ("batches", owner.organization_id, owner.user_id)
        page = parse_page(request.page_size, request.page_token, query=query)
        before = str(page.after[0]) if page.after else ""
        found = await self._made.page(owner, before=before, limit=page.size + 1)
        shown = found[: page.size]
        token = next_page_token((shown[-1].id,), query=query) if len(found) > page.size else ""
        return batch_service_pb2.ListBatchesResponse(
            batches=[batches.to_batch(one) for one in shown], next_page_token=token
        )

    async def CancelBatch(
        self, request: batch_service_pb2.CancelBatchRequest, context: RpcContext
    ) -> batch_service_pb2.CancelBatchResponse:
        """See the contract."""
        found = await self._made.cancel(_owner(), request.batch_id)
        return batch_service_pb2.CancelBatchResponse(batch=batches.to_batch(found))

    async def DeleteBatch(
        self, request: batch_service_pb2.DeleteBatchRequest, context: RpcContext
    ) -> batch_service_pb2.DeleteBatchResponse:
        """See the contract."""
        await self._made.delete(_owner(), request.batch_id)
        return batch_service_pb2.DeleteBatchResponse()

    async def ListBatchResults(
        self, request: batch_service_pb2.ListBatchResultsRequest, context: RpcContext
    ) -> batch_service_pb2.ListBatchResultsResponse:
        """See the contract."""
        owner = _owner()
        query = ("batch_results", owner.organization_id, owner.user_id, request.batch_id)
        page = parse_page(request.page_size, request.page_token, query=query)
        after = int(page.after[0]) if page.after else -1
        found = await self._made.results(owner, request.batch_id, after=after, limit=page.size)
        token = next_page_token((found.items[-1].number,), query=query) if found.has_more else ""
        return batch_service_pb2.ListBatchResultsResponse(
            results=[batches.to_result(item) for item in found.items], next_page_token=token
        )


def _owner() -> Owner:
    caller = principal()
    return Owner(caller.organization_id, caller.subject_id)
