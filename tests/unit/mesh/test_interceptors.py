import asyncio
from collections.abc import AsyncIterator
from typing import Any, Never

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from structlog.testing import capture_logs

from services.mesh import context, deadline, rpc
from services.mesh.client import streaming, unary
from services.mesh.errors import (
    CallerForbidden,
    CredentialsInvalid,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    MeshError,
    NotFound,
    Overloaded,
    ScopeMissing,
    Unimplemented,
)
from services.mesh.interceptors.chain import STAGE_ORDER, pinned_stages
from services.mesh.interceptors.leaving import Leaving
from services.mesh.limiter import InFlightLimiter
from services.mesh.rpc import RpcContext
from services.mesh.settings import ServerSettings
from services.mesh.status import INTERNAL_TEXT
from tests.support.echo import SERVICE, EchoStub, echo_server, echo_stub
from tests.support.tokens import ORGANIZATION, USER, Issuer

HELLO = StringValue(value="hello")
DSN = "postgresql://parley:hunter2@db/parley"


def test_stages_stand_in_the_pinned_order() -> None:
    stages = pinned_stages(verifier=None, limiter=InFlightLimiter(1), leaving=Leaving())
    assert [type(stage).__name__ for stage in stages] == [
        "RequestIdStage",
        "LoggingStage",
        "MetricsStage",
        "TracingStage",
        "ErrorStage",
        "DeadlineStage",
        "IdentityStage",
        "PolicyStage",
        "LimitStage",
        "LeavingStage",
    ]
    assert tuple(type(stage) for stage in stages) == STAGE_ORDER


async def test_four_shapes_of_calls_pass() -> None:
    async with echo_stub() as stub:
        assert await unary(stub.unary("Hello")(HELLO)) == HELLO
        async with streaming(stub.split(StringValue(value="a b c"))) as words:
            assert [word.value async for word in words] == ["a", "b", "c"]
        assert (await unary(stub.join(aiter_of("a", "b")))).value == "a b"
        async with streaming(stub.talk(aiter_of("a", "b"))) as echoes:
            assert [echo.value async for echo in echoes] == ["a", "b"]


async def test_a_handler_may_write_instead_of_yield() -> None:
    async def split(request: StringValue, call: RpcContext) -> None:
        for word in request.value.split():
            await call.write(StringValue(value=word))

    async with echo_stub(Split=split) as stub, streaming(stub.split(StringValue(value="a b"))) as words:
        assert [word.value async for word in words] == ["a", "b"]


async def test_unknown_method_is_unimplemented() -> None:
    async with echo_stub() as stub:
        with pytest.raises(Unimplemented):
            await unary(stub.unary("Nothing")(HELLO))


# ------------------------------------------------------------------------------------------------------------ identity


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Bearer "),),
        (("authorization", "Bearer nonsense"),),
        (("authorization", "Basic cGFybGV5OnBhcmxleQ=="),),
        (("x-user-id", USER), ("x-organization-id", ORGANIZATION)),
    ],
)
async def test_call_without_a_sound_token_is_unauthenticated(metadata: tuple[tuple[str, str], ...]) -> None:
    async with echo_stub(verifier=Issuer().verifier()) as stub:
        with pytest.raises(CredentialsInvalid):
            await unary(stub.unary("Echo")(HELLO, metadata=metadata))


async def test_two_tokens_are_one_too_many() -> None:
    issuer = Issuer()
    async with echo_stub(verifier=issuer.verifier()) as stub:
        with pytest.raises(CredentialsInvalid):
            await unary(stub.unary("Echo")(HELLO, metadata=issuer.metadata(scopes=["echo:read"]) * 2))


async def test_token_for_another_service_is_unauthenticated() -> None:
    issuer = Issuer()
    async with echo_stub(verifier=issuer.verifier()) as stub:
        with pytest.raises(CredentialsInvalid):
            await unary(stub.unary("Echo")(HELLO, metadata=issuer.metadata(audience="auth", scopes=["echo:read"])))


