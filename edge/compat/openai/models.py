"""`GET /v1/models` and `GET /v1/models/{model}`."""

from typing import Final

from starlette.types import Receive, Scope, Send

from edge.compat.generations import Callers
from edge.compat.models import Models
from edge.http import Exchange
from edge.middleware import ROUTE_KEY
from edge.transcoding.encoding import dump
from edge.transcoding.routes import PARAMETERS_KEY
from parley.inference.v1 import model_service_pb2

_CREATED: Final = 0
"""Nobody tells when a model was made, and SDKs insist on an integer."""
_BUILT_IN: Final = "parley"


class ListModels:
    """All models, the default first."""

    def __init__(self, callers: Callers, models: Models) -> None:
        self._callers = callers
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        scope[ROUTE_KEY] = "openai.models.list"
        metadata = await self._callers.metadata_for(exchange, "inference")
        data = [_members(model) for model in await self._models.all(metadata)]
        await exchange.respond(200, dump({"object": "list", "data": data, "has_more": False}))


class GetModel:
    """One model; `default` is the one that an empty name means."""

    def __init__(self, callers: Callers, models: Models) -> None:
        self._callers = callers
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        scope[ROUTE_KEY] = "openai.models.get"
        metadata = await self._callers.metadata_for(exchange, "inference")
        found = await self._models.one(scope[PARAMETERS_KEY]["model"], metadata)
        await exchange.respond(200, dump(_members(found)))


def _members(model: model_service_pb2.Model) -> dict[str, object]:
    provider, separator, _ = model.name.partition("/")
    return {
        "id": model.name,
        "object": "model",
        "created": _CREATED,
        "owned_by": provider if separator else _BUILT_IN,
        "parley": {
            "display_name": model.display_name,
            "context_tokens": model.context_tokens,
            "output_tokens_max": model.output_tokens_max,
            "is_default": model.is_default,
        },
    }
