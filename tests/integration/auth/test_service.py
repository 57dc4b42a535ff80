"""Users, organizations and keys over plain gRPC, on real PostgreSQL and Valkey."""

from collections.abc import Awaitable

import grpc.aio
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from parley.auth.v1 import api_key_service_pb2, organization_service_pb2, user_pb2, user_service_pb2
from services.mesh.errors import Reason
from services.mesh.ids import new_id
from tests.support.auth import PASSWORD, new_email
from tests.support.auth_service import TIMEOUT_S, Auth, error_of


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