async def test_server_without_a_verifier_serves_public_methods_only() -> None:
    async with echo_stub(verifier=None) as stub:
        assert await unary(stub.unary("Hello")(HELLO)) == HELLO
        with pytest.raises(CredentialsInvalid):
            await unary(stub.unary("Echo")(HELLO, metadata=Issuer().metadata(scopes=["echo:read"])))


async def test_public_method_has_no_principal_even_with_a_token() -> None:
    async def hello(request: StringValue, _call: RpcContext) -> StringValue:
        rpc.principal()
        return request

    issuer = Issuer()
    async with echo_stub(verifier=issuer.verifier(), Hello=hello) as stub:
        with pytest.raises(CredentialsInvalid):
            await unary(stub.unary("Hello")(HELLO, metadata=issuer.metadata(scopes=["echo:read"])))


async def test_handler_sees_the_principal_of_its_own_call() -> None:
    async def echo(_request: StringValue, _call: RpcContext) -> StringValue:
        before = rpc.principal()
        await asyncio.sleep(0)
        assert rpc.principal() == before
        return StringValue(value=before.subject_id)

    issuer = Issuer()
    async with echo_stub(verifier=issuer.verifier(), Echo=echo) as stub:

        async def subject_seen(number: int) -> str:
            token = issuer.mint(scopes=["echo:read"], subject_id=f"usr_{number}")
            return (await unary(stub.unary("Echo")(HELLO, metadata=(("authorization", f"Bearer {token}"),)))).value

        assert await asyncio.gather(*map(subject_seen, range(20))) == [f"usr_{number}" for number in range(20)]
    assert rpc.current() is None


# -------------------------------------------------------------------------------------------------------------- policy


async def test_missing_scope_is_named() -> None:
    issuer = Issuer()
    async with echo_stub(verifier=issuer.verifier()) as stub:
        with pytest.raises(ScopeMissing) as caught:
            await unary(stub.unary("Write")(HELLO, metadata=issuer.metadata(scopes=["echo:read"])))
        assert caught.value.metadata == {"scope": "echo:write"}
        both = issuer.metadata(scopes=["echo:read", "echo:write"])
        assert await unary(stub.unary("Write")(HELLO, metadata=both)) == HELLO


@pytest.mark.parametrize("caller", [None, "conversation", "Edge", "edge2"])
async def test_wrong_caller_is_forbidden(caller: str | None) -> None:
    issuer = Issuer()
    async with echo_stub(verifier=issuer.verifier()) as stub:
        with pytest.raises(CallerForbidden):
            await unary(stub.unary("Inner")(HELLO, metadata=issuer.metadata(caller=caller)))
        assert await unary(stub.unary("Inner")(HELLO, metadata=issuer.metadata(caller="edge"))) == HELLO


# -------------------------------------------------------------------------------------------------------------- errors


async def broken_unary(_request: object, _call: RpcContext) -> Never:
    raise RuntimeError(DSN)


async def broken_stream(_request: object, _call: RpcContext) -> AsyncIterator[StringValue]:
    yield StringValue(value="first")
    raise RuntimeError(DSN)


async def failed_call(stub: EchoStub, method: str) -> grpc.aio.AioRpcError:
    """Calls past our own client, so that what came over the wire is seen, and not our reading of it."""
    calls: dict[str, Any] = {
        "Hello": lambda: stub.unary("Hello")(HELLO),
        "Join": lambda: stub.join(aiter_of("a")),
        "Split": lambda: drained(stub.split(HELLO)),
        "Talk": lambda: drained(stub.talk(aiter_of("a"))),
    }
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await calls[method]()
    return caught.value


