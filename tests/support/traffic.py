"""Steady traffic for a stack of replicas, as a load balancer and our own channels carry it; every failure is kept.

Nothing here is tried again: unary calls over gRPC have what the channel ships, REST has nothing. A stream that an edge
ends is resumed at whatever edge is in, as `Last-Event-ID` is for.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, Self

import httpx

from parley.auth.v1 import token_service_pb2, token_service_pb2_grpc
from parley.conversation.v1 import conversation_service_pb2, conversation_service_pb2_grpc
from parley.inference.v1 import model_service_pb2, model_service_pb2_grpc
from parley.retrieval.v1 import knowledge_base_service_pb2, knowledge_base_service_pb2_grpc
from services.mesh.client import open_channel, unary
from services.mesh.errors import MeshError
from services.mesh.settings import MeshSettings
from tests.support.positions import Seen
from tests.support.rest import StreamBrokenError, Watcher, events_of, text_of

PROBE_EVERY_S: Final = 0.1
PROBE_TIMEOUT_S: Final = 5.0
TOKEN_KEPT_S: Final = 20.0
"""Of the 60 s that an internal token lives."""
RESUME_PAUSE_S: Final = 0.1
STREAM_S_MAX: Final = 240.0
_TIMEOUT: Final = httpx.Timeout(30.0)

Json = Mapping[str, Any]  # Any: JSON of whatever the contract says


class Balancer:
    """A load balancer with probes: new requests go to edges whose /readyz said yes when it was last asked.

    Args:
        urls: of the edges.
        credential: API key of the clients behind it.
    """

    def __init__(self, urls: Sequence[str], credential: str) -> None:
        self._urls = tuple(urls)
        self._in = list(urls)
        self._turn = count()
        headers = {"authorization": f"Bearer {credential}"}
        hooks = Seen().async_hooks()
        self._pools = {
            url: httpx.AsyncClient(base_url=url, headers=headers, timeout=_TIMEOUT, trust_env=False, event_hooks=hooks)
            for url in urls
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for pool in self._pools.values():
            await pool.aclose()

    def edge(self) -> httpx.AsyncClient:
        """Where the next request goes: the edges that are in take turns; with none, any of them."""
        edges = self._in or list(self._urls)
        return self._pools[edges[next(self._turn) % len(edges)]]

    async def watch(self) -> None:
        """Asks every edge again and again until cancelled."""
        async with asyncio.TaskGroup() as group:
            for url in self._urls:
                group.create_task(self._probe(url))

    async def _probe(self, url: str) -> None:
        while True:
            is_ready = await _is_ready(url)
            if not is_ready and url in self._in:
                self._in.remove(url)
            elif is_ready and url not in self._in:
                self._in.append(url)
            await asyncio.sleep(PROBE_EVERY_S)


async def _is_ready(url: str) -> bool:
    # A connection per probe: one kept alive would tell of a process that is no longer listening.
    async with httpx.AsyncClient(timeout=PROBE_TIMEOUT_S, trust_env=False) as http:
        try:
            return (await http.get(f"{url}/readyz")).is_success
        except httpx.TransportError:
            return False


@dataclass(slots=True)
class Figures:
    """What the traffic met.

    Attributes:
        calls: unary calls by kind.
        failures: what went wrong, with seconds since the beginning.
        streams: answers that were watched to their end.
        resumed: how often a stream ended early and went on elsewhere.
        cut: of those, ended by something else than an orderly end.
        broken: streams with a gap, a repeat, another text than the stored one, or no end.
        attempts: the most that a turn needed.
    """

    calls: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    streams: int = 0
    resumed: int = 0
    cut: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    attempts: int = 0
    begun: float = field(default_factory=time.monotonic)

    @property
    def made(self) -> int:
        """Unary calls of every kind."""
        return sum(self.calls.values())

    def at(self) -> str:
        """How far the run has come, for the lists."""
        return f"{time.monotonic() - self.begun:6.2f} s"


class Traffic:
    """Clients that call until they are told to stop.

    Args:
        balancer: in front of the edges.
        targets: gRPC addresses of the services.
        credential: API key of everybody.
        model: that answers the streams' questions.
        certificates: by which the services know the clients that call by gRPC, where they ask for some.

    Attributes:
        figures: so far.
    """

    def __init__(
        self,
        balancer: Balancer,
        targets: Mapping[str, str],
        credential: str,
        model: str,
        *,
        certificates: MeshSettings | None = None,
    ) -> None:
        self.figures = Figures()
        self._certificates = certificates
        self._balancer = balancer
        self._targets = targets
        self._credential = credential
        self._model = model
        self._is_over = False

    @asynccontextmanager
    async def running(self, *, rest: int, consumers: int, watchers: int, pause_s: float) -> AsyncIterator[None]:
        """Traffic while the body runs; then streams are watched to their ends.

        Args:
            rest: clients that make unary calls over HTTP.
            consumers: clients that make unary calls over gRPC.
            watchers: clients that ask and watch the answers.
            pause_s: between two calls of a client.
        """
        async with asyncio.TaskGroup() as probes:
            probing = probes.create_task(self._balancer.watch())
            async with asyncio.TaskGroup() as group:
                for number in range(watchers):
                    group.create_task(self._watcher(number))
                for _ in range(rest):
                    group.create_task(self._rest_client(pause_s))
                for _ in range(consumers):
                    group.create_task(self._consumer(pause_s))
                try:
                    yield
                finally:
                    self._is_over = True
            probing.cancel()

    async def _rest_client(self, pause_s: float) -> None:
        conversation_id = ""
        for number in count():
            if self._is_over:
                return
            made = await self._request("POST", "/api/v1/conversations", {"title": f"Number {number}"})
            conversation_id = str(made["id"]) if made else conversation_id
            for method, path, body in _requests(conversation_id):
                await asyncio.sleep(pause_s)
                await self._request(method, path, body)

    async def _request(self, method: str, path: str, body: Json | None) -> Json | None:
        self._count("rest")
        edge = self._balancer.edge()
        try:
            response = await edge.request(method, path, json=body)
        except httpx.TransportError as error:
            self._fail(f"{method} {path} at {edge.base_url}: {error!r}")
            return None
        if not response.is_success:
            self._fail(f"{method} {path} at {edge.base_url}: {response.status_code} {response.text}")
            return None
        found: Json = response.json()
        return found

    async def _consumer(self, pause_s: float) -> None:
        async with AsyncExitStack() as stack:
            consumer = Consumer(self._credential)
            await consumer.connect(stack, self._targets, self._certificates)
            conversation_id = ""
            while not self._is_over:
                for name, call in consumer.calls(conversation_id):
                    self._count("grpc")
                    try:
                        response = await call()
                    except MeshError as error:
                        self._fail(f"{name}: {error!r} from {error.__cause__!r}")
                    else:
                        if isinstance(response, conversation_service_pb2.CreateConversationResponse):
                            conversation_id = response.conversation.id
                    await asyncio.sleep(pause_s)

    async def _watcher(self, number: int) -> None:
        conversation = await self._request("POST", "/api/v1/conversations", {"model": self._model})
        while conversation is not None and not self._is_over:
            path = f"/api/v1/conversations/{conversation['id']}/turns"
            try:
                async with asyncio.timeout(STREAM_S_MAX):
                    await self._stream(path)
            except (AssertionError, TimeoutError) as problem:
                self.figures.broken.append(f"{self.figures.at()} watcher {number}: {problem!r}")
            self.figures.streams += 1

    async def _stream(self, path: str) -> None:
        watcher = Watcher()
        self._count("ask")
        turn_id = await self._watched(watcher, "POST", path, {"new": {"text": "Go"}}, {})
        if not turn_id:
            return
        while watcher.message is None:
            self.figures.resumed += 1
            await asyncio.sleep(RESUME_PAUSE_S)
            last = {"last-event-id": str(watcher.sequence)} if watcher.sequence else {}
            await self._watched(watcher, "GET", f"/api/v1/turns/{turn_id}/events", None, last)
        stored = await self._request("GET", f"/api/v1/messages/{watcher.message['id']}", None)
        turn = await self._request("GET", f"/api/v1/turns/{turn_id}", None)
        if stored is not None and turn is not None:
            assert turn["state"] == "completed", turn
            assert text_of(stored) == watcher.text
            self.figures.attempts = max(self.figures.attempts, turn["attempt"])

    async def _watched(self, watcher: Watcher, method: str, path: str, body: Json | None, headers: Json) -> str:
        """Watches until the stream ends, however it does; the turn's id, empty when there is none."""
        edge = self._balancer.edge()
        turn_id = ""
        try:
            accept = {"accept": "text/event-stream", **headers}
            async with edge.stream(method, path, json=body, headers=accept) as response:
                if not response.is_success:
                    await response.aread()
                    self._fail(f"{method} {path} at {edge.base_url}: {response.status_code} {response.text}")
                    return ""
                turn_id = response.headers.get("x-parley-turn", "")
                async for event in events_of(response.aiter_lines()):
                    watcher.see(event)
        except httpx.TransportError as error:
            if not turn_id and method == "POST":
                self._fail(f"{method} {path} at {edge.base_url}: {error!r}")
            else:
                self.figures.cut.append(f"{self.figures.at()} {edge.base_url}: {error!r}")
        except StreamBrokenError as error:
            self.figures.cut.append(f"{self.figures.at()} {edge.base_url}: {error!r}")
        return turn_id

    def _count(self, kind: str) -> None:
        self.figures.calls[kind] = self.figures.calls.get(kind, 0) + 1

    def _fail(self, what: str) -> None:
        self.figures.failures.append(f"{self.figures.at()} {what}")


