"""OpenAI's batch endpoint: a file of requests goes up, a file of answers and one of errors come down.

Source: openai 3.54 and developers.openai.com/api/docs/guides/batch (read 2026-11-23). A batch is for one model; it
carries metadata, by which it is found again.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, cast
from urllib.parse import quote

import httpx2
import openai
import orjson

from services.inference.providers import faults, submissions
from services.inference.providers.base import Task
from services.inference.providers.batching import (
    SUBMIT_S,
    UNSURE,
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
from services.inference.providers.openai import OpenAIProvider, answer_of, failing, failure_in
from services.inference.providers.sse import MalformedStream, at, count_at, parse, text_at
from services.mesh.clock import SYSTEM_CLOCK, Clock

INPUT_KEPT_S: Final = 172_800
"""How long the vendor keeps requests that nobody removes: two days, of which the batch itself has one."""
OUTPUT_KEPT_S: Final = 2_505_600
"""How long it keeps results: 29 days, of the 30 that it would at most."""

_MARKER: Final = "parley_submission"
_HTTP_OK: Final = 200
_REFUSED: Final = 400
_ENDED: Final[Mapping[str, str]] = MappingProxyType(
    {"completed": "completed_at", "expired": "expired_at", "cancelled": "cancelled_at"}
)
"""States in which there are results, and what says since when."""
_UNRUN: Final[Mapping[str, Unrun]] = MappingProxyType(
    {"batch_expired": Unrun.EXPIRED, "batch_cancelled": Unrun.CANCELLED}
)


class OpenAIBatches:
    """Batches by `{base_url}/batches` and `{base_url}/files`.

    Args:
        provider: whose connections, key and form of requests are used.
        terms: on what terms.
        clock: tells whether results are still there, and when a submission must have arrived.
    """

    def __init__(self, provider: OpenAIProvider, terms: BatchTerms, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.terms: Final = terms
        self._provider = provider
        self._client = provider.client
        self._name = provider.profile.name
        self._clock = clock

    def size_of(self, item: BatchItem) -> int:
        """See `BatchEndpoint.size_of`."""
        return len(self._line("_" * submissions.CUSTOM_ID_CHARS_MAX, item.task))

    async def submit(self, submission: Submission, items: Sequence[BatchItem]) -> str:
        """See `BatchEndpoint.submit`."""
        content = await asyncio.to_thread(self._file, submission, items)
        with failing(submission.model):
            file_id = await self._upload(submission, content)
        try:
            with failing(submission.model):
                return await self._create(submission, file_id)
        except Failure as failure:
            if failure.kind not in UNSURE:
                with suppress(Failure):  # it goes by itself, only later
                    await self._remove(file_id)
            raise

    async def find(self, submission: Submission, *, others: Collection[str] = ()) -> Found:
        """See `BatchEndpoint.find`."""
        after = ""
        for _ in range(submissions.PAGES_MAX):
            with failing(self._name):
                page = await self._get("/batches", limit=submissions.PAGE_MAX, **({"after": after} if after else {}))
                batches = submissions.listed(page)
            for batch in batches:
                if text_at(batch, "metadata", _MARKER) == submission.marker:
                    return Found(Fate.TAKEN, text_at(batch, "id"))
            if at(page, "has_more") is not True or _is_past(submission, batches):
                return submissions.unfound(submission, self._clock.now())
            after = text_at(batches[-1], "id")
        return Found(Fate.UNKNOWN)

    async def progress(self, batch_id: str) -> Progress:
        """See `BatchEndpoint.progress`."""
        try:
            with failing(self._name):
                return self._progress(await self._batch(batch_id))
        except Failure as failure:
            if failure.kind not in submissions.UNKNOWN:
                raise
            return Progress(state=State.GONE)

    async def results(self, batch_id: str, submission: Submission) -> AsyncGenerator[ItemResult, None]:
        """See `BatchEndpoint.results`."""
        with failing(submission.model):
            batch = await self._batch(batch_id)
        for name in ("output_file_id", "error_file_id"):
            if file_id := text_at(batch, name):
                lines = self._content(file_id, submission.model)
                found = submissions.results(lines, submission, lambda said: _outcome(said, submission.model))
                async with aclosing(found):
                    async for result in found:
                        yield result

    async def cancel(self, batch_id: str) -> None:
        """See `BatchEndpoint.cancel`."""
        with submissions.ignoring(submissions.UNKNOWN_OR_ENDED), failing(self._name):
            await self._post(f"/batches/{quote(batch_id, safe='')}/cancel", {}, timeout_s=submissions.CALL_S)

    async def discard(self, batch_id: str) -> None:
        """See `BatchEndpoint.discard`: the files go, while the vendor keeps the batch as a name without content."""
        with submissions.ignoring(submissions.UNKNOWN), failing(self._name):
            batch = await self._batch(batch_id)
            for name in ("input_file_id", "output_file_id", "error_file_id"):
                if file_id := text_at(batch, name):
                    await self._remove(file_id)

    def _file(self, submission: Submission, items: Sequence[BatchItem]) -> bytes:
        return b"".join(self._line(submissions.custom_id(submission, item), item.task) for item in items)

    def _line(self, custom_id: str, task: Task) -> bytes:
        said = {
            "custom_id": custom_id,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": self._provider.body(task),
        }
        return orjson.dumps(said, option=orjson.OPT_APPEND_NEWLINE)

    async def _upload(self, submission: Submission, content: bytes) -> str:
        response = await self._client.files.with_raw_response.create(
            file=(f"{submission.marker}.jsonl", content, "application/jsonl"),
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": INPUT_KEPT_S},
            extra_headers=self._provider.headers,
            timeout=SUBMIT_S,
        )
        return submissions.id_in(parse(response.content))

    async def _create(self, submission: Submission, file_id: str) -> str:
        wanted = {
            "input_file_id": file_id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {_MARKER: submission.marker},
            "output_expires_after": {"anchor": "created_at", "seconds": OUTPUT_KEPT_S},
        }
        return submissions.id_in(await self._post("/batches", wanted, timeout_s=SUBMIT_S))

    def _progress(self, batch: object) -> Progress:
        counts = [count_at(batch, "request_counts", name) or 0 for name in ("completed", "failed")]
        status = text_at(batch, "status")
        if status == "failed":
            return Progress(state=State.REFUSED, failure=_refusal(batch, self._name))
        if status not in _ENDED:
            return Progress(state=State.RUNNING, finished_count=sum(counts))
        ended_at = count_at(batch, _ENDED[status]) or count_at(batch, "created_at") or 0
        is_kept = self._clock.now().timestamp() - ended_at < OUTPUT_KEPT_S
        return Progress(state=State.ENDED if is_kept else State.GONE, finished_count=sum(counts))

    async def _batch(self, batch_id: str) -> object:
        batch = await self._get(f"/batches/{quote(batch_id, safe='')}")
        if not text_at(batch, "status"):
            raise MalformedStream("a batch has no state")
        return batch

    async def _content(self, file_id: str, label: str) -> AsyncGenerator[bytes, None]:
        with failing(label) as call:
            async with AsyncExitStack() as stack:
                response = await self._client.get(
                    f"/files/{quote(file_id, safe='')}/content",
                    cast_to=httpx2.Response,
                    options={
                        "headers": {"Accept": "application/binary", **self._provider.headers},
                        "timeout": submissions.CALL_S,
                    },
                    stream=True,
                    stream_cls=openai.AsyncStream[object],
                )
                body = cast("httpx2.Response", response)  # as `cast_to` wants; the SDK's types leave it out for streams
                stack.push_async_callback(body.aclose)
                call.is_begun = True
                lines = await stack.enter_async_context(aclosing(submissions.lines(body.aiter_bytes())))
                async for line in lines:
                    yield line

    async def _get(self, path: str, **params: object) -> object:
        response = await self._client.get(
            path,
            cast_to=httpx2.Response,
            options={"headers": self._provider.headers, "timeout": submissions.CALL_S, "params": params},
        )
        return parse(response.content)

    async def _post(self, path: str, body: Mapping[str, object], *, timeout_s: float) -> object:
        response = await self._client.post(
            path,
            cast_to=httpx2.Response,
            content=orjson.dumps(body),
            options={"headers": self._provider.headers, "timeout": timeout_s},
        )
        return parse(response.content)

    async def _remove(self, file_id: str) -> None:
        with submissions.ignoring(submissions.UNKNOWN), failing(self._name):
            await self._client.delete(
                f"/files/{quote(file_id, safe='')}",
                cast_to=httpx2.Response,
                options={"headers": self._provider.headers, "timeout": submissions.CALL_S},
            )


def _is_past(submission: Submission, batches: Sequence[object]) -> bool:
    """Whether all that the next pages hold is older than the submission: OpenAI lists the newest first, unpromised."""
    times = [count_at(batch, "created_at") or 0 for batch in batches]
    is_newest_first = times == sorted(times, reverse=True)
    return is_newest_first and all(
        submissions.is_before(submission, datetime.fromtimestamp(created_at, UTC)) for created_at in times
    )


def _refusal(batch: object, label: str) -> Failure:
    first = at(batch, "errors", "data", 0)
    code = text_at(first, "code")
    status = faults.status_of(code, default=_REFUSED)
    return failure_in({"error": first}, label, status=status)


def _outcome(said: object, label: str) -> ItemOutcome:
    unrun = _UNRUN.get(text_at(said, "error", "code"))
    if unrun is not None:
        return unrun
    if at(said, "error") is not None:
        return failure_in(said, label)
    status, body = count_at(said, "response", "status_code"), at(said, "response", "body")
    if status is None:
        return faults.corrupt(label)
    try:
        return Answered(answer_of(body, label)) if status == _HTTP_OK else failure_in(body, label, status=status)
    except Failure as failure:
        return failure
    except MalformedStream:
        return faults.corrupt(label)
