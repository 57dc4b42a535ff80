"""The models that can be asked, for every dialect alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from edge.compat.generations import DEFAULT_MODEL, Callers
from edge.http import Exchange, HeaderList
from edge.identity import Metadata
from edge.middleware import ROUTE_KEY
from edge.transcoding.encoding import dump
from edge.transcoding.routes import PARAMETERS_KEY
from parley.inference.v1 import model_service_pb2, model_service_pb2_grpc
from services.mesh.client import unary
from services.mesh.errors import ModelUnknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How a dialect writes models.

    Attributes:
        dialect: begins the names of its routes.
        listed: all models, or those of them that the request asks for.
        one: one model.
        headers: of every answer.
    """

    dialect: str
    listed: Callable[[Exchange, Sequence[model_service_pb2.Model]], object]
    one: Callable[[model_service_pb2.Model], object]
    headers: Callable[[], HeaderList] = tuple


class Models:
    """The endpoints of a dialect: `every` answers with all models, the default first, and `one` with one of them."""

    def __init__(self, callers: Callers, stub: model_service_pb2_grpc.ModelServiceStub, writing: Writing) -> None:
        self._callers = callers
        self._stub = stub
        self._writing = writing

    async def every(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        scope[ROUTE_KEY] = f"{self._writing.dialect}.models.list"
        found = await self._all(await self._callers.metadata_for(exchange, "inference"))
        await self._respond(exchange, self._writing.listed(exchange, found))

    async def one(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; `default` is the model that an empty name means."""
        exchange = Exchange(scope, receive, send)
        scope[ROUTE_KEY] = f"{self._writing.dialect}.models.get"
        metadata = await self._callers.metadata_for(exchange, "inference")
        await self._respond(exchange, self._writing.one(await self._named(scope[PARAMETERS_KEY]["model"], metadata)))

    async def _all(self, metadata: Metadata) -> Sequence[model_service_pb2.Model]:
        response = await unary(self._stub.ListModels(model_service_pb2.ListModelsRequest(), metadata=metadata))
        return response.models

    async def _named(self, name: str, metadata: Metadata) -> model_service_pb2.Model:
        if name != DEFAULT_MODEL:
            request = model_service_pb2.GetModelRequest(model=name)
            return (await unary(self._stub.GetModel(request, metadata=metadata))).model
        for model in await self._all(metadata):
            if model.is_default:
                return model
        raise ModelUnknown("there is no default model", metadata={"model": name})

    async def _respond(self, exchange: Exchange, members: object) -> None:
        await exchange.respond(200, dump(members), headers=self._writing.headers())
