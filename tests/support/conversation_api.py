"""The gRPC API of conversation as a user calls it."""

from dataclasses import dataclass
from typing import Any

import grpc.aio

from parley.conversation.v1 import conversation_pb2, conversation_service_pb2_grpc
from parley.conversation.v1 import conversation_service_pb2 as pb
from parley.conversation.v1 import turn_service_pb2 as turns_pb
from parley.conversation.v1.turn_service_pb2_grpc import TurnServiceStub
from services.conversation.running.reaper import Reaper
from services.mesh.client import unary
from services.mesh.status import from_rpc_error
from tests.support.tokens import Issuer

SCOPES = ("conversations:read", "conversations:write", "turns:write", "feedback:write")


@dataclass(slots=True)
class User:
    """Calls the API with tokens of one user."""

    channel: grpc.aio.Channel
    issuer: Issuer
    reaper: Reaper
    organization_id: str = "org_acme"
    user_id: str = "usr_ada"
    scopes: tuple[str, ...] = SCOPES

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        token = self.issuer.mint(
            audience="conversation",
            scopes=self.scopes,
            organization_id=self.organization_id,
            subject_id=self.user_id,
        )
        return (("authorization", f"Bearer {token}"),)

    async def call(self, name: str, request: Any) -> Any:  # Any: methods and messages of all services
        for stub in (
            conversation_service_pb2_grpc.ConversationServiceStub(self.channel),
            conversation_service_pb2_grpc.MessageServiceStub(self.channel),
            conversation_service_pb2_grpc.FeedbackServiceStub(self.channel),
            TurnServiceStub(self.channel),
        ):
            if hasattr(stub, name):
                return await unary(getattr(stub, name)(request, metadata=self.metadata, timeout=20.0))
        raise AssertionError(name)

    async def create(self, **fields: Any) -> conversation_pb2.Conversation:  # Any: fields of the request
        response = await self.call("CreateConversation", pb.CreateConversationRequest(**fields))
        conversation: conversation_pb2.Conversation = response.conversation
        return conversation

    async def ask(self, conversation_id: str, text: str = "?", **fields: Any) -> Any:  # Any: as above
        request = turns_pb.CreateTurnRequest(
            conversation_id=conversation_id, new=turns_pb.NewMessage(text=text), **fields
        )
        return (await self.call("CreateTurn", request)).turn

    async def look(self, turn_id: str, after: int = 0) -> list[Any]:  # Any: events
        request = turns_pb.StreamTurnEventsRequest(turn_id=turn_id, after_sequence=after, follow=False)
        call = TurnServiceStub(self.channel).StreamTurnEvents(request, metadata=self.metadata, timeout=20.0)
        try:
            return [event async for response in call for event in response.events]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error


def other(user: User, **changes: Any) -> User:  # Any: fields of User
    fields = {"organization_id": user.organization_id, "user_id": user.user_id, "scopes": user.scopes, **changes}
    return User(user.channel, user.issuer, user.reaper, **fields)
