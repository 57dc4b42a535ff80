"""OpenAI's chat completions, and every server that speaks them (vLLM, llama.cpp, Ollama and others).

The SDK makes the request and owns the connection; the stream is read here, because the SDK takes a stream that was cut
off for a complete one and builds several objects per token.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from typing import Final

import httpx2
import openai
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionMessageParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionUserMessageParam,
)

from services.inference.model import FinishReason, Role
from services.inference.prompts.tokens import TokenEstimate
from services.inference.providers import faults, names
from services.inference.providers.base import Ended, Profile, ProviderEvent, Task, Text, TokenCounts
from services.inference.providers.sse import (
    ByteStream,
    MalformedStream,
    ServerEvent,
    at,
    count_at,
    parse,
    server_events,
    settle,
    text_at,
)

BASE_URL: Final = "https://api.openai.com/v1"

# o200k spends about 4.5 ASCII characters on a token of English prose and 3.3 on code; the rest is headroom.
TOKENS: Final = TokenEstimate(ascii_chars_per_token=3.3)

_END_MARK: Final = b"[DONE]"
_REASONS: Final = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}


class OpenAIProvider:
    """Answers by `POST {base_url}/chat/completions`.

    Args:
        api_key: the operator's key; empty for local servers that want none.
        base_url: where the server is; empty for OpenAI itself.
    """

    def __init__(self, *, api_key: str, base_url: str = "") -> None:
        self.profile: Final = Profile(name=names.OPENAI, tokens=TOKENS)
        self._is_vendor = base_url.rstrip("/") in {"", BASE_URL}
        self._has_key = bool(api_key)
        self._takes_stream_options = True
        self._client = openai.AsyncOpenAI(
            api_key=api_key or "none",
            base_url=base_url or BASE_URL,
            max_retries=0,  # one layer retries, and it is not this one
        )

    async def generate(self, task: Task) -> AsyncGenerator[ProviderEvent, None]:
        """See `Provider.generate`."""
        label = f"{names.OPENAI}/{task.model}"
        try:
            async with AsyncExitStack() as stack:
                response = await self._open(stack, task)
                events = await stack.enter_async_context(aclosing(_read(response.iter_bytes(), label)))
                async for event in events:
                    yield event
        except openai.APIStatusError as error:
            raise faults.to_mesh_error(_fault(error), label) from None
        except (openai.APITimeoutError, httpx2.TimeoutException):
            raise faults.too_slow(label) from None
        except (openai.APIConnectionError, httpx2.HTTPError):
            raise faults.unreachable(label) from None
        except MalformedStream:
            raise faults.malformed(label) from None

    async def close(self) -> None:
        """See `Provider.close`."""
        await self._client.close()

    async def _open(self, stack: AsyncExitStack, task: Task) -> ByteStream:
        if self._takes_stream_options:
            try:
                return await stack.enter_async_context(self._request(task, with_usage=True))
            except openai.BadRequestError as error:
                if "stream_options" not in str(error.body):
                    raise
                # Older compatible servers refuse the field; they are not asked again, and usage is estimated.
                self._takes_stream_options = False
        return await stack.enter_async_context(self._request(task, with_usage=False))

    def _request(self, task: Task, *, with_usage: bool) -> AbstractAsyncContextManager[ByteStream]:
        wanted, limits = task.parameters, task.limits
        length = openai.omit if task.output_tokens_max is None else task.output_tokens_max
        return self._client.chat.completions.with_streaming_response.create(
            model=task.model,
            messages=list(_messages(task)),
            stream=True,
            stream_options={"include_usage": True} if with_usage else openai.omit,
            # OpenAI's newer models refuse `max_tokens`, many compatible servers know nothing else.
            max_completion_tokens=length if self._is_vendor else openai.omit,
            max_tokens=openai.omit if self._is_vendor else length,
            temperature=openai.omit if wanted.temperature is None else wanted.temperature,
            top_p=openai.omit if wanted.top_p is None else wanted.top_p,
            stop=list(wanted.stop) or openai.omit,
            seed=openai.omit if wanted.seed is None else wanted.seed,
            extra_headers={} if self._has_key else {"Authorization": openai.omit},
            timeout=openai.Timeout(limits.total_s, connect=limits.connect_s, pool=limits.connect_s),
        )


def _messages(task: Task) -> Iterator[ChatCompletionMessageParam]:
    if task.system:
        yield ChatCompletionSystemMessageParam(role="system", content=task.system)
    for turn in task.turns:
        if turn.role is Role.USER:
            yield ChatCompletionUserMessageParam(role="user", content=turn.text)
        else:
            yield ChatCompletionAssistantMessageParam(role="assistant", content=turn.text)


async def _read(chunks: AsyncIterator[bytes], label: str) -> AsyncGenerator[ProviderEvent, None]:
    reading = _Reading(label)
    async with aclosing(server_events(chunks)) as events:
        async for event in events:
            text = reading.take(event)
            if text:
                yield Text(text)
            if reading.finish_reason is not None:
                break
        else:
            return
        await settle(events, reading.take, is_last=lambda event: event.data == _END_MARK)
    yield Ended(reading.finish_reason, reading.counts)


class _Reading:
    """What the chunks of one stream have said so far."""

    def __init__(self, label: str) -> None:
        self.finish_reason: FinishReason | None = None
        self.counts: TokenCounts | None = None
        self._label = label
        self._is_refusal = False

    def take(self, event: ServerEvent) -> str:
        """Reads one event and gives the text in it."""
        if event.data == _END_MARK:
            return ""
        chunk = parse(event.data)
        if at(chunk, "error") is not None:
            raise faults.to_mesh_error(_fault_in_stream(chunk), self._label)
        refusal = text_at(chunk, "choices", 0, "delta", "refusal")
        self._is_refusal = self._is_refusal or bool(refusal)
        reason = text_at(chunk, "choices", 0, "finish_reason")
        if reason:
            self.finish_reason = (
                FinishReason.CONTENT_FILTER if self._is_refusal else _REASONS.get(reason, FinishReason.STOP)
            )
        self.counts = _counts(chunk) or self.counts
        return text_at(chunk, "choices", 0, "delta", "content") or refusal


def _counts(chunk: object) -> TokenCounts | None:
    asked = count_at(chunk, "usage", "prompt_tokens")
    written = count_at(chunk, "usage", "completion_tokens")
    if asked is None or written is None:
        return None
    return TokenCounts(
        input_tokens=asked,
        output_tokens=written,
        cached_input_tokens=count_at(chunk, "usage", "prompt_tokens_details", "cached_tokens") or 0,
        reasoning_tokens=count_at(chunk, "usage", "completion_tokens_details", "reasoning_tokens") or 0,
    )


def _fault(error: openai.APIStatusError) -> faults.Fault:
    return faults.Fault(
        status=error.status_code,
        code=f"{error.code} {error.type} {error.param} {error.message}",
        retry_after_s=faults.retry_after_s(error.response.headers),
    )


def _fault_in_stream(chunk: object) -> faults.Fault:
    code, kind = text_at(chunk, "error", "code"), text_at(chunk, "error", "type")
    words = text_at(chunk, "error", "message")
    status = count_at(chunk, "error", "code") or faults.status_of(code, kind)
    return faults.Fault(status=status, code=f"{code} {kind} {words}")
