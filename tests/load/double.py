"""`python -m tests.load.double`: a provider of OpenAI's chat completions that writes a set number of tokens per second.

It also streams Anthropic's messages, for the pass-through; the platform asks it in OpenAI's words in any case.

It costs little itself: what it writes is made once, and it looks at nothing of a request but its limit of tokens.
"""

import argparse
import asyncio
from typing import Final

import orjson

from tests.load.serving import serve
from tests.support.asgi import Receive, Scope, Send, body_of

TOKENS_MAX: Final = 256
INPUT_TOKENS: Final = 180
MODEL: Final = "gpt-6.2-sol"


def text(tokens: int) -> str:
    """What an answer of so many tokens says."""
    return "".join(_piece(number) for number in range(tokens))


class Double:
    """The ASGI application.

    Args:
        tokens_per_s: what each answer is written with.
    """

    def __init__(self, *, tokens_per_s: float) -> None:
        self._pause_s = 1 / tokens_per_s
        self._chunks = [event(chunk(number, {"content": _piece(number)})) for number in range(TOKENS_MAX)]
        self._deltas = [_delta(number) for number in range(TOKENS_MAX)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = orjson.loads(await body_of(receive))
        tokens = request.get("max_completion_tokens") or request["max_tokens"]
        is_stream = bool(request.get("stream"))
        is_message = scope["path"].endswith("/messages")
        pieces = self._deltas if is_message else self._chunks
        kind = b"text/event-stream" if is_stream else b"application/json"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        begun = asyncio.get_running_loop().time()
        if not is_stream:
            await self._wait(begun, tokens)
            await send({"type": "http.response.body", "body": orjson.dumps(_whole(tokens))})
            return
        for number in range(tokens):
            await self._wait(begun, number + 1)
            await send({"type": "http.response.body", "body": pieces[number], "more_body": True})
        await send({"type": "http.response.body", "body": _message_ending(tokens) if is_message else ending(tokens)})

    async def _wait(self, begun: float, tokens: int) -> None:
        """Until so many tokens are due, so that a late one does not delay the others."""
        await asyncio.sleep(begun + tokens * self._pause_s - asyncio.get_running_loop().time())


def _piece(number: int) -> str:
    return f" word{number}"


def chunk(number: int, delta: dict[str, str], reason: str | None = None) -> dict[str, object]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    # The vendor's chunks are of this form; random letters make their lengths differ.
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    return {**head, "service_tier": "default", "choices": [choice], "usage": None, "obfuscation": f"x{number}"}


def ending(tokens: int) -> bytes:
    usage = {**chunk(tokens + 1, {}), "choices": [], "usage": _usage(tokens)}
    return event(chunk(tokens, {}, "stop")) + event(usage) + b"data: [DONE]\n\n"


def _whole(tokens: int) -> dict[str, object]:
    message: dict[str, object] = {"role": "assistant", "content": text(tokens), "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL}
    return {**head, "choices": [choice], "usage": _usage(tokens), "service_tier": "default"}


def _usage(tokens: int) -> dict[str, object]:
    counts = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": tokens, "total_tokens": INPUT_TOKENS + tokens}
    return {
        **counts,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _delta(number: int) -> bytes:
    delta = {"type": "text_delta", "text": _piece(number)}
    return _named({"type": "content_block_delta", "index": 0, "delta": delta})


def _message_ending(tokens: int) -> bytes:
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    last: dict[str, object] = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": tokens}}
    return _named({"type": "content_block_stop", "index": 0}) + _named(last) + _named({"type": "message_stop"})


def _named(document: dict[str, object]) -> bytes:
    return b"event: %b\n%b" % (str(document["type"]).encode(), event(document))


def event(document: dict[str, object]) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens-per-s", type=float, required=True)
    serve(Double(tokens_per_s=parser.parse_args().tokens_per_s))
