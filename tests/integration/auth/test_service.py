"""Auth as its callers meet it: plain gRPC, the contract's messages, real PostgreSQL and Valkey."""

import logging
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc.aio
import pytest
import structlog
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from parley.auth.v1 import (
    api_key_service_pb2,
    api_key_service_pb2_grpc,
    organization_service_pb2,
    organization_service_pb2_grpc,
    token_service_pb2,
    token_service_pb2_grpc,
    user_pb2,
    user_service_pb2,
    user_service_pb2_grpc,
)
from services.auth.app import opened
from services.auth.settings import Settings
from services.mesh import telemetry
from services.mesh.errors import MeshError, Reason
from services.mesh.ids import new_id
from services.mesh.server import running
from services.mesh.status import from_rpc_error
from services.mesh.tokens import internal_verifier
from tests.support.auth import CONVERSATION, EDGE, PASSWORD, new_email

TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Auth:
    channel: grpc.aio.Channel
    tokens: token_service_pb2_grpc.TokenServiceStub
    users: user_service_pb2_grpc.UserServiceStub
    organizations: organization_service_pb2_grpc.OrganizationServiceStub
    keys: api_key_service_pb2_grpc.ApiKeyServiceStub

    async def register(self) -> user_pb2.User:
        request = user_service_pb2.RegisterUserRequest(email=new_email(), password=PASSWORD)
        return (await self.users.RegisterUser(request, timeout=TIMEOUT_S)).user

    async def login(self, user: user_pb2.User) -> token_service_pb2.LoginResponse:
        request = token_service_pb2.LoginRequest(email=user.email, password=PASSWORD)
        return await self.tokens.Login(request, timeout=TIMEOUT_S)

    async def session_token(self, user: user_pb2.User) -> str:
        kind = token_service_pb2.SESSION_KIND_COOKIE
        request = token_service_pb2.LoginRequest(email=user.email, password=PASSWORD, session_kind=kind)
        return (await self.tokens.Login(request, timeout=TIMEOUT_S)).session_token

    async def as_user(self, user: user_pb2.User) -> tuple[tuple[str, str], ...]:
        """The `metadata=` of calls by the user."""
        access_token = (await self.login(user)).tokens.access_token
        request = token_service_pb2.ExchangeTokenRequest(access_token=access_token, audiences=["auth"])
        response = await self.tokens.ExchangeToken(request, timeout=TIMEOUT_S)
        return (("authorization", f"Bearer {response.tokens[0].token}"),)


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[Auth]:
    async with (
        opened(settings) as (app, loops, checks),
        running(settings, servicers=app.servicers(), verifier=app.verifier(), loops=loops, checks=checks) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield Auth(
            channel,
            token_service_pb2_grpc.TokenServiceStub(channel),
            user_service_pb2_grpc.UserServiceStub(channel),
            organization_service_pb2_grpc.OrganizationServiceStub(channel),
            api_key_service_pb2_grpc.ApiKeyServiceStub(channel),
        )


@pytest.fixture
async def auth(settings: Settings) -> AsyncIterator[Auth]:
    async with served(settings) as service:
        yield service


def error_of(info: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> MeshError:
    return from_rpc_error(info.value)


async def test_a_person_registers_logs_in_refreshes_and_leaves(auth: Auth) -> None:
    user = await auth.register()
    assert user.role == user_pb2.ROLE_OWNER
    assert "organization:write" in user.scopes
    pair = (await auth.login(user)).tokens
    request = token_service_pb2.RefreshTokenRequest(refresh_token=pair.refresh_token)
    following = (await auth.tokens.RefreshToken(request, timeout=TIMEOUT_S)).tokens
    assert following.access_token_expire_time.seconds > 0
    await auth.tokens.Logout(token_service_pb2.LogoutRequest(refresh_token=following.refresh_token), timeout=TIMEOUT_S)
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await auth.tokens.RefreshToken(
            token_service_pb2.RefreshTokenRequest(refresh_token=following.refresh_token), timeout=TIMEOUT_S
        )
    assert error_of(info).reason is Reason.CREDENTIALS_INVALID


async def test_cookie_login_gives_a_session_token_that_is_traded(auth: Auth) -> None:
    user = await auth.register()
    session_token = await auth.session_token(user)
    request = token_service_pb2.ExchangeTokenRequest(
        session_token=session_token,
        workload=token_service_pb2.Workload(name=EDGE.name, secret=EDGE.secret),
        audiences=["conversation", "retrieval"],
    )
    response = await auth.tokens.ExchangeToken(request, timeout=TIMEOUT_S)
    assert [token.audience for token in response.tokens] == ["conversation", "retrieval"]
    assert list(response.scopes) == sorted(user.scopes)
    await auth.tokens.Logout(token_service_pb2.LogoutRequest(session_token=session_token), timeout=TIMEOUT_S)
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await auth.tokens.ExchangeToken(request, timeout=TIMEOUT_S)
    assert error_of(info).reason is Reason.CREDENTIALS_INVALID


async def test_other_services_verify_internal_tokens_with_the_published_keys(auth: Auth) -> None:
    user = await auth.register()
    key = await auth.keys.CreateApiKey(
        api_key_service_pb2.CreateApiKeyRequest(display_name="x"),
        metadata=await auth.as_user(user),
        timeout=TIMEOUT_S,
    )
    response = await auth.tokens.ExchangeToken(
        token_service_pb2.ExchangeTokenRequest(
            api_key=key.secret,
            workload=token_service_pb2.Workload(name=EDGE.name, secret=EDGE.secret),
            audiences=["retrieval"],
        ),
        timeout=TIMEOUT_S,
    )
    principal = await internal_verifier("retrieval", auth.channel).verify(response.tokens[0].token)
    assert (principal.subject_id, principal.organization_id) == (user.id, user.organization_id)
    assert (principal.caller, principal.credential_id) == ("edge", key.api_key.id)


async def test_published_keys_are_public_and_complete(auth: Auth) -> None:
    keys = (await auth.tokens.GetJwks(token_service_pb2.GetJwksRequest(), timeout=TIMEOUT_S)).keys
    assert keys
    for key in keys:
        assert (key.kty, key.crv, key.alg, key.use) == ("EC", "P-256", "ES256", "sig")
        assert {field.name for field in key.DESCRIPTOR.fields} == {"kty", "crv", "x", "y", "kid", "alg", "use"}


async def test_workload_works_for_an_absent_user(auth: Auth) -> None:
    user = await auth.register()
    request = token_service_pb2.ExchangeTokenRequest(
        on_behalf_of=token_service_pb2.OnBehalfOf(organization_id=user.organization_id, user_id=user.id),
        workload=token_service_pb2.Workload(name=CONVERSATION.name, secret=CONVERSATION.secret),
        audiences=["inference"],
    )
    response = await auth.tokens.ExchangeToken(request, timeout=TIMEOUT_S)
    assert list(response.scopes) == ["inference:generate", "knowledge:read", "models:read"]


async def test_key_is_made_listed_and_revoked_by_its_user(auth: Auth) -> None:
    metadata = await auth.as_user(await auth.register())
    expire_time = Timestamp(seconds=4_000_000_000)
    created = [
        await auth.keys.CreateApiKey(
            api_key_service_pb2.CreateApiKeyRequest(
                display_name=f"key {number}", scopes=["models:read"], expire_time=expire_time
            ),
            metadata=metadata,
            timeout=TIMEOUT_S,
        )
        for number in range(3)
    ]
    first = await auth.keys.ListApiKeys(
        api_key_service_pb2.ListApiKeysRequest(page_size=2), metadata=metadata, timeout=TIMEOUT_S
    )
    rest = await auth.keys.ListApiKeys(
        api_key_service_pb2.ListApiKeysRequest(page_size=2, page_token=first.next_page_token),
        metadata=metadata,
        timeout=TIMEOUT_S,
    )
    assert [key.display_name for key in (*first.api_keys, *rest.api_keys)] == ["key 2", "key 1", "key 0"]
    assert rest.next_page_token == ""
    assert first.api_keys[0].expire_time == expire_time
    key_id = created[0].api_key.id
    revoked = await auth.keys.RevokeApiKey(
        api_key_service_pb2.RevokeApiKeyRequest(api_key_id=key_id), metadata=metadata, timeout=TIMEOUT_S
    )
    read = await auth.keys.GetApiKey(
        api_key_service_pb2.GetApiKeyRequest(api_key_id=key_id), metadata=metadata, timeout=TIMEOUT_S
    )
    assert revoked.api_key.HasField("revoke_time")
    assert read.api_key == revoked.api_key


async def test_users_are_created_listed_by_pages_and_updated(auth: Auth) -> None:
    metadata = await auth.as_user(await auth.register())
    for number in range(2):
        await auth.users.CreateUser(
            user_service_pb2.CreateUserRequest(
                request_id=f"r-{number}", email=new_email(), password=PASSWORD, display_name=f"member {number}"
            ),
            metadata=metadata,
            timeout=TIMEOUT_S,
        )
    first = await auth.users.ListUsers(
        user_service_pb2.ListUsersRequest(page_size=2), metadata=metadata, timeout=TIMEOUT_S
    )
    rest = await auth.users.ListUsers(
        user_service_pb2.ListUsersRequest(page_size=2, page_token=first.next_page_token),
        metadata=metadata,
        timeout=TIMEOUT_S,
    )
    member = rest.users[0]
    assert (member.display_name, member.role) == ("member 1", user_pb2.ROLE_MEMBER)
    updated = await auth.users.UpdateUser(
        user_service_pb2.UpdateUserRequest(user_id=member.id, user=user_pb2.User(role=user_pb2.ROLE_ADMIN)),
        metadata=metadata,
        timeout=TIMEOUT_S,
    )
    read = await auth.users.GetUser(
        user_service_pb2.GetUserRequest(user_id=member.id), metadata=metadata, timeout=TIMEOUT_S
    )
    assert updated.user == read.user
    assert (read.user.role, read.user.display_name) == (user_pb2.ROLE_ADMIN, "member 1")


async def test_mask_says_which_fields_change(auth: Auth) -> None:
    metadata = await auth.as_user(await auth.register())
    member = (
        await auth.users.CreateUser(
            user_service_pb2.CreateUserRequest(email=new_email(), password=PASSWORD, display_name="Before"),
            metadata=metadata,
            timeout=TIMEOUT_S,
        )
    ).user
    body = user_pb2.User(display_name="After", disabled=True)

    async def update(mask: FieldMask) -> user_pb2.User:
        request = user_service_pb2.UpdateUserRequest(user_id=member.id, user=body, update_mask=mask)
        return (await auth.users.UpdateUser(request, metadata=metadata, timeout=TIMEOUT_S)).user

    changed = await update(FieldMask(paths=["disabled"]))
    assert (changed.display_name, changed.disabled) == ("Before", True)
    for path in ("email", "id", "organization_id", "scopes", "create_time", "password_hash", "role"):
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await update(FieldMask(paths=[path]))
        assert error_of(info).reason is Reason.INVALID_ARGUMENT


async def test_profile_organization_and_password_of_the_caller(auth: Auth) -> None:
    user = await auth.register()
    metadata = await auth.as_user(user)
    me = await auth.users.GetMe(user_service_pb2.GetMeRequest(), metadata=metadata, timeout=TIMEOUT_S)
    assert me.user == user
    renamed = await auth.organizations.UpdateOrganization(
        organization_service_pb2.UpdateOrganizationRequest(display_name="Renamed"),
        metadata=metadata,
        timeout=TIMEOUT_S,
    )
    read = await auth.organizations.GetOrganization(
        organization_service_pb2.GetOrganizationRequest(), metadata=metadata, timeout=TIMEOUT_S
    )
    assert read.organization == renamed.organization
    await auth.users.ChangePassword(
        user_service_pb2.ChangePasswordRequest(current_password=PASSWORD, new_password="another password"),
        metadata=metadata,
        timeout=TIMEOUT_S,
    )
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await auth.login(user)
    assert error_of(info).reason is Reason.CREDENTIALS_INVALID


async def test_foreign_and_random_ids_are_answered_byte_for_byte_alike(auth: Auth) -> None:
    own = await auth.as_user(await auth.register())
    foreign = await auth.register()
    foreign_key = await auth.keys.CreateApiKey(
        api_key_service_pb2.CreateApiKeyRequest(display_name="x"),
        metadata=await auth.as_user(foreign),
        timeout=TIMEOUT_S,
    )
    answers: dict[str, set[bytes]] = {}
    for user_id, key_id in ((foreign.id, foreign_key.api_key.id), (new_id("usr"), new_id("key"))):
        calls: dict[str, Awaitable[object]] = {
            "get": auth.users.GetUser(
                user_service_pb2.GetUserRequest(user_id=user_id), metadata=own, timeout=TIMEOUT_S
            ),
            "key": auth.keys.GetApiKey(
                api_key_service_pb2.GetApiKeyRequest(api_key_id=key_id), metadata=own, timeout=TIMEOUT_S
            ),
            "revoke": auth.keys.RevokeApiKey(
                api_key_service_pb2.RevokeApiKeyRequest(api_key_id=key_id), metadata=own, timeout=TIMEOUT_S
            ),
        }
        for name, call in calls.items():
            with pytest.raises(grpc.aio.AioRpcError) as info:
                await call
            metadata = dict(info.value.trailing_metadata() or ())
            details = metadata["grpc-status-details-bin"]
            assert isinstance(details, bytes)
            answers.setdefault(name, set()).add(details)
    assert [len(different) for different in answers.values()] == [1, 1, 1]


async def test_scopes_of_the_contract_are_enforced(auth: Auth) -> None:
    metadata = await auth.as_user(await auth.register())
    narrow = await auth.keys.CreateApiKey(
        api_key_service_pb2.CreateApiKeyRequest(display_name="x", scopes=["profile:read"]),
        metadata=metadata,
        timeout=TIMEOUT_S,
    )
    exchanged = await auth.tokens.ExchangeToken(
        token_service_pb2.ExchangeTokenRequest(api_key=narrow.secret, audiences=["auth"]), timeout=TIMEOUT_S
    )
    limited = (("authorization", f"Bearer {exchanged.tokens[0].token}"),)
    await auth.users.GetMe(user_service_pb2.GetMeRequest(), metadata=limited, timeout=TIMEOUT_S)
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await auth.users.ListUsers(user_service_pb2.ListUsersRequest(), metadata=limited, timeout=TIMEOUT_S)
    assert error_of(info).reason is Reason.SCOPE_MISSING


@pytest.mark.parametrize(
    "request_message",
    [
        token_service_pb2.ExchangeTokenRequest(audiences=["auth"]),
        token_service_pb2.ExchangeTokenRequest(api_key="x"),
        token_service_pb2.ExchangeTokenRequest(api_key="x", audiences=["parley"]),
    ],
)
async def test_malformed_exchange_names_its_field(
    auth: Auth, request_message: token_service_pb2.ExchangeTokenRequest
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await auth.tokens.ExchangeToken(request_message, timeout=TIMEOUT_S)
    assert error_of(info).reason is Reason.INVALID_ARGUMENT
    assert error_of(info).fields[0].field.startswith(("subject", "audiences"))


@pytest.mark.parametrize("token", ["", "!!!", "e30", "W10", "WyJ4IiwgIngiXQ", "x" * 2_000])
async def test_page_token_of_nobody_is_refused(auth: Auth, token: str) -> None:
    metadata = await auth.as_user(await auth.register())
    request = user_service_pb2.ListUsersRequest(page_token=token)
    if not token:
        await auth.users.ListUsers(request, metadata=metadata, timeout=TIMEOUT_S)
        return
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await auth.users.ListUsers(request, metadata=metadata, timeout=TIMEOUT_S)
    assert error_of(info).reason is Reason.INVALID_ARGUMENT


@pytest.fixture
def _untouched_logging() -> Iterator[None]:
    """The test configures the logs of its process, which here is that of all tests."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("_untouched_logging")
async def test_no_secret_reaches_a_log_line_or_an_error(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    telemetry.configure_logging("auth", level="DEBUG", form="json")
    secrets: list[str] = [PASSWORD, EDGE.secret, settings.key_encryption_secret.get_secret_value()]
    errors: list[str] = []
    async with served(settings) as auth:
        user = await auth.register()
        login, cookie = await auth.login(user), await auth.session_token(user)
        metadata = await auth.as_user(user)
        key = await auth.keys.CreateApiKey(
            api_key_service_pb2.CreateApiKeyRequest(display_name="x"), metadata=metadata, timeout=TIMEOUT_S
        )
        pair = login.tokens
        secrets += [pair.access_token, pair.refresh_token, cookie, key.secret, metadata[0][1], user.email]
        for request in (
            token_service_pb2.ExchangeTokenRequest(api_key=key.secret + "x", audiences=["auth"]),
            token_service_pb2.ExchangeTokenRequest(
                api_key=key.secret,
                workload=token_service_pb2.Workload(name="edge", secret=EDGE.secret + "x"),
                audiences=["auth"],
            ),
            token_service_pb2.ExchangeTokenRequest(access_token=login.tokens.access_token + "x", audiences=["auth"]),
            token_service_pb2.ExchangeTokenRequest(session_token=cookie[:-1], audiences=["auth"]),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as info:
                await auth.tokens.ExchangeToken(request, timeout=TIMEOUT_S)
            errors.append(repr(info.value))
        for _ in range(2):
            await auth.tokens.RefreshToken(
                token_service_pb2.RefreshTokenRequest(refresh_token=login.tokens.refresh_token), timeout=TIMEOUT_S
            )
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await auth.users.RegisterUser(
                user_service_pb2.RegisterUserRequest(email=user.email, password=PASSWORD), timeout=TIMEOUT_S
            )
        errors.append(repr(info.value))
    printed = capfd.readouterr()
    written = printed.out + printed.err + "".join(errors)
    assert "/parley.auth.v1.TokenService/ExchangeToken" in written
    parts = {secret.removeprefix("Bearer ") for secret in secrets}
    parts |= {part for secret in parts for part in secret.split("_") if len(part) == 43}
    assert [part for part in parts if part in written] == []


async def test_internal_tokens_of_another_audience_are_refused_by_auth_itself(auth: Auth) -> None:
    user = await auth.register()
    access_token = (await auth.login(user)).tokens.access_token
    response = await auth.tokens.ExchangeToken(
        token_service_pb2.ExchangeTokenRequest(access_token=access_token, audiences=["retrieval"]), timeout=TIMEOUT_S
    )
    for token in (response.tokens[0].token, access_token, ""):
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await auth.users.GetMe(
                user_service_pb2.GetMeRequest(),
                metadata=(("authorization", f"Bearer {token}"),),
                timeout=TIMEOUT_S,
            )
        assert error_of(info).reason is Reason.CREDENTIALS_INVALID
