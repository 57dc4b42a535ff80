"""Anthropic's batch endpoint: one request holds them all, one body all results.

Source: anthropic 2.12 and platform.claude.com/docs/en/build-with-claude/batch-processing (read 2026-11-23). A batch
carries nothing of ours but the ids of its requests, and those show in its results only.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, Self, cast
from urllib.parse import quote

import anthropic
import httpx2
import orjson

from services.inference.providers import faults, submissions
from services.inference.providers.anthropic import AnthropicProvider, answer_of, failing, failure_in
from services.inference.providers.base import Task
from services.inference.providers.batching import (
    SUBMIT_S,
    Answered,
    BatchItem,
    BatchTerms,
    Fate,
    Found,
    ItemOutcome,
    ItemResult,
    Progress,
    State,
    Submission,
    Unrun,
)
from services.inference.providers.failures import Failure
from services.inference.providers.sse import MalformedStream, at, count_at, parse, text_at
from services.mesh.clock import SYSTEM_CLOCK, Clock

_PATH: Final = "/v1/messages/batches"
_ENDED: Final = "ended"
_COUNTS: Final = ("succeeded", "errored", "canceled", "expired")
_UNRUN: Final[Mapping[str, Unrun]] = MappingProxyType({"expired": Unrun.EXPIRED, "canceled": Unrun.CANCELLED})


class AnthropicBatches:
    """Batches by `{base_url}/v1/messages/batches`.

    Args:
        provider: whose connections, key and form of requests are used.
        terms: on what terms.
        clock: tells when a submission must have arrived.
    """

    def __init__(self, provider: AnthropicProvider, terms: BatchTerms, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.terms: Final = terms
        self._provider = provider
        self._client = provider.client
        self._name = provider.profile.name
        self._clock = clock

    def size_of(self, item: BatchItem) -> int:
        """See `BatchEndpoint.size_of`."""
        return len(self._request("_" * submissions.CUSTOM_ID_CHARS_MAX, item.task)) + len(",")

    async def submit(self, submission: Submission, items: Sequence[BatchItem]) -> str:
        """See `BatchEndpoint.submit`."""
        content = await asyncio.to_thread(self._body, submission, items)
        with failing(submission.model):
            response = await self._client.post(
                _PATH, cast_to=httpx2.Response, content=content, options={"timeout": SUBMIT_S}
            )
            return submissions.id_in(parse(response.content))

    async def find(self, submission: Submission, *, others: Collection[str] = ()) -> Found:
        """See `BatchEndpoint.find`."""
        after, is_unclear = "", False
        for _ in range(submissions.PAGES_MAX):
            with failing(self._name):
                page = await self._get(_PATH, limit=submissions.PAGE_MAX, **({"after_id": after} if after else {}))
                batches = [_Listed.of(batch) for batch in submissions.listed(page)]
            for batch in batches:
                if batch.id in others or not batch.may_be(submission):
                    continue
                if not batch.is_ended:
                    is_unclear = True
                elif await self._is_of(submission, batch.id):
                    return Found(Fate.TAKEN, batch.id)
            # The newest come first, as the SDK promises.
            is_past = not batches or submissions.is_before(submission, batches[-1].created_at)
            if at(page, "has_more") is not True or is_past:
                return Found(Fate.UNKNOWN) if is_unclear else submissions.unfound(submission, self._clock.now())
            after = batches[-1].id
        return Found(Fate.UNKNOWN)

    async def progress(self, batch_id: str) -> Progress:
        """See `BatchEndpoint.progress`."""
        try:
            with failing(self._name):
                return _progress(await self._get(f"{_PATH}/{quote(batch_id, safe='')}"))
        except Failure as failure:
            if failure.kind not in submissions.UNKNOWN:
                raise
            return Progress(state=State.GONE)

    async def results(self, batch_id: str, submission: Submission) -> AsyncGenerator[ItemResult, None]:
        """See `BatchEndpoint.results`."""
        lines = self._content(batch_id, submission.model)
        found = submissions.results(lines, submission, lambda said: _outcome(said, submission.model))
        async with aclosing(found):
            async for result in found:
                yield result

    async def cancel(self, batch_id: str) -> None:
        """See `BatchEndpoint.cancel`."""
        with submissions.ignoring(submissions.UNKNOWN_OR_ENDED), failing(self._name):
            await self._client.post(
                f"{_PATH}/{quote(batch_id, safe='')}/cancel",
                cast_to=httpx2.Response,
                options={"timeout": submissions.CALL_S},
            )

    async def discard(self, batch_id: str) -> None:
        """See `BatchEndpoint.discard`."""
        with submissions.ignoring(submissions.UNKNOWN), failing(self._name):
            await self._client.delete(
                f"{_PATH}/{quote(batch_id, safe='')}",
                cast_to=httpx2.Response,
                options={"timeout": submissions.CALL_S},
            )

    def _body(self, submission: Submission, items: Sequence[BatchItem]) -> bytes:
        requests = (self._request(submissions.custom_id(submission, item), item.task) for item in items)
        return b'{"requests":[' + b",".join(requests) + b"]}"

    def _request(self, custom_id: str, task: Task) -> bytes:
        return orjson.dumps({"custom_id": custom_id, "params": self._provider.body(task)})

    async def _is_of(self, submission: Submission, batch_id: str) -> bool:
        """Whether the results of a batch are the submission's, which the first that is readable tells."""
        async with aclosing(self._content(batch_id, self._name)) as lines:
            async for line in lines:
                try:
                    return bool(submissions.item_id(submission, text_at(parse(line), "custom_id")))
                except MalformedStream:
                    continue
        return False

    async def _content(self, batch_id: str, label: str) -> AsyncGenerator[bytes, None]:
        """The lines of the results; not from their `results_url`, which may lead past the operator's `base_url`."""
        with failing(label) as call:
            async with AsyncExitStack() as stack:
                response = await self._client.get(
                    f"{_PATH}/{quote(batch_id, safe='')}/results",
                    cast_to=httpx2.Response,
                    options={"headers": {"Accept": "application/binary"}, "timeout": submissions.CALL_S},
                    stream=True,
                    stream_cls=anthropic.AsyncStream[object],
                )
                body = cast("httpx2.Response", response)  # as `cast_to` wants; the SDK's types leave it out for streams
                stack.push_async_callback(body.aclose)
                call.is_begun = True
                lines = await stack.enter_async_context(aclosing(submissions.lines(body.aiter_bytes())))
                async for line in lines:
                    yield line

    async def _get(self, path: str, **params: object) -> object:
        response = await self._client.get(
            path, cast_to=httpx2.Response, options={"timeout": submissions.CALL_S, "params": params}
        )
        return parse(response.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    """A batch as the vendor lists it."""

    id: str
    created_at: datetime
    items_count: int
    is_ended: bool
    is_archived: bool

    @classmethod
    def of(cls, batch: object) -> Self:
        """The batch in the vendor's JSON.

        Raises:
            MalformedStream: it is none.
        """
        try:
            created_at = datetime.fromisoformat(text_at(batch, "created_at"))
        except ValueError:
            raise MalformedStream("a batch has no time") from None
        return cls(
            id=submissions.id_in(batch),
            created_at=created_at if created_at.tzinfo else created_at.replace(tzinfo=UTC),
            items_count=sum(count_at(batch, "request_counts", name) or 0 for name in ("processing", *_COUNTS)),
            is_ended=text_at(batch, "processing_status") == _ENDED,
            is_archived=bool(text_at(batch, "archived_at")),
        )

    def may_be(self, submission: Submission) -> bool:
        """Whether it may be the submission's; nobody can tell of one whose results are gone."""
        is_alike = self.items_count == submission.items_count and submissions.may_be(submission, self.created_at)
        return is_alike and not self.is_archived


def _progress(batch: object) -> Progress:
    status = text_at(batch, "processing_status")
    if not status:
        raise MalformedStream("a batch has no state")
    if text_at(batch, "archived_at"):
        return Progress(state=State.GONE)
    finished = sum(count_at(batch, "request_counts", name) or 0 for name in _COUNTS)
    return Progress(state=State.ENDED if status == _ENDED else State.RUNNING, finished_count=finished)


def _outcome(said: object, label: str) -> ItemOutcome:
    kind = text_at(said, "result", "type")
    if kind in _UNRUN:
        return _UNRUN[kind]
    if kind == "errored":
        return failure_in(at(said, "result", "error"), label)
    try:
        return Answered(answer_of(at(said, "result", "message"), label))
    except MalformedStream:
        return faults.corrupt(label)
