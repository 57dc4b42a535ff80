"""A client of the API that does what the documentation asks of clients: keys, retries, resumed streams."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import httpx

from tests.chaos.history import Notes
from tests.chaos.provider import question

PATIENCE_S: Final = 150.0
"""A client that has no whole answer after as long gives up, and says so."""
_BACKOFF_S: Final = (0.2, 5.0)
"""First and longest pause before a retry; it doubles in between, with jitter."""
_TIMEOUT: Final = httpx.Timeout(20.0, connect=3.0, pool=30.0)
"""The edge says something every 15 seconds."""
BROKEN: Final = (httpx.HTTPError, AttributeError)
"""A connection that failed. anyio, below httpx, says AttributeError where uvloop closed it while it was being made."""
_TURN_HEADER: Final = "x-parley-turn"
_viewers: Final = count(1)

Json = Mapping[str, Any]  # Any: whatever the contract says


@dataclass(slots=True)
class Seen:
    """What one turn's client holds.

    Attributes:
        turn_id: once it was told.
        question_id: as `turn_id`; whoever edits the question names it.
        sequence: of the last event.
        is_finished: whether the end was streamed.
        failures: in a row, which the next pause grows with.
        viewer: its number in the history; what one viewer saw has to fit together over all its connections.
    """

    turn_id: str = ""
    question_id: str = ""
    sequence: int = 0
    is_finished: bool = False
    failures: int = 0
    viewer: int = field(default_factory=lambda: next(_viewers))


class Leave(Exception):  # noqa: N818 - an event: the client hangs up on purpose
    """Enough was seen of a stream."""


class Client:
    """A user's client, with the user's credential.

    Args:
        url: of the edge.
        organization: name of the tenant, part of every key.
        credential: API key.
        history: gets everything that is sent and received.
        chance: seeded.
    """

    def __init__(self, url: str, organization: str, credential: str, history: Notes, chance: random.Random) -> None:
        headers = {"authorization": f"Bearer {credential}"}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self.http = httpx.AsyncClient(base_url=url, headers=headers, timeout=_TIMEOUT, limits=limits, trust_env=False)
        self.organization = organization
        self._history = history
        self._chance = chance

    async def conversation(self, model: str) -> str:
        """Creates a conversation; it insists."""
        body = {"model": model, "title": self.organization}
        key = f"conversation-{self._chance.getrandbits(64):x}"
        for failures in count():
            response = await self._try("POST", "/api/v1/conversations", body, key)
            if response is not None and response.is_success:
                return str(response.json()["id"])
            await self._pause(failures)
        raise AssertionError("it counts for ever")

    async def ask(self, conversation_id: str, key: str, seen: Seen, *, edit_of: str = "") -> None:
        """Asks a question and watches until the end of the answer, whatever breaks meanwhile.

        Args:
            conversation_id: of the client.
            key: names the question, and makes it safe to repeat.
            seen: tells how far it came.
            edit_of: the question that this one takes the place of; empty for one that goes on with the conversation.
        """
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not seen.turn_id:
                    await self._post(conversation_id, key, seen, edit_of)
                await self.follow(seen)
        except TimeoutError:
            self._history.add("gave_up", key=key, turn=seen.turn_id)
        else:
            self._history.add("done", key=key, turn=seen.turn_id)

    async def follow(self, seen: Seen) -> None:
        """Watches a turn from where the client stands to its end."""
        while not seen.is_finished:
            last = {"last-event-id": str(seen.sequence)} if seen.sequence else {}
            await self._watch("GET", f"/api/v1/turns/{seen.turn_id}/events", None, last, seen)
            if not seen.is_finished:
                await self._pause(seen.failures)
                seen.failures += 1

    async def follow_from_start(self, turn_id: str) -> None:
        """Watches a turn as a second window does, which has seen nothing yet."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.follow(Seen(turn_id))
        except TimeoutError:
            self._history.add("gave_up", key="", turn=turn_id)

    async def repeat(self, conversation_id: str, key: str, *, edit_of: str = "") -> None:
        """Sends a question that was answered long ago once more, as a client does that never got the answer."""
        self._history.add("post", key=key, conversation=conversation_id, edit_of=edit_of)
        response = await self._try("POST", _turns_of(conversation_id), _asking(key, edit_of), key)
        self._note_posted(key, response)

    async def peek(self, turn_id: str) -> None:
        """Asks for another organization's turn."""
        response = await self._try("GET", f"/api/v1/turns/{turn_id}", None, "")
        if response is not None:
            self._history.add("foreign", turn=turn_id, organization=self.organization, status=response.status_code)

    async def cancel(self, seen: Seen, after_s: float) -> None:
        """Stops a turn some time after it was accepted; once, a lost cancel is lost."""
        await asyncio.sleep(after_s)
        if seen.turn_id and not seen.is_finished:
            self._history.add("cancel", turn=seen.turn_id)
            await self._try("POST", f"/api/v1/turns/{seen.turn_id}:cancel", {}, "")

    async def _post(self, conversation_id: str, key: str, seen: Seen, edit_of: str) -> None:
        path, body = _turns_of(conversation_id), _asking(key, edit_of)
        self._history.add("post", key=key, conversation=conversation_id, edit_of=edit_of)
        if self._chance.random() < 0.7:
            await self._watch("POST", path, body, {"idempotency-key": key}, seen, key=key)
        else:
            response = await self._try("POST", path, body, key)
            self._note_posted(key, response)
            if response is not None and response.is_success:
                accepted = response.json()
                seen.turn_id, seen.question_id = str(accepted["id"]), str(accepted["user_message_id"])
        if not seen.turn_id:
            await self._pause(seen.failures)
            seen.failures += 1

    def _note_posted(self, key: str, response: httpx.Response | None) -> None:
        if response is None:
            return
        found = response.json() if response.headers.get("content-type", "").endswith("json") else {}
        turn_id = found.get("id", "") if response.is_success else ""
        reason = "" if response.is_success else str(found)[:300]
        self._history.add("posted", key=key, status=response.status_code, turn=turn_id, reason=reason)

    async def _watch(
        self, method: str, path: str, body: Json | None, headers: Json, seen: Seen, *, key: str = ""
    ) -> None:
        how = "ended"
        leaves_after = self._chance.randint(1, 12) if self._chance.random() < 0.05 else 0
        try:
            headers = {"accept": "text/event-stream", **headers}
            async with self.http.stream(method, path, json=body, headers=headers) as response:
                if not response.is_success:
                    await response.aread()
                    how = f"{response.status_code} {response.text[:300]}"
                    if key:
                        self._note_posted(key, response)
                    return
                seen.turn_id = seen.turn_id or response.headers.get(_TURN_HEADER, "")
                if key:
                    self._history.add("posted", key=key, status=response.status_code, turn=seen.turn_id, reason="")
                self._history.add("watch", viewer=seen.viewer, turn=seen.turn_id, after=seen.sequence)
                async with aclosing(_events(response)) as events:
                    await self._take(events, seen, leaves_after)
        except Leave:
            how = "left"
        except BROKEN as error:
            how = f"broken {type(error).__name__}"
        finally:
            self._history.add("watched", viewer=seen.viewer, turn=seen.turn_id, key=key, how=how)

    async def _take(self, events: AsyncGenerator[Json, None], seen: Seen, leaves_after: int) -> None:
        taken = 0
        async for event in events:
            self._history.add("event", viewer=seen.viewer, turn=seen.turn_id, **event)
            if event["event"] == "error":
                return
            seen.sequence, seen.failures = int(event["id"]), 0
            seen.is_finished = event["event"] == "turn_finished"
            if event["event"] == "turn_started":
                seen.question_id = str(json.loads(event["data"])["turn_started"]["user_message_id"])
            taken += 1
            if leaves_after == taken and not seen.is_finished:
                raise Leave

    async def _try(self, method: str, path: str, body: Json | None, key: str) -> httpx.Response | None:
        try:
            return await self.http.request(method, path, json=body, headers={"idempotency-key": key} if key else {})
        except BROKEN as error:
            self._history.add("broken", path=path, key=key, error=type(error).__name__)
            return None

    async def _pause(self, failures: int) -> None:
        first, longest = _BACKOFF_S
        await asyncio.sleep(self._chance.uniform(0.5, 1.0) * min(longest, first * 2.0**failures))


def _turns_of(conversation_id: str) -> str:
    return f"/api/v1/conversations/{conversation_id}/turns"


def _asking(key: str, edit_of: str) -> Json:
    text = question(key)
    return {"edit_of": {"message_id": edit_of, "text": text}} if edit_of else {"new": {"text": text}}


async def _events(response: httpx.Response) -> AsyncGenerator[Json, None]:
    """The events of a stream (WHATWG HTML, server-sent events); comments are dropped."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line == "":
            if "data" in fields:
                yield {"id": fields.get("id", ""), "event": fields.get("event", ""), "data": fields["data"]}
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
