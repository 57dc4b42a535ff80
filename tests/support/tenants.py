"""Organizations for tests, each with one of everything."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Final

import grpc.aio

from parley.auth.v1 import token_service_pb2, token_service_pb2_grpc
from tests.support.positions import Seen
from tests.support.rest import Rest
from tests.support.stack import Stack

PASSWORD: Final = "correct horse battery staple"
FACTS: Final = (
    "# The lighthouse of Skerry\n\n"
    "The lighthouse of Skerry was built in 1843 by the engineer Alan Stevenson. "
    "Its lamp is seen from twenty miles away.\n\n"
    "The keeper's cottage holds a small museum. The museum is open from May to September.\n"
)
QUESTION: Final = "Who built the lighthouse of Skerry?"

LONG: Final = "word " * 6_000
"""About 7,500 tokens: more than a history has without a summary."""
ANSWERS_MAX: Final = 100
"""Answers that may go by before the summary is there: it is made behind them."""

TIMEOUT_S: Final = 10.0

_numbers: Final = count(1)


@dataclass(frozen=True, slots=True)
class Tenant:
    """An organization's owner with an API key, and the ids of what the owner has, by field name of the contracts.

    Attributes:
        seen: by the owner, and by callers over gRPC.
    """

    url: str
    api_key: str
    ids: Mapping[str, str]
    targets: Mapping[str, str]
    seen: Seen

    def token(self, audience: str) -> str:
        """An internal token for `audience`, as an internal gRPC consumer gets it."""
        return exchange(self.targets["auth"], self.api_key, audience)


def exchange(auth_target: str, api_key: str, audience: str) -> str:
    """Trades an API key for an internal token."""
    request = token_service_pb2.ExchangeTokenRequest(api_key=api_key, audiences=[audience])

    async def traded() -> str:
        async with grpc.aio.insecure_channel(auth_target) as channel:
            response = await token_service_pb2_grpc.TokenServiceStub(channel).ExchangeToken(request, timeout=TIMEOUT_S)
        return response.tokens[0].token

    return asyncio.run(traded())


@contextmanager
def registered_tenant(stack: Stack, name: str) -> Iterator[Tenant]:
    """A new organization with a knowledge base, a document, a conversation and a completed turn."""
    email = f"{name}-{next(_numbers)}@example.com"
    with Rest(stack.url) as anybody:
        user = anybody.post("/api/v1/auth/register", {"email": email, "password": PASSWORD})
        login = anybody.post("/api/v1/auth/login", {"email": email, "password": PASSWORD})
    with Rest(stack.url, login["tokens"]["access_token"]) as rest:
        key = rest.post("/api/v1/api_keys", {"display_name": "test"})
    with Rest(stack.url, key["secret"]) as rest:
        ids = {"user_id": user["id"], "api_key_id": key["api_key"]["id"], **_resources(rest, name)}
    yield Tenant(url=stack.url, api_key=key["secret"], ids=ids, targets=stack.targets, seen=rest.seen)


def knowledge_base(rest: Rest, name: str) -> tuple[str, str]:
    """A knowledge base that knows the facts, and its document."""
    base = rest.post("/api/v1/knowledge_bases", {"display_name": name})
    document = rest.upload(base["id"], "skerry.md", FACTS.encode())
    assert rest.ready(document["id"])["state"] == "ready"
    return base["id"], document["id"]


def summary(rest: Rest) -> str:
    """The id of a summary of a conversation that is too long for its models."""
    conversation = rest.post("/api/v1/conversations", {"model": "scripted/quick"})
    for number in range(ANSWERS_MAX):
        message = rest.ask(conversation["id"], f"{number}? {'' if number else LONG}").message
        assert message is not None
        if message["context"]["summary_id"]:
            return str(message["context"]["summary_id"])
    raise AssertionError("no summary was made")


def _resources(rest: Rest, name: str) -> dict[str, str]:
    base_id, document_id = knowledge_base(rest, f"{name}'s")
    conversation = rest.post("/api/v1/conversations", {"title": f"{name}'s", "knowledge_base_id": base_id})
    message = rest.ask(conversation["id"], QUESTION).message
    assert message is not None
    prompt = rest.post("/api/v1/prompts", {"name": "keeper", "content": {"template": "Be kind."}})
    request = {"model": "scripted/quick", "prompt": {"messages": [{"role": "user", "text": "Who?"}]}}
    batch = rest.post("/api/v1/batches", {"items": [{"custom_id": "who", "request": request}]})
    return {
        "batch_id": batch["id"],
        "prompt": prompt["id"],
        "knowledge_base_id": base_id,
        "document_id": document_id,
        "conversation_id": conversation["id"],
        "turn_id": message["turn_id"],
        "message_id": message["id"],
        "leaf_message_id": message["id"],
        "parent_id": message["id"],
    }
