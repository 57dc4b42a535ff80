"""A whole stack as a subject: every process, with room for as many streams as are asked for."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dev.postgres import Cluster
from tests.load.client import Endpoint
from tests.load.conversations import make_conversations
from tests.load.double import MODEL
from tests.load.serving import Served
from tests.load.subjects import Subject, limit
from tests.support.stack import Stack

ROLES: Final = ("edge", "conversation", "conversation-worker", "inference", "auth", "postgres", "valkey")
"""Processes that a turn without retrieval touches."""
MODEL_NAME: Final = f"openai/{MODEL}"
TUNNEL: Final[Mapping[str, str]] = {"PARLEY_MESH_TRANSPORT": "tunnel"}
GRPC: Final[Mapping[str, str]] = {"PARLEY_MESH_TRANSPORT": "grpc"}
"""How the processes of a stack call each other."""
_STREAMS_MAX: Final = 10_000
"""Of one worker and of one edge."""
_POOL_SIZE: Final = "20"
_CALLS_PER_STREAM: Final = 4


@dataclass(frozen=True, slots=True)
class Platform:
    """A running stack.

    Attributes:
        database_url: of its PostgreSQL, for what is made and looked at past the API.
    """

    subject: Subject
    stack: Stack
    database_url: str

    @property
    def endpoint(self) -> Endpoint:
        """Of its edge."""
        return self.subject.endpoint

    async def conversations(self, count: int, *, model: str = MODEL_NAME) -> list[str]:
        """Paths that a question opens a turn at, each of a new conversation."""
        made = await make_conversations(self.stack.url, self.endpoint.key, self.database_url, model=model, count=count)
        return [f"/api/v1/conversations/{one}/turns" for one in made]


@contextmanager
def platform(
    name: str, folder: Path, provider: Served, *, streams: int, environment: Mapping[str, str]
) -> Iterator[Platform]:
    """A stack of this checkout with everything on: key check, budgets of all kinds, ledger, metrics, logs.

    Args:
        name: in the tables.
        folder: its data.
        provider: that its model is asked at.
        streams: open at the same time at most.
        environment: further settings.
    """
    running = Stack(folder, _room(streams) | _provided(provider) | dict(environment))
    try:
        running.start()
        limit(running.url, running.api_key)
        endpoint = Endpoint(int(running.url.rpartition(":")[2]), running.api_key, MODEL_NAME)
        subject = Subject(name, endpoint, {role: running.pid(role) for role in ROLES})
        database_url = Cluster(folder / "postgres").url(running.ports("postgres")["postgres"])
        yield Platform(subject, running, database_url)
    finally:
        running.stop()


def _provided(provider: Served) -> dict[str, str]:
    return {"OPENAI_API_KEY": "sk-load", "OPENAI_BASE_URL": f"{provider.url}/v1", "PARLEY_LOG_FORMAT": "json"}


def _room(streams: int) -> dict[str, str]:
    """What an operator would set for so many at once; less than the shipped settings is not set."""
    wanted = min(_STREAMS_MAX, max(streams, 1_000))
    return {
        "PARLEY_CONVERSATION_CONCURRENCY": str(wanted),
        "PARLEY_CALLS_MAX": str(_CALLS_PER_STREAM * wanted),
        "PARLEY_DATABASE_POOL_SIZE": _POOL_SIZE,
    }
