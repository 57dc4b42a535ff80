"""OpenAI's chat completions, and every server that speaks them (vLLM, llama.cpp, Ollama and others).

The SDK says the headers; requests are sent and streams are read here, because the SDK takes a stream that was cut off
for a complete one, builds several objects per token, and more per request. Both use the same connections.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import httpx2
import openai
import orjson

from services.inference.model import FinishReason
from services.inference.parts import PartDelta
from services.inference.prompts.tokens import TokenEstimate
from services.inference.providers import allowances, faults, names, openai_format
from services.inference.providers.base import Accepted, Ended, Profile, ProviderEvent, Task, Text, TokenCounts
from services.inference.providers.failures import Failure
from services.inference.providers.sse import (
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
from services.inference.providers.transport import body_of, connections

BASE_URL: Final = "https://api.openai.com/v1"

# o200k spends about 4.5 ASCII characters on a token of English prose and 3.3 on code; the rest is headroom.
TOKENS: Final = TokenEstimate(ascii_chars_per_token=3.3)

_END_MARK: Final = b"[DONE]"
_REASONS: Final = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
    "tool_calls": FinishReason.TOOL_CALLS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """In what a compatible server differs.

    Attributes:
        stream_options: it reports token counts of streams when asked.
        output_limit: its name for the length of an answer; None for OpenAI's newest with OpenAI itself, else for the
            one that every compatible server knows.
        assistant_prefix: it goes on with an answer that has begun (vLLM's `continue_final_message`).
    """

    stream_options: bool = True
    output_limit: Literal["max_tokens", "max_completion_tokens"] | None = None
    assistant_prefix: bool = False


class OpenAIProvider:
    """Answers by `POST {base_url}/chat/completions`.

    Args:
        api_key: the operator's key; empty for local servers that want none.
        base_url: where the server is; empty for OpenAI itself.
        name: first part of its models' names.
        quirks: in what the server differs.
    """

    def __init__(
        self, *, api_key: str, base_url: str = "", name: str = names.OPENAI, quirks: Quirks | None = None
    ) -> None:
        quirks = quirks or Quirks()
        self.profile: Final = Profile(name=name, tokens=TOKENS, takes_prefix=quirks.assistant_prefix)
        is_vendor = base_url.rstrip("/") in {"", BASE_URL}
        # OpenAI's newer models refuse `max_tokens`, many compatible servers know nothing else.
        limit_name = quirks.output_limit or ("max_completion_tokens" if is_vendor else "max_tokens")
        self._has_newer_limit = limit_name == "max_completion_tokens"
        self._takes_reasoning = not is_vendor
        self.headers: Final[dict[str, str | openai.Omit]] = {} if api_key else {"Authorization": openai.omit}
        self._takes_stream_options = quirks.stream_options
        self._connections: Final = connections()
        self._http: Final = openai.DefaultAsyncHttpxClient(transport=self._connections)
        self.client: Final = openai.AsyncOpenAI(
            api_key=api_key or "none",
            base_url=base_url or BASE_URL,
            max_retries=0,  # one layer retries, and it is not this one
            http_client=self._http,
        )
        self._url: Final = httpx2.URL(f"{(base_url or BASE_URL).rstrip('/')}/chat/completions")
        self._head: httpx2.Headers | None = None

    async def generate(self, task: Task) -> AsyncGenerator[ProviderEvent, None]:
        """See `Provider.generate`."""
        label = f"{self.profile.name}/{task.model}"
        with failing(label) as call:
            async with AsyncExitStack() as stack:
                response = await self._open(task)
                stack.push_async_callback(response.aclose)
                call.is_begun = True
                require_events(response.headers)
                if (allowance := allowances.of_openai(response.headers)) is not None:
                    yield Accepted(allowance)
                events = await stack.enter_async_context(aclosing(_read(body_of(response), label)))
                async for event in events:
                    yield event

    async def close(self) -> None:
        """See `Provider.close`."""
        await self.client.close()

    async def _open(self, task: Task) -> httpx2.Response:
        if self._takes_stream_options:
            try:
                return await self._request(task, with_usage=True)
            except openai.BadRequestError as error:
                if "stream_options" not in str(error.body):
                    raise
                # Older compatible servers refuse the field; they are not asked again, and usage is estimated.
                self._takes_stream_options = False
        return await self._request(task, with_usage=False)

    async def _request(self, task: Task, *, with_usage: bool) -> httpx2.Response:
        """The answer's head; its body is read, and closed, by the caller."""
        limits = task.limits
        streamed: dict[str, object] = {"stream": True}
        if with_usage:
            streamed["stream_options"] = {"include_usage": True}
        # With the SDK's headers, but not through it: what it does to a request that is written already (options,
        # headers, retries, types of the answer) took 0.42 of the 1.35 ms of a short call.
        content = orjson.dumps(self.body(task) | streamed)
        headers = self._headers()
        headers["content-length"] = str(len(content))
        timeout = httpx2.Timeout(limits.total_s, connect=limits.connect_s, pool=limits.connect_s)
        request = httpx2.Request(
            "POST",
            self._url,
            headers=headers,
            stream=httpx2.ByteStream(content),
            extensions={"timeout": timeout.as_dict()},
        )
        request.read()
        response = await self._sent(request)
        if response.is_success:
            return response
        try:
            await response.aread()
        finally:
            await response.aclose()
        raise _refusal(response)

    async def _sent(self, request: httpx2.Request) -> httpx2.Response:
        """The head of an answer. Past httpx's client where the connections are ours: it is there for redirects."""
        if self._connections is None:
            return await self._http.send(request, stream=True)
        response = await self._connections.handle_async_request(request)
        if response.has_redirect_location:
            await response.aclose()
            return await self._http.send(request, stream=True)
        response.request = request
        return response

    def _headers(self) -> httpx2.Headers:
        """Headers of a request, but for its length; put together once, because httpx takes 0.1 ms to."""
        if self._head is None:
            said = _sent({**self.client.default_headers, **self.client.auth_headers, **self.headers})
            self._head = self._http.build_request("POST", self._url, content=b"{}", headers=said).headers
        return self._head.copy()

    def body(self, task: Task) -> dict[str, object]:
        """What is asked, in OpenAI's form, for a whole answer.

        Raises:
            InvalidArgument: the form has no words for it.
        """
        wanted = task.parameters
        body: dict[str, object] = {
            "model": task.model,
            "messages": list(openai_format.messages(task, takes_reasoning=self._takes_reasoning)),
        }
        options = {
            "max_completion_tokens" if self._has_newer_limit else "max_tokens": task.output_tokens_max,
            "temperature": wanted.temperature,
            "top_p": wanted.top_p,
            "stop": list(wanted.stop) or None,
            "seed": wanted.seed,
        }
        return body | {name: value for name, value in options.items() if value is not None} | _more(task)


def _sent(headers: Mapping[str, object]) -> dict[str, str]:
    """Those that have a value: the SDK marks what is left out."""
    return {name: value for name, value in headers.items() if isinstance(value, str)}


def _refusal(response: httpx2.Response) -> openai.APIStatusError:
    """The error that the SDK would have raised."""
    try:
        body = parse(response.content)
    except MalformedStream:
        body = None
    said = at(body, "error") or body
    kind = openai.BadRequestError if response.status_code == httpx2.codes.BAD_REQUEST else openai.APIStatusError
    return kind(text_at(said, "message") or response.text, response=response, body=said)


@contextmanager
def failing(label: str) -> Iterator[faults.Call]:
    """Whatever goes wrong with a call to the vendor leaves the body as a `Failure`; `label` names the model."""
    call = faults.Call()
    try:
        yield call
    except openai.APIStatusError as error:
        raise faults.failure_of(_fault(error), faults.OPENAI, label) from None
    except (openai.APITimeoutError, httpx2.TimeoutException):
        raise faults.too_slow(label) from None
    except (openai.APIConnectionError, httpx2.HTTPError):
        raise faults.unreachable(label, is_begun=call.is_begun) from None
    except MalformedStream:
        raise faults.corrupt(label) from None


def answer_of(completion: object, label: str) -> tuple[ProviderEvent, ...]:
    """The events of a whole `chat.completion`: it is read as the one chunk of a stream that says everything.

    Raises:
        Failure: it is an error.
        MalformedStream: it is no answer, or one without its end.
    """
    if not isinstance(completion, dict):
        raise MalformedStream("an answer is no object")
    choice = at(completion, "choices", 0)
    if isinstance(choice, dict):
        completion = completion | {"choices": [choice | {"delta": choice.get("message")}]}
    reading = _Reading(label)
    found = reading.read(completion)
    if reading.finish_reason is None:
        raise MalformedStream("an answer has no end")
    return (*found, Ended(reading.finish_reason, reading.counts, reading.stop_text))


def failure_in(body: object, label: str, *, status: int | None = None) -> Failure:
    """The failure that an error in a stream, or in the results of a batch, is; `status` where the vendor gave one."""
    code, kind = text_at(body, "error", "code"), text_at(body, "error", "type")
    words = f"{text_at(body, 'error', 'param')} {text_at(body, 'error', 'message')}"
    status = status or count_at(body, "error", "code") or faults.status_of(code, kind)
    return faults.failure_of(faults.Fault(status=status, code=f"{code} {kind} {words}"), faults.OPENAI, label)


def _more(task: Task) -> dict[str, Any]:  # Any: the vendor's JSON
    more = openai_format.options(task.tools, task.parameters)
    # vLLM's words for: go on with the last message instead of answering it.
    return more | {"continue_final_message": True, "add_generation_prompt": False} if task.prefix else more


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
        await settle(events, reading.take, is_last=lambda event: event.data == _END_MARK)
    yield Ended(reading.finish_reason, reading.counts, reading.stop_text)


class _Reading:
    """What the chunks of one stream have said so far."""

    def __init__(self, label: str) -> None:
        self.finish_reason: FinishReason | None = None
        self.counts: TokenCounts | None = None
        self.stop_text = ""
        self._label = label
        self._parts = openai_format.PartReader()
        self._is_refusal = False

    def take(self, event: ServerEvent) -> list[Text | PartDelta]:
        """Reads one event and gives what it says of the answer."""
        return [] if event.data == _END_MARK else self.read(parse(event.data))

    def read(self, chunk: object) -> list[Text | PartDelta]:
        """Reads one chunk and gives what it says of the answer."""
        if at(chunk, "error") is not None:
            raise failure_in(chunk, self._label)
        found = self._parts.take(chunk)
        for piece in found:
            self._is_refusal = self._is_refusal or (isinstance(piece, Text) and piece.is_refusal)
        reason = text_at(chunk, "choices", 0, "finish_reason")
        if reason:
            self.finish_reason = self._reason(reason)
            self.stop_text = text_at(chunk, "choices", 0, "stop_reason")  # vLLM tells
            found += self._parts.end()
        self.counts = _counts(chunk) or self.counts
        return found

    def _reason(self, reason: str) -> FinishReason:
        if self._is_refusal:
            return FinishReason.CONTENT_FILTER
        if reason == "stop" and self._parts.has_calls:  # what a call that was demanded by its name ends with
            return FinishReason.TOOL_CALLS
        return _REASONS.get(reason, FinishReason.STOP)


def _counts(chunk: object) -> TokenCounts | None:
    if at(chunk, "usage") is None:  # in nearly every chunk
        return None
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
        allowance=allowances.of_openai(error.response.headers),
    )
