"""Settings of the edge: PARLEY_EDGE_<FIELD>, and the groups that it shares with every deployable."""

from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from services.mesh.settings import (
    Address,
    AuthTarget,
    ConversationTarget,
    InferenceTarget,
    RetrievalTarget,
    WorkloadSettings,
    service_config,
)

_MIB: Final = 1024 * 1024


def _origin(text: object) -> object:
    if isinstance(text, str) and text:
        url = urlsplit(text)
        if url.scheme not in {"http", "https"} or not url.netloc or url.path.strip("/") or url.query:
            raise ValueError(f"{text!r} is not scheme://host[:port]")
        return f"{url.scheme}://{url.netloc}"
    return text


def _origins(text: object) -> object:
    if isinstance(text, str):
        return ",".join(str(_origin(part.strip())) for part in text.split(",") if part.strip())
    return text


class EdgeSettings(AuthTarget, ConversationTarget, RetrievalTarget, InferenceTarget, WorkloadSettings):
    """What the edge is told at start."""

    model_config = service_config("edge")

    http_listen: Address = Field(
        default="127.0.0.1:8080", validation_alias="PARLEY_HTTP_LISTEN", description="Address of the HTTP API."
    )
    not_serving_pause_s: float = Field(
        default=2.0,
        ge=0.0,
        le=60.0,
        validation_alias="PARLEY_NOT_SERVING_PAUSE_S",
        description="Seconds between /readyz saying no and refusing connections; load balancers ask in between.",
    )
    public_url: Annotated[str, BeforeValidator(_origin)] = Field(
        default="",
        description="scheme://host[:port] at which browsers see the edge; empty for whatever host they name.",
    )
    cookie_secure: bool | None = Field(
        default=None,
        description="Whether the session cookie travels over TLS only; unless told, whether public_url is https.",
    )
    cors_origins: Annotated[str, BeforeValidator(_origins)] = Field(
        default="", description="Origins of other sites' pages that may call the API with a token, with commas between."
    )
    forwarded_allow_ips: str = Field(
        default="", description="Addresses of proxies whose X-Forwarded-* headers are believed; none when empty."
    )
    requests_in_flight_max: int = Field(
        default=1_000, ge=1, le=100_000, description="Requests answered at once; above, 503 OVERLOADED."
    )
    streams_max: int = Field(default=10_000, ge=1, le=100_000, description="Event streams open at once.")
    request_bytes_max: int = Field(
        default=_MIB, ge=1024, le=64 * _MIB, description="Size of a request's body, uploads apart."
    )
    prompt_bytes_max: int = Field(
        default=6 * _MIB,
        ge=1024,
        le=64 * _MIB,
        description="Size of a body of the OpenAI and Anthropic surfaces; the mesh carries 4 MiB of what is in it.",
    )
    document_bytes_max: int = Field(
        default=25 * _MIB,
        ge=1024,
        le=1024 * _MIB,
        description="Size of an uploaded document; retrieval has its own bound.",
    )

    @property
    def is_cookie_secure(self) -> bool:
        """Whether the session cookie is bound to TLS."""
        return self.is_https if self.cookie_secure is None else self.cookie_secure

    @property
    def is_https(self) -> bool:
        """Whether browsers see the edge over TLS."""
        return self.public_url.startswith("https://")

    @property
    def origins(self) -> tuple[str, ...]:
        """The listed origins."""
        return tuple(origin for origin in self.cors_origins.split(",") if origin)
