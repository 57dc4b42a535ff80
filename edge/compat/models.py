"""The models that can be asked, for every dialect alike."""

from collections.abc import Sequence

from edge.compat.generations import DEFAULT_MODEL
from edge.identity import Metadata
from parley.inference.v1 import model_service_pb2, model_service_pb2_grpc
from services.mesh.client import unary
from services.mesh.errors import ModelUnknown


class Models:
    """Asks inference for its models."""

    def __init__(self, stub: model_service_pb2_grpc.ModelServiceStub) -> None:
        self._stub = stub

    async def all(self, metadata: Metadata) -> Sequence[model_service_pb2.Model]:
        """All models, the default first."""
        response = await unary(self._stub.ListModels(model_service_pb2.ListModelsRequest(), metadata=metadata))
        return response.models

    async def one(self, name: str, metadata: Metadata) -> model_service_pb2.Model:
        """One model; `default` is the one that an empty name means.

        Raises:
            ModelUnknown: there is none of this name.
        """
        if name != DEFAULT_MODEL:
            request = model_service_pb2.GetModelRequest(model=name)
            return (await unary(self._stub.GetModel(request, metadata=metadata))).model
        for model in await self.all(metadata):
            if model.is_default:
                return model
        raise ModelUnknown("there is no default model", metadata={"model": name})