@pytest.mark.parametrize("method", ["Hello", "Split", "Join", "Talk"])
async def test_exception_text_never_leaves(method: str) -> None:
    broken: dict[str, Any] = {method: broken_unary if method in {"Hello", "Join"} else broken_stream}
    async with echo_stub(**broken) as stub:
        error = await failed_call(stub, method)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == INTERNAL_TEXT
    assert "hunter2" not in repr(error) + str(error.trailing_metadata()) + str(error.debug_error_string())


async def test_text_of_an_internal_error_never_leaves() -> None:
    async def hello(_request: StringValue, _call: RpcContext) -> Never:
        raise Internal(DSN, metadata={"dsn": DSN})

    async with echo_stub(Hello=hello) as stub:
        error = await failed_call(stub, "Hello")
    assert "hunter2" not in repr(error) + str(error.trailing_metadata())


async def test_the_log_has_what_the_client_has_not() -> None:
    with capture_logs() as lines:
        async with echo_stub(Hello=broken_unary) as stub:
            await failed_call(stub, "Hello")
    failures = [line for line in lines if line["event"] == "rpc_failed"]
    assert [str(line["exc_info"]) for line in failures] == [DSN]


async def test_error_of_ours_arrives_whole() -> None:
    async def hello(_request: StringValue, _call: RpcContext) -> Never:
        raise NotFound.of("conversation")

    async with echo_stub(Hello=hello) as stub:
        with pytest.raises(NotFound) as caught:
            await unary(stub.unary("Hello")(HELLO))
    assert caught.value.metadata == {"resource": "conversation"}
    assert caught.value.message == "no such conversation"


async def test_error_in_a_stream_comes_after_what_was_sent() -> None:
    async def split(_request: StringValue, _call: RpcContext) -> AsyncIterator[StringValue]:
        yield StringValue(value="first")
        raise InvalidArgument("the second is wrong")

    async with echo_stub(Split=split) as stub, streaming(stub.split(HELLO)) as words:
        assert (await anext(words)).value == "first"
        with pytest.raises(InvalidArgument, match="the second is wrong"):
            await anext(words)


async def test_abort_by_the_handler_passes() -> None:
    async def hello(_request: StringValue, call: RpcContext) -> Never:
        await call.abort(grpc.StatusCode.DATA_LOSS, "on purpose")

    async with echo_stub(Hello=hello) as stub:
        error = await failed_call(stub, "Hello")
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "on purpose")


async def test_cancelled_stream_runs_its_cleanup_in_the_call() -> None:
    cleaned: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def split(_request: StringValue, _call: RpcContext) -> AsyncIterator[StringValue]:
        try:
            yield StringValue(value="first")
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # cleanup may await
            cleaned.set_result(context.request_id())

    with capture_logs() as lines:
        async with echo_stub(Split=split) as stub:
            async with streaming(stub.split(HELLO, metadata=(("x-request-id", "mine"),))) as words:
                async for _ in words:
                    break
            assert await asyncio.wait_for(cleaned, 5) == "mine"
    ended = [line for line in lines if line["event"] == "rpc" and line["method"].endswith("Split")]
    assert [(line["code"], line["messages"]) for line in ended] == [("CANCELLED", 1)]


# ------------------------------------------------------------------------------------------------------------ deadline


async def test_hung_handler_is_ended_by_the_methods_own_deadline() -> None:
    async def hurry(_request: StringValue, _call: RpcContext) -> Never:
        await asyncio.Event().wait()
        raise AssertionError

    async with echo_server(Hurry=hurry) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await EchoStub(channel).unary("Hurry")(HELLO)  # without a deadline of the client's
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert b"DEADLINE_EXCEEDED" in dict(caught.value.trailing_metadata())["grpc-status-details-bin"]


async def test_call_that_comes_too_late_is_refused_before_it_starts() -> None:
    started = False

    async def hello(request: StringValue, _call: RpcContext) -> StringValue:
        nonlocal started
        started = True
        return request

    async with echo_server(Hello=hello) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        await channel.channel_ready()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await EchoStub(channel).unary("Hello")(HELLO, timeout=0.004)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not started