class Consumer:
    """Another team's service: it calls the contracts over channels of its own.

    Args:
        credential: API key that it trades for internal tokens.
    """

    def __init__(self, credential: str) -> None:
        self._credential = credential
        self._tokens: dict[str, str] = {}
        self._traded_at = float("-inf")
        self._seen = Seen()

    async def connect(
        self, stack: AsyncExitStack, targets: Mapping[str, str], certificates: MeshSettings | None
    ) -> None:
        """Opens a channel to all replicas of each service."""
        auth, conversation, retrieval, inference = [
            await stack.enter_async_context(open_channel(targets[service], [contract], certificates))
            for service, contract in _CONTRACTS.items()
        ]
        self._auth = token_service_pb2_grpc.TokenServiceStub(auth)
        self._conversations = conversation_service_pb2_grpc.ConversationServiceStub(conversation)
        self._messages = conversation_service_pb2_grpc.MessageServiceStub(conversation)
        self._bases = knowledge_base_service_pb2_grpc.KnowledgeBaseServiceStub(retrieval)
        self._models = model_service_pb2_grpc.ModelServiceStub(inference)

    def calls(self, conversation_id: str) -> Iterator[tuple[str, Callable[[], Any]]]:  # Any: awaitables of responses
        """One round of calls, by name."""
        if time.monotonic() - self._traded_at > TOKEN_KEPT_S:
            yield "ExchangeToken", self._trade
        api = conversation_service_pb2
        to_conversation = self._conversations, "conversation"
        # Without a request id: a repeat would be a second conversation.
        yield from self._of(*to_conversation, "CreateConversation", api.CreateConversationRequest(title="A consumer's"))
        yield from self._of(*to_conversation, "ListConversations", api.ListConversationsRequest(page_size=5))
        yield from self._of(self._bases, "retrieval", "ListKnowledgeBases", _LIST_BASES)
        yield from self._of(self._models, "inference", "ListModels", _LIST_MODELS)
        if conversation_id:
            get = api.GetConversationRequest(conversation_id=conversation_id)
            yield from self._of(*to_conversation, "GetConversation", get)
            listing = api.ListMessagesRequest(conversation_id=conversation_id)
            yield from self._of(self._messages, "conversation", "ListMessages", listing)

    def _of(
        self, stub: object, audience: str, name: str, request: object
    ) -> Iterator[tuple[str, Callable[[], Any]]]:  # Any: as above
        metadata = (("authorization", f"Bearer {self._tokens.get(audience, '')}"),)
        yield name, lambda: self._called(getattr(stub, name), request, metadata)

    async def _called(
        self, method: Any, request: object, metadata: tuple[tuple[str, str], ...]
    ) -> Any:  # Any: as above
        call = method(request, metadata=(*metadata, *self._seen.metadata))
        response = await unary(call)
        self._seen.take_trailer(await call.trailing_metadata())
        return response

    async def _trade(self) -> None:
        request = token_service_pb2.ExchangeTokenRequest(
            api_key=self._credential, audiences=["conversation", "retrieval", "inference"]
        )
        response = await unary(self._auth.ExchangeToken(request))
        self._tokens = {minted.audience: minted.token for minted in response.tokens}
        self._traded_at = time.monotonic()


_CONTRACTS: Final = {
    "auth": token_service_pb2.DESCRIPTOR,
    "conversation": conversation_service_pb2.DESCRIPTOR,
    "retrieval": knowledge_base_service_pb2.DESCRIPTOR,
    "inference": model_service_pb2.DESCRIPTOR,
}
_LIST_BASES: Final = knowledge_base_service_pb2.ListKnowledgeBasesRequest()
_LIST_MODELS: Final = model_service_pb2.ListModelsRequest()


def _requests(conversation_id: str) -> Iterator[tuple[str, str, Json | None]]:
    """A round of requests that concern every service."""
    yield "GET", "/api/v1/users/me", None
    yield "GET", "/api/v1/models", None
    yield "GET", "/api/v1/knowledge_bases", None
    yield "GET", "/api/v1/conversations", None
    if conversation_id:
        yield "GET", f"/api/v1/conversations/{conversation_id}", None
        yield "PATCH", f"/api/v1/conversations/{conversation_id}", {"title": "Another"}
        yield "GET", f"/api/v1/conversations/{conversation_id}/messages", None
