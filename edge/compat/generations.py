"""Asks inference for answers that nobody stores, for every dialect alike."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from edge.http import Exchange
from edge.identity import Metadata
from parley.inference.v1 import generation_pb2, generation_service_pb2, generation_service_pb2_grpc
from services.mesh.client import MESSAGE_BYTES_MAX, streaming
from services.mesh.errors import RequestTooLarge

DEFAULT_MODEL: Final = "default"
"""What SDKs send for the platform's own default: they insist on some name."""
# Room for what gRPC and the tunnel put around a message.
REQUEST_BYTES_MAX: Final = MESSAGE_BYTES_MAX - 64 * 1024

E = TypeVar("E")

Piece: TypeAlias = generation_service_pb2.TextDelta | generation_service_pb2.PartDelta


@dataclass(frozen=True, slots=True)
class Step(Generic[E]):
    """Pieces of an answer, and its ending with the last ones.

    Attributes:
        context: with the first step of a generation, what the model was given.
        cache: with the first step or the ending, that the answer was not made for the request.
    """

    pieces: Sequence[Piece]
    ending: E | None
    context: generation_pb2.ContextReport | None = None
    cache: generation_pb2.CacheHit | None = None


class Callers(Protocol):
    """What the dialects need of identity."""

    async def metadata_for(self, exchange: Exchange, service: str) -> Metadata:
        """Metadata of calls to a service on behalf of the request's caller; raises without one."""
        ...


class Generations(Generic[E]):
    """Answers in steps.

    Args:
        stub: of inference.
        end: makes a dialect's ending of a whole answer.
    """

    def __init__(
        self, stub: generation_service_pb2_grpc.GenerationServiceStub, end: Callable[[generation_pb2.Answer], E]
    ) -> None:
        self._stub = stub
        self._end = end

    async def steps(
        self, request: generation_service_pb2.StreamGenerateRequest, metadata: Metadata
    ) -> AsyncIterator[Step[E]]:
        """The answer as it is written.

        Raises:
            MeshError: what inference says.
        """
        refuse_huge(request.ByteSize())
        call = self._stub.StreamGenerate(request, metadata=metadata)
        async with streaming(call) as responses:
            async for response in responses:
                events = response.events
                first, last = events[0], events[-1]
                if len(events) == 1 and first.HasField("text"):  # what nearly all messages of a stream are
                    yield Step((first.text,), None)
                    continue
                yield Step(
                    _merged(events),
                    self._end(last.finished.answer) if last.HasField("finished") else None,
                    first.started.context if first.HasField("started") else None,
                    _hit(first, last),
                )


def refuse_huge(size: int) -> None:
    """Refuses a prompt that no message of the mesh can carry.

    Raises:
        RequestTooLarge: it has too many bytes.
    """
    if size > REQUEST_BYTES_MAX:
        raise RequestTooLarge(
            f"a prompt may have {REQUEST_BYTES_MAX} bytes", metadata={"limit": str(REQUEST_BYTES_MAX)}
        )


def _hit(
    first: generation_service_pb2.GenerateEvent, last: generation_service_pb2.GenerateEvent
) -> generation_pb2.CacheHit | None:
    """What the ending says goes before what the beginning said."""
    if last.HasField("finished") and last.finished.answer.HasField("cache"):
        return last.finished.answer.cache
    return first.started.cache if first.HasField("started") and first.started.HasField("cache") else None


def _merged(events: Sequence[generation_service_pb2.GenerateEvent]) -> list[Piece]:
    """The pieces of some events; texts in a row are one."""
    pieces: list[Piece] = []
    texts: list[generation_service_pb2.TextDelta] = []
    for event in events:
        kind = event.WhichOneof("event")
        if kind == "text":
            if texts and texts[-1].is_refusal != event.text.is_refusal:
                pieces.append(_joined(texts))
                texts = []
            texts.append(event.text)
        elif kind == "part":
            if texts:
                pieces.append(_joined(texts))
                texts = []
            pieces.append(event.part)
    if texts:
        pieces.append(_joined(texts))
    return pieces


def _joined(texts: list[generation_service_pb2.TextDelta]) -> generation_service_pb2.TextDelta:
    if len(texts) == 1:
        return texts[0]
    return generation_service_pb2.TextDelta(
        text="".join([delta.text for delta in texts]), is_refusal=texts[0].is_refusal
    )
