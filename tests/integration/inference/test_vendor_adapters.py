"""The adapters of OpenAI and Anthropic over real HTTP: what they send, what they read, what each fault becomes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from services.inference.model import FinishReason, Parameters
from services.inference.providers.anthropic import AnthropicProvider
from services.inference.providers.base import Ended, Limits, Provider, Text, TokenCounts, bounded
from services.inference.providers.openai import OpenAIProvider
from services.mesh.errors import Reason
from tests.support.inference import HASTY, PATIENT, collect, collect_until, said, task
from tests.support.provider_double import SECRET_WORDS, Fault, ProviderDouble
from tests.support.waiting import until

KEY = "sk-operator-secret"
VENDORS: dict[str, Callable[[ProviderDouble], Provider]] = {
    "openai": lambda double: OpenAIProvider(api_key=KEY, base_url=double.openai_url),
    "anthropic": lambda double: AnthropicProvider(api_key=KEY, base_url=double.anthropic_url),
}
SETTLED = TokenCounts(input_tokens=120, output_tokens=30, cached_input_tokens=20, reasoning_tokens=5)


@pytest.fixture(params=VENDORS)
async def vendor(request: pytest.FixtureRequest, double: ProviderDouble) -> AsyncIterator[Provider]:
    provider = VENDORS[request.param](double)
    yield provider
    await provider.close()


async def test_answer_arrives_with_the_tokens_that_the_vendor_settled(vendor: Provider) -> None:
    events = await collect(vendor, task())

    assert said(events) == "The sky is blue [1]."
    assert events[-1] == Ended(FinishReason.STOP, SETTLED)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.UNAUTHORIZED, Reason.PROVIDER_MISCONFIGURED),
        (Fault.NO_CREDIT, Reason.PROVIDER_MISCONFIGURED),
        (Fault.FORBIDDEN, Reason.PROVIDER_MISCONFIGURED),
        (Fault.NOT_FOUND, Reason.MODEL_UNKNOWN),
        (Fault.TIMEOUT, Reason.PROVIDER_TIMEOUT),
        (Fault.TOO_LARGE, Reason.CONTEXT_LENGTH_EXCEEDED),
        (Fault.UNPROCESSABLE, Reason.PROVIDER_REJECTED),
        (Fault.RATE_LIMITED, Reason.RATE_LIMITED),
        (Fault.QUOTA_SPENT, Reason.PROVIDER_MISCONFIGURED),
        (Fault.SERVER_ERROR, Reason.PROVIDER_UNAVAILABLE),
        (Fault.OVERLOADED, Reason.PROVIDER_UNAVAILABLE),
        (Fault.CONTEXT_LENGTH, Reason.CONTEXT_LENGTH_EXCEEDED),
        (Fault.CONTENT_FILTER, Reason.CONTENT_FILTERED),
        (Fault.BAD_TEMPERATURE, Reason.PROVIDER_REJECTED),
        (Fault.RESET, Reason.PROVIDER_UNAVAILABLE),
        (Fault.HTML, Reason.PROVIDER_UNAVAILABLE),
    ],
)
async def test_fault_before_the_first_word(
    vendor: Provider, double: ProviderDouble, fault: Fault, reason: Reason
) -> None:
    double.fault = fault

    events, error = await collect_until(vendor, task("m"))

    assert events == []
    assert error.reason is reason
    assert len(double.seen) == 1, "one layer retries, and it is not the adapter"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.CUT, Reason.PROVIDER_UNAVAILABLE),
        (Fault.NO_END, Reason.PROVIDER_UNAVAILABLE),
        (Fault.GARBAGE, Reason.PROVIDER_UNAVAILABLE),
        (Fault.INVALID_UTF8, Reason.PROVIDER_UNAVAILABLE),
        (Fault.HUGE_EVENT, Reason.PROVIDER_UNAVAILABLE),
        (Fault.ERROR_EVENT, Reason.RATE_LIMITED),
        (Fault.STALL, Reason.PROVIDER_TIMEOUT),
    ],
)
async def test_fault_within_the_stream_is_never_a_complete_answer(
    vendor: Provider, double: ProviderDouble, fault: Fault, reason: Reason
) -> None:
    double.fault = fault

    # Patient enough for what comes before the fault, on any machine.
    events, error = await collect_until(vendor, task(limits=replace(PATIENT, stall_s=2.0)))

    assert said(events) == "The sky "
    assert error.reason is reason


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.NONE])
async def test_error_holds_nothing_of_the_vendors_words(vendor: Provider, double: ProviderDouble, fault: Fault) -> None:
    double.fault = fault
    shown = ""

    try:
        await collect(vendor, task("m", limits=HASTY))
    except Exception as error:  # noqa: BLE001 - whatever comes is looked at
        shown = f"{error} {error!r} {error.__cause__!r}"

    assert KEY not in shown
    assert SECRET_WORDS not in shown
    assert "upstream" not in shown


async def test_silence_before_the_first_word_is_a_timeout(vendor: Provider, double: ProviderDouble) -> None:
    double.fault = Fault.SILENCE

    _, error = await collect_until(vendor, task(limits=HASTY))

    assert error.reason is Reason.PROVIDER_TIMEOUT
    await until(lambda: double.open_requests == 0)


async def test_total_time_bounds_an_answer_that_keeps_coming(vendor: Provider, double: ProviderDouble) -> None:
    double.fault = Fault.STALL

    _, error = await collect_until(vendor, task(limits=Limits(first_event_s=20, stall_s=20, total_s=0.3)))

    assert error.reason is Reason.PROVIDER_TIMEOUT


async def test_server_that_is_not_there_is_unavailable() -> None:
    provider = OpenAIProvider(api_key=KEY, base_url="http://127.0.0.1:1/v1")

    _, error = await collect_until(provider, task("m"))

    assert error.reason is Reason.PROVIDER_UNAVAILABLE
    await provider.close()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "999999"}, 3600.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, 1.0),
        ({}, 1.0),
    ],
)
async def test_rate_limit_tells_when_to_come_back(
    vendor: Provider, double: ProviderDouble, headers: dict[str, str], seconds: float
) -> None:
    double.fault = Fault.RATE_LIMITED
    double.retry_after = headers

    _, error = await collect_until(vendor, task())

    assert error.retry_after_s == seconds


async def test_answer_without_its_end_mark_is_complete_when_its_end_was_said(
    vendor: Provider, double: ProviderDouble
) -> None:
    double.fault = Fault.NO_END_MARK

    assert (await collect(vendor, task()))[-1] == Ended(FinishReason.STOP, SETTLED)


async def test_answer_without_usage_leaves_it_to_be_estimated(vendor: Provider, double: ProviderDouble) -> None:
    double.fault = Fault.NO_USAGE

    assert (await collect(vendor, task()))[-1] == Ended(FinishReason.STOP, None)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(Fault.FILTERED_END, FinishReason.CONTENT_FILTER), (Fault.LENGTH_END, FinishReason.LENGTH)],
)
async def test_end_says_what_ended_the_answer(
    vendor: Provider, double: ProviderDouble, fault: Fault, reason: FinishReason
) -> None:
    double.fault = fault

    end = (await collect(vendor, task()))[-1]

    assert isinstance(end, Ended)
    assert end.finish_reason is reason


@pytest.mark.parametrize("fault", [Fault.SILENCE, Fault.STALL])
async def test_cancelling_frees_the_upstream_connection(vendor: Provider, double: ProviderDouble, fault: Fault) -> None:
    double.fault = fault
    reading = asyncio.create_task(collect(vendor, task()))
    await until(lambda: double.open_requests == 1)

    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading

    await until(lambda: double.open_requests == 0)


async def test_leaving_early_frees_the_upstream_connection(vendor: Provider, double: ProviderDouble) -> None:
    double.fault = Fault.STALL
    events = bounded(vendor, task(), label="label")
    assert isinstance(await anext(events), Text)

    await events.aclose()

    await until(lambda: double.open_requests == 0)


async def test_connection_is_used_again(vendor: Provider, double: ProviderDouble) -> None:
    ports = set()
    for _ in range(3):
        await collect(vendor, task())
        ports.add(double.seen[-1].client_port)

    assert len(ports) == 1


async def test_openai_request_is_what_the_vendor_documents(double: ProviderDouble) -> None:
    provider = OpenAIProvider(api_key=KEY, base_url=double.openai_url)
    wanted = Parameters(temperature=0.2, top_p=0.9, stop=("END",), seed=3)

    await collect(provider, task("m", parameters=wanted, output_tokens_max=77))

    assert double.seen[0].path == "/v1/chat/completions"
    assert double.seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert double.seen[0].body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is the sky blue?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 77,
        "temperature": 0.2,
        "top_p": 0.9,
        "stop": ["END"],
        "seed": 3,
    }
    await provider.close()


async def test_anthropic_request_is_what_the_vendor_documents(double: ProviderDouble) -> None:
    provider = AnthropicProvider(api_key=KEY, base_url=double.anthropic_url)
    wanted = Parameters(temperature=0.2, top_p=0.9, stop=("END",), seed=3)

    await collect(provider, task("m", parameters=wanted, output_tokens_max=77))

    assert double.seen[0].path == "/v1/messages"
    assert double.seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert double.seen[0].body == {
        "model": "m",
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
        "stream": True,
        "max_tokens": 77,
        "temperature": 0.2,
        "top_p": 0.9,
        "stop_sequences": ["END"],
    }
    await provider.close()


async def test_server_without_a_key_gets_no_authorization(double: ProviderDouble) -> None:
    provider = OpenAIProvider(api_key="", base_url=double.openai_url)

    await collect(provider, task())

    assert "authorization" not in double.seen[0].headers
    await provider.close()


async def test_server_that_refuses_stream_options_is_asked_without_them_from_then_on(double: ProviderDouble) -> None:
    provider = OpenAIProvider(api_key=KEY, base_url=double.openai_url)
    double.fault = Fault.NO_STREAM_OPTIONS

    first = await collect(provider, task())
    second = await collect(provider, task())

    assert [first[-1], second[-1]] == [Ended(FinishReason.STOP, None)] * 2
    assert ["stream_options" in request.body for request in double.seen] == [True, False, False]
    await provider.close()


async def test_refused_parameter_is_named(vendor: Provider, double: ProviderDouble) -> None:
    double.fault = Fault.BAD_TEMPERATURE

    _, error = await collect_until(vendor, task())

    assert "'temperature'" in error.message


async def test_server_that_has_moved_is_asked_where_it_is_now(double: ProviderDouble) -> None:
    asked: list[bytes] = []
    elsewhere = f"location: {double.openai_url}/chat/completions\r\ncontent-length: 0\r\n\r\n".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            asked.append(await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0])))
            writer.write(b"HTTP/1.1 307 Temporary Redirect\r\n" + elsewhere)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        provider = OpenAIProvider(api_key=KEY, base_url=f"http://127.0.0.1:{port}")
        events = await collect(provider, task())
        await provider.close()

    assert said(events) == "The sky is blue [1]."
    assert len(set(asked)) == 1
