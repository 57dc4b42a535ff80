"""Static answers: the page, the documentation and the OpenAPI text, read once at start and kept in memory."""

import hashlib
import importlib.resources
from dataclasses import dataclass
from typing import Final

from starlette.types import Receive, Scope, Send

from edge.http import Exchange
from edge.middleware import ROUTE_KEY

PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """Bytes that are served as they are."""

    body: bytes
    media_type: str
    etag: str

    @classmethod
    def of(cls, body: bytes, media_type: str) -> "Asset":
        """The asset with its tag."""
        return cls(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:16]}"')


class StaticEndpoint:
    """Serves one asset."""

    def __init__(self, asset: Asset) -> None:
        self._asset = asset

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        scope[ROUTE_KEY] = "page"
        headers = [("etag", self._asset.etag), ("cache-control", "no-cache"), ("content-security-policy", PAGE_POLICY)]
        if self._asset.etag in exchange.headers("if-none-match"):
            await exchange.begin(304, media_type=self._asset.media_type, headers=headers)
            await exchange.write(b"", more=False)
            return
        await exchange.respond(200, self._asset.body, media_type=self._asset.media_type, headers=headers)


def web_files() -> dict[str, Asset]:
    """The files of the page by name; what is not listed in `MEDIA_TYPES` is not served."""
    found = {}
    for file in importlib.resources.files("edge").joinpath("web").iterdir():
        media_type = MEDIA_TYPES.get(file.name[file.name.rfind(".") :])
        if media_type is not None:
            found[file.name] = Asset.of(file.read_bytes(), media_type)
    return found
