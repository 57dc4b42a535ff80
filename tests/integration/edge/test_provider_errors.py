"""What a provider's trouble looks like to the vendors' own SDKs, whichever provider stands behind whichever surface."""

from collections.abc import AsyncIterator
from itertools import product
from typing import Any, Final

import anthropic
import openai
import pytest

from tests.support.dialects import Dialects, running_dialects
from tests.support.provider_double import SECRET_WORDS, Fault

ASKED: Final[list[Any]] = [{"role": "user", "content": "How is Köln?"}]  # Any: the SDKs' typed dictionaries
SURFACES: Final = ("openai", "anthropic")
PROVIDERS: Final = ("openai", "anthropic")
_Row = dict[str, tuple[type[Exception], str]]
_OPERATORS: Final[_Row] = {
    "openai": (openai.InternalServerError, "provider_misconfigured"),
    "anthropic": (anthropic.ServiceUnavailableError, "api_error"),
}
_AWAY: Final[_Row] = {
    "openai": (openai.InternalServerError, "provider_unavailable"),
    "anthropic": (anthropic.ServiceUnavailableError, "api_error"),
}
_REFUSED: Final[_Row] = {
    "openai": (openai.BadRequestError, "provider_rejected"),
    "anthropic": (anthropic.BadRequestError, "invalid_request_error"),
}
_TOO_LONG: Final[_Row] = {
    "openai": (openai.BadRequestError, "context_length_exceeded"),
    "anthropic": (anthropic.BadRequestError, "invalid_request_error"),
}
# What an SDK raises, by surface, and the vendor's word for it; a row for each kind of failure that has one of its own.
CLASSES: Final[dict[Fault, _Row]] = {
    Fault.UNAUTHORIZED: _OPERATORS,
    Fault.NO_CREDIT: _OPERATORS,
    Fault.FORBIDDEN: _OPERATORS,
    Fault.QUOTA_SPENT: _OPERATORS,
    Fault.NOT_FOUND: {
        "openai": (openai.NotFoundError, "model_not_found"),
        "anthropic": (anthropic.NotFoundError, "not_found_error"),
    },
    Fault.TIMEOUT: {
        "openai": (openai.InternalServerError, "provider_timeout"),
        "anthropic": (anthropic.GatewayTimeoutError, "timeout_error"),
    },
    Fault.TOO_LARGE: _TOO_LONG,
    Fault.CONTEXT_LENGTH: _TOO_LONG,
    Fault.UNPROCESSABLE: _REFUSED,
    Fault.BAD_TEMPERATURE: _REFUSED,
    Fault.CONTENT_FILTER: {
        "openai": (openai.BadRequestError, "content_filter"),
        "anthropic": (anthropic.BadRequestError, "invalid_request_error"),
    },
    Fault.RATE_LIMITED: {
        "openai": (openai.RateLimitError, "rate_limit_exceeded"),
        "anthropic": (anthropic.RateLimitError, "rate_limit_error"),
    },
    Fault.SERVER_ERROR: _AWAY,
    Fault.UNAVAILABLE: _AWAY,
    Fault.OVERLOADED: _AWAY,
    Fault.RESET: _AWAY,
    Fault.HTML: _AWAY,
}
_WAITS: Final = {fault for fault, row in CLASSES.items() if row is _AWAY} | {Fault.RATE_LIMITED}
"""What tells when to come back."""


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


@pytest.mark.parametrize("fault", CLASSES, ids=str)
async def test_trouble_before_an_answer_has_the_vendors_class(fault: Fault, dialects: Dialects) -> None:
    dialects.double.fault = fault
    dialects.double.retry_after = {"retry-after": "3000"} if fault is Fault.RATE_LIMITED else {}

    for surface, provider, streams in product(SURFACES, PROVIDERS, (False, True)):
        kind, word = CLASSES[fault][surface]
        with pytest.raises(kind) as caught:
            await ask(dialects, surface, f"{provider}/some-model", streams=streams)
        error: Any = caught.value
        seen = (surface, provider, streams, error)
        assert type(caught.value) is kind, seen
        assert word == (error.code if surface == "openai" else error.type), seen
        headers = error.response.headers
        assert headers["x-should-retry"] == "false", seen
        assert error.request_id == headers["x-request-id"], seen
        assert SECRET_WORDS not in str(error.body), seen
        assert fault not in _WAITS or float(headers["retry-after"]) > 0, seen
        assert fault not in _WAITS or float(headers["retry-after-ms"]) > 0, seen


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
