"""UserService and OrganizationService."""

from typing import Final

from parley.auth.v1 import organization_service_pb2, user_pb2
from parley.auth.v1 import user_service_pb2 as pb
from parley.auth.v1.organization_service_pb2_grpc import OrganizationServiceServicer
from parley.auth.v1.user_service_pb2_grpc import UserServiceServicer
from services.auth import wire
from services.auth.accounts import Accounts
from services.auth.login import Sessions
from services.auth.servicers.caller import caller
from services.mesh import context
from services.mesh.pages import next_page_token, parse_page
from services.mesh.rpc import RpcContext

_USERS: Final = ("users",)
"""What a page token of ListUsers belongs to."""


class UserServicer(UserServiceServicer):
    """Manages the people of an organization."""

    def __init__(self, accounts: Accounts, sessions: Sessions) -> None:
        self._accounts = accounts
        self._sessions = sessions

    async def RegisterUser(self, request: pb.RegisterUserRequest, _context: RpcContext) -> pb.RegisterUserResponse:
        """Creates an organization with its first owner."""
        user = await self._accounts.register(wire.registration_of(request), request_id=context.request_id())
        return pb.RegisterUserResponse(user=wire.user_message(user))

    async def GetMe(self, _request: pb.GetMeRequest, _context: RpcContext) -> pb.GetMeResponse:
        """The calling user."""
        return pb.GetMeResponse(user=wire.user_message(await self._accounts.me(caller())))

    async def ChangePassword(
        self, request: pb.ChangePasswordRequest, _context: RpcContext
    ) -> pb.ChangePasswordResponse:
        """Replaces the calling user's password."""
        await self._sessions.change_password(caller(), request.current_password, request.new_password)
        return pb.ChangePasswordResponse()

    async def CreateUser(self, request: pb.CreateUserRequest, _context: RpcContext) -> pb.CreateUserResponse:
        """Adds a person to the caller's organization."""
        user = await self._accounts.create(caller(), wire.new_user_of(request))
        return pb.CreateUserResponse(user=wire.user_message(user))

    async def GetUser(self, request: pb.GetUserRequest, _context: RpcContext) -> pb.GetUserResponse:
        """A user of the caller's organization."""
        return pb.GetUserResponse(user=wire.user_message(await self._accounts.get(caller(), request.user_id)))

    async def ListUsers(self, request: pb.ListUsersRequest, _context: RpcContext) -> pb.ListUsersResponse:
        """The users of the caller's organization."""
        page = parse_page(request.page_size, request.page_token, query=_USERS)
        found = await self._accounts.list(caller(), after=wire.cursor_of(page.after), limit=page.size + 1)
        shown: list[user_pb2.User] = [wire.user_message(user) for user in found[: page.size]]
        has_more = len(found) > page.size
        token = next_page_token(wire.position_of(found[page.size - 1]), query=_USERS) if has_more else ""
        return pb.ListUsersResponse(users=shown, next_page_token=token)

    async def UpdateUser(self, request: pb.UpdateUserRequest, _context: RpcContext) -> pb.UpdateUserResponse:
        """Changes a user."""
        user = await self._accounts.update(caller(), request.user_id, wire.change_of(request))
        return pb.UpdateUserResponse(user=wire.user_message(user))


class OrganizationServicer(OrganizationServiceServicer):
    """The caller's organization."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def GetOrganization(
        self, _request: organization_service_pb2.GetOrganizationRequest, _context: RpcContext
    ) -> organization_service_pb2.GetOrganizationResponse:
        """The caller's organization."""
        organization = await self._accounts.organization(caller())
        return organization_service_pb2.GetOrganizationResponse(organization=wire.organization_message(organization))

    async def UpdateOrganization(
        self, request: organization_service_pb2.UpdateOrganizationRequest, _context: RpcContext
    ) -> organization_service_pb2.UpdateOrganizationResponse:
        """Renames the caller's organization."""
        organization = await self._accounts.rename_organization(caller(), request.display_name)
        return organization_service_pb2.UpdateOrganizationResponse(organization=wire.organization_message(organization))
