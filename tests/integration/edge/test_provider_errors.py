"""What a provider's trouble looks like to the vendors' own SDKs, whichever provider stands behind whichever surface."""

from collections.abc import AsyncIterator
from typing import Any, Final

import anthropic
import openai
import pytest

from tests.support.dialects import Dialects, running_dialects
from tests.support.provider_double import SECRET_WORDS, Fault

ASKED: Final[list[Any]] = [{"role": "user", "content": "How is Köln?"}]  # Any: the SDKs' typed dictionaries
# What an SDK raises, by surface, and the vendor's word for it.
CLASSES: Final[dict[Fault, dict[str, tuple[type[Exception], str]]]] = {
    Fault.NOT_FOUND: {
        "openai": (openai.NotFoundError, "model_not_found"),
        "anthropic": (anthropic.NotFoundError, "not_found_error"),
    },
    Fault.CONTEXT_LENGTH: {
        "openai": (openai.BadRequestError, "context_length_exceeded"),
        "anthropic": (anthropic.BadRequestError, "invalid_request_error"),
    },
    Fault.CONTENT_FILTER: {
        "openai": (openai.BadRequestError, "content_filter"),
        "anthropic": (anthropic.BadRequestError, "invalid_request_error"),
    },
    Fault.BAD_TEMPERATURE: {
        "openai": (openai.BadRequestError, "provider_rejected"),
        "anthropic": (anthropic.BadRequestError, "invalid_request_error"),
    },
    Fault.UNAUTHORIZED: {
        "openai": (openai.BadRequestError, "provider_rejected"),
        "anthropic": (anthropic.BadRequestError, "invalid_request_error"),
    },
    Fault.RATE_LIMITED: {
        "openai": (openai.RateLimitError, "rate_limit_exceeded"),
        "anthropic": (anthropic.RateLimitError, "rate_limit_error"),
    },
}


@pytest.fixture
async def dialects() -> AsyncIterator[Dialects]:
    async with running_dialects() as running:
        yield running


async def ask(dialects: Dialects, surface: str, model: str, *, streams: bool) -> None:
    if surface == "openai":
        chat: Any = {"model": model, "messages": ASKED, "store": False, "stream": streams}
        await dialects.openai.chat.completions.create(**chat)
    else:
        wish: Any = {"model": model, "messages": ASKED, "max_tokens": 10, "stream": streams}
        await dialects.anthropic.messages.create(**wish)


async def words(dialects: Dialects, surface: str, model: str, heard: list[str]) -> None:
    if surface == "openai":
        stream = await dialects.openai.chat.completions.create(model=model, messages=ASKED, store=False, stream=True)
        async for chunk in stream:
            heard.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 - those before the error are wanted
    else:
        async with dialects.anthropic.messages.stream(model=model, messages=ASKED, max_tokens=10) as talk:
            async for text in talk.text_stream:
                heard.append(text)  # noqa: PERF401 - those before the error are wanted


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("surface", ["openai", "anthropic"])
@pytest.mark.parametrize("fault", CLASSES, ids=str)
async def test_trouble_before_an_answer_has_the_vendors_class(
    fault: Fault, surface: str, provider: str, dialects: Dialects
) -> None:
    kind, word = CLASSES[fault][surface]
    dialects.double.fault = fault
    dialects.double.retry_after = {"retry-after": "3000"} if fault is Fault.RATE_LIMITED else {}

    for streams in (False, True):
        with pytest.raises(kind) as caught:
            await ask(dialects, surface, f"{provider}/some-model", streams=streams)
        assert type(caught.value) is kind
        error: Any = caught.value
        assert word == (error.code if surface == "openai" else error.type)
        assert error.response.headers["x-should-retry"] == "false"
        assert error.request_id == error.response.headers["x-request-id"]
        assert SECRET_WORDS not in str(error.body)
        assert fault is not Fault.RATE_LIMITED or float(error.response.headers["retry-after"]) > 0


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("surface", ["openai", "anthropic"])
async def test_an_answer_that_breaks_off_is_never_shown_as_whole(
    surface: str, provider: str, dialects: Dialects
) -> None:
    dialects.double.fault, dialects.double.after = Fault.ERROR_EVENT, 1
    heard: list[str] = []
    with pytest.raises((openai.APIError, anthropic.APIStatusError)) as caught:
        await words(dialects, surface, f"{provider}/some-model", heard)

    assert "".join(heard) in {"", dialects.double.pieces[0]}
    assert SECRET_WORDS not in str(caught.value)
