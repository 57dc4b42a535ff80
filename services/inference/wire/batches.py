"""Batches, their items and results between the contract and the model."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from parley.inference.v1 import batch_pb2, batch_service_pb2, generation_pb2, generation_service_pb2
from services.inference.batches.making import Entry
from services.inference.batches.model import Batch, BatchState, Item, ItemState
from services.inference.model import Answer, Generation
from services.inference.money.purse import Payer, Purpose
from services.inference.prompts.model import Repeat
from services.inference.wire import answers, money, wishes
from services.mesh.idempotency import check_key, request_hash
from services.mesh.identity import Principal

_STATES: Final[Mapping[BatchState, batch_pb2.BatchState.ValueType]] = {
    BatchState.PREPARING: batch_pb2.BATCH_STATE_RUNNING,
    BatchState.RUNNING: batch_pb2.BATCH_STATE_RUNNING,
    BatchState.CANCELLING: batch_pb2.BATCH_STATE_CANCELLING,
    BatchState.ENDED: batch_pb2.BATCH_STATE_ENDED,
}


class RequestCodec:
    """Implements `batches.planning.Codec` in the contract's own messages."""

    def decode(self, request: bytes) -> tuple[Generation, Purpose]:
        """See `Codec.decode`."""
        message = generation_service_pb2.GenerateRequest.FromString(request)
        return wishes.generation(message), money.purpose_of(message)

    def pin(self, request: bytes, prompt_revision: str) -> bytes:
        """See `Codec.pin`."""
        message = generation_service_pb2.GenerateRequest.FromString(request)
        prompt_id, _, number = prompt_revision.partition("/")
        message.prompt_ref.prompt = prompt_id
        message.prompt_ref.revision = int(number)
        return message.SerializeToString()

    def encode(self, answer: Answer) -> bytes:
        """See `Codec.encode`."""
        return answers.to_answer(answer).SerializeToString()


def payer(principal: Principal) -> Payer:
    """Who pays for a batch; what for, its items say."""
    return Payer(
        organization_id=principal.organization_id,
        user_id=principal.subject_id,
        credential_id=principal.credential_id,
    )


def entries(request: batch_service_pb2.CreateBatchRequest) -> list[Entry]:
    """The items of a new batch."""
    return [Entry(item.custom_id, item.request.SerializeToString()) for item in request.items]


def repeat(request: batch_service_pb2.CreateBatchRequest) -> Repeat | None:
    """What makes the call safe to repeat; without a request id it is not.

    Raises:
        InvalidArgument: the request id is malformed.
    """
    request_id = check_key(request.request_id)
    return Repeat(request_id, request_hash(request)) if request_id else None


def to_batch(batch: Batch) -> batch_pb2.Batch:
    """A batch."""
    counts = batch.counts
    return batch_pb2.Batch(
        id=batch.id,
        state=_STATES[batch.state],
        counts=batch_pb2.BatchCounts(
            waiting=counts.waiting,
            submitted=counts.submitted,
            succeeded=counts.succeeded,
            failed=counts.failed,
            cancelled=counts.cancelled,
        ),
        create_time=_time(batch.created_at),
        due_time=_time(batch.due_at),
        end_time=None if batch.ended_at is None else _time(batch.ended_at),
    )


def to_result(item: Item) -> batch_pb2.BatchResult:
    """What became of an item."""
    result = batch_pb2.BatchResult(
        custom_id=item.custom_id, attempt_count=item.attempts, is_batched=item.is_batched and not item.reason
    )
    if item.state is ItemState.SUCCEEDED:
        result.answer.CopyFrom(generation_pb2.Answer.FromString(item.answer))
    else:
        result.error.reason, result.error.message = item.reason, item.message
    return result


def _time(at: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(at)
    return message
