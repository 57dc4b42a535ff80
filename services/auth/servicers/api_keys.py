"""ApiKeyService."""

from parley.auth.v1 import api_key_service_pb2 as pb
from parley.auth.v1.api_key_service_pb2_grpc import ApiKeyServiceServicer
from services.auth import wire
from services.auth.api_keys import ApiKeys
from services.auth.servicers.caller import caller
from services.mesh.pages import next_page_token, parse_page
from services.mesh.rpc import RpcContext


class ApiKeyServicer(ApiKeyServiceServicer):
    """Manages the calling user's API keys."""

    def __init__(self, api_keys: ApiKeys) -> None:
        self._api_keys = api_keys

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, _context: RpcContext) -> pb.CreateApiKeyResponse:
        """Makes a key and shows its secret."""
        minted = await self._api_keys.create(caller(), wire.new_key_of(request))
        return pb.CreateApiKeyResponse(api_key=wire.api_key_message(minted.key), secret=minted.secret)

    async def GetApiKey(self, request: pb.GetApiKeyRequest, _context: RpcContext) -> pb.GetApiKeyResponse:
        """A key of the caller."""
        key = await self._api_keys.get(caller(), request.api_key_id)
        return pb.GetApiKeyResponse(api_key=wire.api_key_message(key))

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, _context: RpcContext) -> pb.ListApiKeysResponse:
        """The caller's keys."""
        who = caller()
        query = ("api_keys", who.user_id)
        page = parse_page(request.page_size, request.page_token, query=query)
        found = await self._api_keys.list(who, before=wire.cursor_of(page.after), limit=page.size + 1)
        has_more = len(found) > page.size
        token = next_page_token(wire.position_of(found[page.size - 1]), query=query) if has_more else ""
        return pb.ListApiKeysResponse(
            api_keys=[wire.api_key_message(key) for key in found[: page.size]], next_page_token=token
        )

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, _context: RpcContext) -> pb.RevokeApiKeyResponse:
        """Ends a key."""
        key = await self._api_keys.revoke(caller(), request.api_key_id)
        return pb.RevokeApiKeyResponse(api_key=wire.api_key_message(key))
