"""`python -m tests.load.bare`: passes requests on and answers back, as bytes; what everything else is measured by.

It knows no caller, counts nothing and understands nothing: uvicorn and httpx, the least that a proxy in Python can be.
"""

import argparse
from typing import Final

import httpx

from tests.load.serving import serve
from tests.support.asgi import Receive, Scope, Send, body_of

_CONNECTIONS_MAX: Final = 1_024
_KEPT_MAX: Final = 32
"""Twice what a load keeps busy. httpx looks at every connection for each kept one, at each request: with the 500 of a
load of streams kept, the next load's first tokens came up to two seconds late."""


class Bare:
    """The ASGI application.

    Args:
        upstream: where the provider is, such as `http://127.0.0.1:20001`.
    """

    def __init__(self, upstream: str) -> None:
        limits = httpx.Limits(max_connections=_CONNECTIONS_MAX, max_keepalive_connections=_KEPT_MAX)
        self._client = httpx.AsyncClient(base_url=upstream, timeout=60.0, limits=limits, trust_env=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        body = await body_of(receive)
        headers = {"content-type": "application/json", "authorization": "Bearer none"}
        async with self._client.stream(scope["method"], scope["path"], content=body, headers=headers) as response:
            kind = response.headers["content-type"].encode()
            start = {"type": "http.response.start", "status": response.status_code}
            await send({**start, "headers": [(b"content-type", kind)]})
            async for chunk in response.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--upstream", required=True)
    serve(Bare(parser.parse_args().upstream))
