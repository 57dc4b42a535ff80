"""Chats with `store: false`: answered by inference and remembered by nobody."""

from collections.abc import AsyncIterator
from typing import Final

from edge.compat.openai.answers import Endings, Step
from edge.compat.openai.requests import Author, Chat
from edge.identity import Metadata
from parley.inference.v1 import generation_pb2, generation_service_pb2, generation_service_pb2_grpc
from services.mesh.client import streaming

_AUTHORS: Final = {Author.USER: generation_pb2.ROLE_USER, Author.ASSISTANT: generation_pb2.ROLE_ASSISTANT}


class Generations:
    """Asks inference."""

    def __init__(self, stub: generation_service_pb2_grpc.GenerationServiceStub, endings: Endings) -> None:
        self._stub = stub
        self._endings = endings

    async def steps(self, chat: Chat, metadata: Metadata) -> AsyncIterator[Step]:
        """The answer as it is written.

        Raises:
            MeshError: what inference says.
        """
        call = self._stub.StreamGenerate(_request(chat), metadata=metadata)
        async with streaming(call) as responses:
            async for response in responses:
                text = "".join(event.text.text for event in response.events if event.HasField("text"))
                last = response.events[-1]
                ending = self._endings.of_answer(last.finished.answer) if last.HasField("finished") else None
                yield Step(text, ending)


def _request(chat: Chat) -> generation_service_pb2.StreamGenerateRequest:
    request = generation_service_pb2.StreamGenerateRequest(
        model=chat.model,
        prompt=generation_pb2.Prompt(
            system=chat.system,
            messages=[
                *(generation_pb2.PromptMessage(role=_AUTHORS[said.author], text=said.text) for said in chat.earlier),
                generation_pb2.PromptMessage(role=generation_pb2.ROLE_USER, text=chat.question),
            ],
        ),
    )
    chat.parameters.write_to(request.parameters)
    return request
