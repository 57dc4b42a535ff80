"""The routes of Anthropic's dialect: its SDKs put `/v1` behind the base URL themselves."""

from typing import Final

from starlette.types import ASGIApp

from edge.clients import Channels
from edge.compat.anthropic.messages import CountTokens, CreateMessage
from edge.compat.anthropic.models import WRITING
from edge.compat.generations import Callers, Generations
from edge.compat.models import Models
from edge.sse import EventStreams
from parley.inference.v1 import generation_service_pb2_grpc, model_service_pb2_grpc

PREFIX: Final = "/anthropic/"


def anthropic_routes(channels: Channels, callers: Callers, streams: EventStreams) -> dict[tuple[str, str], ASGIApp]:
    """Endpoints by verb and path template."""
    stub = generation_service_pb2_grpc.GenerationServiceStub(channels["inference"])
    generations = Generations(stub, lambda answer: answer)
    models = Models(callers, model_service_pb2_grpc.ModelServiceStub(channels["inference"]), WRITING)
    return {
        ("POST", "/anthropic/v1/messages"): CreateMessage(callers, generations, streams),
        ("POST", "/anthropic/v1/messages/count_tokens"): CountTokens(callers, stub),
        ("GET", "/anthropic/v1/models"): models.every,
        ("GET", "/anthropic/v1/models/{model=**}"): models.one,
    }
