"""The routes of OpenAI's dialect."""

from typing import Final

from starlette.types import ASGIApp

from edge.clients import Channels
from edge.compat.generations import Callers, Generations
from edge.compat.models import Models
from edge.compat.openai.answers import Endings
from edge.compat.openai.chat import ChatCompletions
from edge.compat.openai.embeddings import CreateEmbeddings
from edge.compat.openai.models import WRITING
from edge.compat.openai.turns import Turns
from edge.sse import EventStreams
from edge.transcoding.encoding import Encoders
from parley.conversation.v1 import conversation_service_pb2_grpc, turn_service_pb2_grpc
from parley.inference.v1 import generation_service_pb2_grpc, model_service_pb2_grpc
from parley.retrieval.v1 import search_service_pb2_grpc

PREFIX: Final = "/v1/"


def openai_routes(
    channels: Channels, callers: Callers, streams: EventStreams, encoders: Encoders
) -> dict[tuple[str, str], ASGIApp]:
    """Endpoints by verb and path template."""
    endings = Endings(encoders)
    turns = Turns(
        conversation_service_pb2_grpc.ConversationServiceStub(channels["conversation"]),
        turn_service_pb2_grpc.TurnServiceStub(channels["conversation"]),
        endings,
    )
    stub = generation_service_pb2_grpc.GenerationServiceStub(channels["inference"])
    generations = Generations(stub, endings.of_answer)
    models = Models(callers, model_service_pb2_grpc.ModelServiceStub(channels["inference"]), WRITING)
    embedding = search_service_pb2_grpc.EmbeddingServiceStub(channels["retrieval"])
    return {
        ("POST", "/v1/chat/completions"): ChatCompletions(callers, turns, generations, streams),
        ("POST", "/v1/embeddings"): CreateEmbeddings(callers, embedding),
        ("GET", "/v1/models"): models.every,
        ("GET", "/v1/models/{model=**}"): models.one,
    }
