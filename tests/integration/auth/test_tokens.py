"""Logins, sessions and tokens over plain gRPC, on real PostgreSQL and Valkey."""

import logging
from collections.abc import Iterator

import grpc.aio
import pytest
import structlog

from parley.auth.v1 import api_key_service_pb2, token_service_pb2, user_pb2, user_service_pb2
from services.auth.settings import Settings
from services.mesh import telemetry
from services.mesh.errors import Reason
from services.mesh.tokens import internal_verifier
from tests.support.auth import CONVERSATION, EDGE, PASSWORD
from tests.support.auth_service import TIMEOUT_S, Auth, error_of, served


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
    assert list(response.scopes) == ["inference:generate", "knowledge:read", "models:read", "prompts:read"]


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


@pytest.fixture
def _untouched_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test configures the logs of its process, which here is that of all tests."""
    monkeypatch.setattr(telemetry._Logger, "outlet", None)  # put back, so that nobody writes to what was captured
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
