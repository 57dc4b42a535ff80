"""Anthropic's messages API.

The SDK makes the request; the stream is read here, for the reasons given in `openai.py`.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, contextmanager
from typing import Any, Final, cast

import anthropic
import httpx2
from anthropic.types import MessageParam

from services.inference.model import FinishReason, Parameters
from services.inference.parts import PartDelta
from services.inference.prompts.tokens import TokenEstimate
from services.inference.providers import allowances, anthropic_format, faults, names
from services.inference.providers.base import Accepted, Ended, Profile, ProviderEvent, Task, Text, TokenCounts
from services.inference.providers.failures import Failure
from services.inference.providers.sse import (
    ByteStream,
    MalformedStream,
    ServerEvent,
    at,
    count_at,
    parse,
    require_events,
    server_events,
    settle,
    text_at,
)
from services.inference.providers.transport import connections

BASE_URL: Final = "https://api.anthropic.com"

# The tokenizer since Claude Sonnet 5 (June 2026) writes about 30 % more tokens than the one before, which spent about
# 3.8 ASCII characters of English on each; the rest is headroom.
TOKENS: Final = TokenEstimate(ascii_chars_per_token=2.7)

_REASONS: Final = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "tool_use": FinishReason.TOOL_CALLS,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "refusal": FinishReason.CONTENT_FILTER,
}


class AnthropicProvider:
    """Answers by `POST {base_url}/v1/messages`.

    Args:
        api_key: the operator's key.
        base_url: where the server is; empty for Anthropic itself.
        name: first part of its models' names.
        takes_prefix: its models go on with an answer that has begun; those since Claude 4.6 refuse to.
    """

    def __init__(
        self, *, api_key: str, base_url: str = "", name: str = names.ANTHROPIC, takes_prefix: bool = False
    ) -> None:
        self.profile: Final = Profile(name=name, tokens=TOKENS, takes_prefix=takes_prefix)
        self.client: Final = anthropic.AsyncAnthropic(
            api_key=api_key,
            base_url=base_url or BASE_URL,
            max_retries=0,  # one layer retries, and it is not this one
            http_client=anthropic.DefaultAsyncHttpxClient(transport=connections()),
            open_telemetry=False,  # spans are ours to make, and must not hold prompts
        )

    async def generate(self, task: Task) -> AsyncGenerator[ProviderEvent, None]:
        """See `Provider.generate`."""
        label = f"{self.profile.name}/{task.model}"
        with failing(label) as call:
            async with AsyncExitStack() as stack:
                response = await stack.enter_async_context(self._request(task))
                call.is_begun = True
                require_events(response.headers)
                if (allowance := allowances.of_anthropic(response.headers)) is not None:
                    yield Accepted(allowance)
                events = await stack.enter_async_context(aclosing(_read(response.iter_bytes(), label)))
                async for event in events:
                    yield event

    async def close(self) -> None:
        """See `Provider.close`."""
        await self.client.close()

    def body(self, task: Task) -> dict[str, Any]:  # Any: the vendor's JSON
        """What is asked, in Anthropic's form, for a whole answer.

        Raises:
            InvalidArgument: the form has no words for it.
        """
        wanted = task.parameters
        named = {"system": anthropic_format.system(task), "stop_sequences": list(wanted.stop)}
        return (
            {
                "model": task.model,
                "max_tokens": anthropic_format.max_tokens(task),
                "messages": list(anthropic_format.messages(task)),
            }
            | {name: value for name, value in named.items() if value}
            | _sampling(wanted)
            | anthropic_format.options(task.tools, wanted)
        )

    def _request(self, task: Task) -> AbstractAsyncContextManager[ByteStream]:
        body, limits = self.body(task), task.limits
        return self.client.messages.with_streaming_response.create(
            model=body.pop("model"),
            max_tokens=body.pop("max_tokens"),
            messages=cast("list[MessageParam]", body.pop("messages")),  # as the vendor documents them
            stream=True,
            # Claude 5 takes no sampling parameters and the SDK names none any more; older models take them as before.
            extra_body=body or None,
            timeout=anthropic.Timeout(limits.total_s, connect=limits.connect_s, pool=limits.connect_s),
        )


@contextmanager
def failing(label: str) -> Iterator[faults.Call]:
    """Whatever goes wrong with a call to the vendor leaves the body as a `Failure`; `label` names the model."""
    call = faults.Call()
    try:
        yield call
    except anthropic.APIStatusError as error:
        raise faults.failure_of(_fault(error), faults.ANTHROPIC, label) from None
    except (anthropic.APITimeoutError, httpx2.TimeoutException):
        raise faults.too_slow(label) from None
    except (anthropic.APIConnectionError, httpx2.HTTPError):
        raise faults.unreachable(label, is_begun=call.is_begun) from None
    except MalformedStream:
        raise faults.corrupt(label) from None


def answer_of(message: object, label: str) -> tuple[ProviderEvent, ...]:
    """The events of a whole message.

    Raises:
        MalformedStream: it is no answer, or one without its end.
    """
    reading = _Reading(label)
    found = reading.whole(message)
    if reading.finish_reason is None:
        raise MalformedStream("an answer has no end")
    return (*found, Ended(reading.finish_reason, reading.counts, reading.stop_text, reading.refusal_category))


def failure_in(body: object, label: str) -> Failure:
    """The failure that an error in a stream, or in the results of a batch, is."""
    kind, words = text_at(body, "error", "type"), text_at(body, "error", "message")
    fault = faults.Fault(status=faults.status_of(kind), code=f"{kind} {words}")
    return faults.failure_of(fault, faults.ANTHROPIC, label)


def _sampling(wanted: Parameters) -> dict[str, Any]:  # Any: the vendor's JSON
    named = {"temperature": wanted.temperature, "top_p": wanted.top_p}
    return {name: value for name, value in named.items() if value is not None}


async def _read(chunks: AsyncIterator[bytes], label: str) -> AsyncGenerator[ProviderEvent, None]:
    reading = _Reading(label)
    async with aclosing(server_events(chunks)) as events:
        async for event in events:
            for piece in reading.take(event):
                yield piece
            if reading.finish_reason is not None:
                break
        else:
            return
        await settle(events, reading.take, is_last=lambda event: event.name == "message_stop")
    yield Ended(reading.finish_reason, reading.counts, reading.stop_text, reading.refusal_category)


class _Reading:
    """What the events of one stream have said so far."""

    def __init__(self, label: str) -> None:
        self.finish_reason: FinishReason | None = None
        self.stop_text = ""
        self.refusal_category = ""
        self._label = label
        self._parts = anthropic_format.PartReader()
        self._is_begun = False
        self._usage: dict[str, int] = {}

    @property
    def counts(self) -> TokenCounts | None:
        """Tokens, once both directions were reported; counts of a later event replace those of an earlier one."""
        usage = self._usage
        if "input_tokens" not in usage or "output_tokens" not in usage:
            return None
        cached = usage.get("cache_read_input_tokens", 0)
        return TokenCounts(
            input_tokens=usage["input_tokens"] + cached + usage.get("cache_creation_input_tokens", 0),
            output_tokens=usage["output_tokens"],
            cached_input_tokens=cached,
            reasoning_tokens=usage.get("thinking_tokens", 0),
        )

    def take(self, event: ServerEvent) -> list[Text | PartDelta]:
        """Reads one event and gives what it says of the answer."""
        match event.name:
            case "content_block_delta":
                return self._parts.delta(parse(event.data))
            case "content_block_start":
                return self._parts.start(parse(event.data))
            case "content_block_stop":
                return self._parts.stop(parse(event.data))
            case "message_start":
                if self._is_begun:
                    raise MalformedStream("the answer begins twice")
                self._is_begun = True
                self._count(parse(event.data), "message", "usage")
            case "message_delta":
                return self.end(parse(event.data))
            case "error":
                raise failure_in(parse(event.data), self._label)
            case _:  # pings and kinds of events that are yet to be invented
                pass
        return []

    def end(self, body: object) -> list[Text | PartDelta]:
        """Reads why the answer ended, and what it cost."""
        self._count(body, "usage")
        reason = text_at(body, "delta", "stop_reason")
        if reason:
            self.finish_reason = _REASONS.get(reason, FinishReason.STOP)
            self.stop_text = text_at(body, "delta", "stop_sequence")
        self.refusal_category = text_at(body, "delta", "stop_details", "category")
        words = text_at(body, "delta", "stop_details", "explanation")
        return [Text(words, is_refusal=True)] if words else []

    def whole(self, message: object) -> list[Text | PartDelta]:
        """Reads a whole message: its blocks as those of a stream that come in one piece, then its end."""
        found: list[Text | PartDelta] = []
        blocks = at(message, "content")
        for index, block in enumerate(blocks if isinstance(blocks, list) else ()):
            found += self._parts.start({"index": index, "content_block": block})
            found += self._parts.stop({"index": index})
        return found + self.end({"delta": message, "usage": at(message, "usage")})

    def _count(self, body: object, *path: str) -> None:
        for name in ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
            count = count_at(body, *path, name)
            if count is not None:
                self._usage[name] = count
        thinking = count_at(body, *path, "output_tokens_details", "thinking_tokens")
        if thinking is not None:
            self._usage["thinking_tokens"] = thinking


def _fault(error: anthropic.APIStatusError) -> faults.Fault:
    return faults.Fault(
        status=error.status_code,
        code=f"{error.error_code} {error.type} {error.message}",
        retry_after_s=faults.retry_after_s(error.response.headers),
        allowance=allowances.of_anthropic(error.response.headers),
    )
