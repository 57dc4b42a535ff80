"""KnowledgeBaseService."""

from typing import Final

from parley.retrieval.v1 import knowledge_base_service_pb2 as pb
from parley.retrieval.v1 import knowledge_base_service_pb2_grpc
from services.mesh import idempotency, pages, rpc
from services.mesh.errors import invalid_field
from services.mesh.rpc import RpcContext
from services.retrieval import wire
from services.retrieval.knowledge import KnowledgeBases
from services.retrieval.model import KnowledgeBaseId, OrganizationId

_UPDATABLE: Final = frozenset({"display_name", "description"})


class KnowledgeBaseServicer(knowledge_base_service_pb2_grpc.KnowledgeBaseServiceServicer):
    """See the contract."""

    def __init__(self, knowledge_bases: KnowledgeBases) -> None:
        self._knowledge_bases = knowledge_bases

    async def CreateKnowledgeBase(
        self, request: pb.CreateKnowledgeBaseRequest, context: RpcContext
    ) -> pb.CreateKnowledgeBaseResponse:
        """See the contract."""
        made = await self._knowledge_bases.create(
            organization(),
            display_name=request.display_name,
            description=request.description,
            request_id=idempotency.check_key(request.request_id),
            digest=idempotency.request_hash(request).hex(),
        )
        return pb.CreateKnowledgeBaseResponse(knowledge_base=wire.knowledge_base(made))

    async def GetKnowledgeBase(
        self, request: pb.GetKnowledgeBaseRequest, context: RpcContext
    ) -> pb.GetKnowledgeBaseResponse:
        """See the contract."""
        found = await self._knowledge_bases.get(organization(), KnowledgeBaseId(request.knowledge_base_id))
        return pb.GetKnowledgeBaseResponse(knowledge_base=wire.knowledge_base(found))

    async def ListKnowledgeBases(
        self, request: pb.ListKnowledgeBasesRequest, context: RpcContext
    ) -> pb.ListKnowledgeBasesResponse:
        """See the contract."""
        query = ("knowledge_bases",)
        page = pages.parse_page(request.page_size, request.page_token, query=query)
        found = await self._knowledge_bases.list(organization(), wire.page(page))
        shown, token = wire.cut(found, page, query)
        return pb.ListKnowledgeBasesResponse(
            knowledge_bases=[wire.knowledge_base(made) for made in shown], next_page_token=token
        )

    async def UpdateKnowledgeBase(
        self, request: pb.UpdateKnowledgeBaseRequest, context: RpcContext
    ) -> pb.UpdateKnowledgeBaseResponse:
        """See the contract."""
        paths = _paths(request)
        new = request.knowledge_base
        changed = await self._knowledge_bases.update(
            organization(),
            KnowledgeBaseId(request.knowledge_base_id),
            display_name=new.display_name if "display_name" in paths else None,
            description=new.description if "description" in paths else None,
        )
        return pb.UpdateKnowledgeBaseResponse(knowledge_base=wire.knowledge_base(changed))

    async def DeleteKnowledgeBase(
        self, request: pb.DeleteKnowledgeBaseRequest, context: RpcContext
    ) -> pb.DeleteKnowledgeBaseResponse:
        """See the contract."""
        await self._knowledge_bases.delete(organization(), KnowledgeBaseId(request.knowledge_base_id))
        return pb.DeleteKnowledgeBaseResponse()


def organization() -> OrganizationId:
    """Whose call this is."""
    return OrganizationId(rpc.principal().organization_id)


def _paths(request: pb.UpdateKnowledgeBaseRequest) -> set[str]:
    """The fields to change; those that the body holds when the mask is absent."""
    if not request.HasField("update_mask"):
        return {field.name for field, _ in request.knowledge_base.ListFields()} & _UPDATABLE
    paths = set(request.update_mask.paths)
    unknown = sorted(paths - _UPDATABLE)
    if unknown:
        raise invalid_field("update_mask", f"{unknown[0]!r} cannot be changed; display_name and description can")
    return paths
