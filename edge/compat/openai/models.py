"""`GET /v1/models` and `GET /v1/models/{model}`."""

from typing import Final

from starlette.types import Receive, Scope, Send

from edge.compat.openai.chat import Callers
from edge.compat.openai.requests import DEFAULT_MODEL
from edge.http import Exchange
from edge.middleware import ROUTE_KEY
from edge.transcoding.encoding import dump
from edge.transcoding.routes import PARAMETERS_KEY
from parley.inference.v1 import model_service_pb2, model_service_pb2_grpc
from services.mesh.client import unary
from services.mesh.errors import ModelUnknown

_CREATED: Final = 0
"""Nobody tells when a model was made, and SDKs insist on an integer."""
_BUILT_IN: Final = "parley"


class ListModels:
    """All models, the default first."""

    def __init__(self, callers: Callers, models: model_service_pb2_grpc.ModelServiceStub) -> None:
        self._callers = callers
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        scope[ROUTE_KEY] = "openai.models.list"
        metadata = await self._callers.metadata_for(exchange, "inference")
        response = await unary(self._models.ListModels(model_service_pb2.ListModelsRequest(), metadata=metadata))
        data = [_members(model) for model in response.models]
        await exchange.respond(200, dump({"object": "list", "data": data, "has_more": False}))


class GetModel:
    """One model; `default` is the one that an empty name means."""

    def __init__(self, callers: Callers, models: model_service_pb2_grpc.ModelServiceStub) -> None:
        self._callers = callers
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        scope[ROUTE_KEY] = "openai.models.get"
        metadata = await self._callers.metadata_for(exchange, "inference")
        name = scope[PARAMETERS_KEY]["model"]
        if name == DEFAULT_MODEL:
            response = await unary(self._models.ListModels(model_service_pb2.ListModelsRequest(), metadata=metadata))
            found = next((model for model in response.models if model.is_default), None)
            if found is None:
                raise ModelUnknown("there is no default model", metadata={"model": name})
        else:
            request = model_service_pb2.GetModelRequest(model=name)
            found = (await unary(self._models.GetModel(request, metadata=metadata))).model
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