async def test_handler_knows_how_much_time_is_left() -> None:
    async def hello(_request: StringValue, _call: RpcContext) -> StringValue:
        return StringValue(value=str(deadline.remaining_s()))

    async with echo_stub(Hello=hello) as stub:
        answer = await unary(stub.unary("Hello")(HELLO, timeout=3.0))
    assert 0 < float(answer.value) <= 3.0


async def test_expired_client_deadline_is_logged_as_such() -> None:
    async def hello(_request: StringValue, _call: RpcContext) -> Never:
        await asyncio.Event().wait()
        raise AssertionError

    with capture_logs() as lines:
        async with echo_stub(Hello=hello) as stub:
            await unary(stub.join(aiter_of("a")))  # so that the time is the handler's, and not the connection's
            with pytest.raises(DeadlineExceeded):
                await unary(stub.unary("Hello")(HELLO, timeout=0.5))
    assert [line["code"] for line in lines if line["event"] == "rpc" and "Hello" in line["method"]] == [
        "DEADLINE_EXCEEDED"
    ]


# -------------------------------------------------------------------------------------------------------------- limits


async def test_call_above_the_limit_is_refused_at_once() -> None:
    entered, release = asyncio.Semaphore(0), asyncio.Event()

    async def hello(request: StringValue, _call: RpcContext) -> StringValue:
        entered.release()
        await release.wait()
        return request

    settings = ServerSettings(calls_max=2, not_serving_pause_s=0.0, drain_s=1.0)
    async with echo_stub(Hello=hello, settings=settings) as stub, asyncio.TaskGroup() as group:
        held = [group.create_task(unary(stub.unary("Hello")(HELLO))) for _ in range(2)]
        for _ in held:
            await entered.acquire()
        with pytest.raises(Overloaded) as caught:
            await unary(stub.unary("Hello")(HELLO))
        assert caught.value.retry_after_s == 1.0
        release.set()
        assert [await call for call in held] == [HELLO, HELLO]
        assert await unary(stub.unary("Hello")(HELLO)) == HELLO


# ------------------------------------------------------------------------------------------------ request id, log line


@pytest.mark.parametrize(
    ("sent", "is_kept"),
    [("abc-DEF_1.2", True), ("x" * 64, True), ("x" * 65, False), ("with space", False), ("", False)],
)
async def test_sound_request_id_is_kept(sent: str, is_kept: bool) -> None:  # noqa: FBT001 - a parameter of the test
    async def hello(_request: StringValue, _call: RpcContext) -> StringValue:
        return StringValue(value=context.request_id())

    async with echo_stub(Hello=hello) as stub:
        answer = await unary(stub.unary("Hello")(HELLO, metadata=(("x-request-id", sent),)))
    assert (answer.value == sent) is is_kept
    assert context.is_request_id(answer.value)


async def test_each_call_has_one_line_without_its_content() -> None:
    issuer = Issuer()
    secret = StringValue(value="what the user wrote")
    with capture_logs() as lines:
        async with echo_stub(verifier=issuer.verifier()) as stub:
            await unary(stub.unary("Echo")(secret, metadata=issuer.metadata(scopes=["echo:read"], caller="edge")))
            with pytest.raises(MeshError):
                await unary(stub.unary("Echo")(secret))
    calls = [line for line in lines if line["event"] == "rpc" and SERVICE in line["method"]]
    assert [(line["code"], line["log_level"]) for line in calls] == [("OK", "info"), ("UNAUTHENTICATED", "warning")]
    assert (calls[0]["organization_id"], calls[0]["subject_id"], calls[0]["caller"]) == (ORGANIZATION, USER, "edge")
    assert "what the user wrote" not in str(lines)
    assert "Bearer" not in str(lines)


async def aiter_of(*values: str) -> AsyncIterator[StringValue]:
    for value in values:
        yield StringValue(value=value)


async def drained(call: Any) -> None:
    async for _ in call:
        pass
