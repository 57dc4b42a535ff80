"""The load: questions at a steady rate from several organizations, whatever the platform does meanwhile."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

import httpx

from tests.chaos.client import Client, Seen
from tests.chaos.history import Notes
from tests.chaos.provider import MODEL, PREFIXED

ORGANIZATIONS: Final = ("alder", "birch", "cedar")
TURNS_PER_CONVERSATION: Final = 12
"""A new conversation begins after as many: long enough to need its history, short enough for any prompt."""
_PASSWORD: Final = "correct horse battery staple"
_SECOND_WATCHER, _REPEAT, _PEEK, _CANCEL, _EDIT = 0.08, 0.08, 0.05, 0.03, 0.1


@dataclass(slots=True)
class Talk:
    """A conversation of one client.

    Attributes:
        question_id: of the newest question, where the client was told; an edit takes its place.
    """

    client: Client
    id: str
    asked: int = 0
    question_id: str = ""


class Load:
    """Asks until it is told to stop.

    Args:
        clients: one per organization.
        history: as in Client.
        seed: of what is asked when, and how.
        rate: questions per second.
        running_max: turns at once, as if there were so many users; above, a question is dropped and counted.

    Attributes:
        asked, finished, dropped: turns so far.
        open: numbers of the turns that have not ended.
        is_open: whether new questions are asked.
    """

    def __init__(
        self, clients: Sequence[Client], history: Notes, *, seed: int, rate: float, running_max: int = 200
    ) -> None:
        self._clients = clients
        self._history = history
        self.seed = seed
        self._chance = random.Random(seed)
        self._rate = rate
        self._running_max = running_max
        self._idle: list[Talk] = []
        self._numbers = count(1)
        self.asked = self.finished = self.dropped = 0
        self.open: set[int] = set()
        self.is_open = True

    @property
    def running(self) -> int:
        """Turns that have not ended."""
        return self.asked - self.finished

    async def run(self) -> None:
        """Asks until closed, then waits for the last answer."""
        async with asyncio.TaskGroup() as group:
            due = time.monotonic()
            while self.is_open:
                due = max(due + self._chance.expovariate(self._rate), time.monotonic() - 1.0)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if self.running >= self._running_max:
                    self.dropped += 1
                    continue
                self.asked += 1
                group.create_task(self._turn(group))

    async def _turn(self, group: asyncio.TaskGroup) -> None:
        number = next(self._numbers)
        self.open.add(number)
        talk = await self._talk()
        key = f"{talk.client.organization}.{self.seed}.{number}.{self._chance.getrandbits(32):x}"
        seen = Seen()
        edit_of = talk.question_id if self._chance.random() < _EDIT else ""
        asking = group.create_task(talk.client.ask(talk.id, key, seen, edit_of=edit_of))
        if self._chance.random() < _CANCEL:
            group.create_task(talk.client.cancel(seen, self._chance.uniform(0.1, 1.0)))
        if self._chance.random() < _SECOND_WATCHER:
            group.create_task(self._watch_too(talk.client, seen))
        await asking
        self.finished += 1
        self.open.discard(number)
        if self._chance.random() < _PEEK and seen.turn_id:
            await self._stranger(talk.client).peek(seen.turn_id)
        if self._chance.random() < _REPEAT and seen.turn_id:
            await talk.client.repeat(talk.id, key, edit_of=edit_of)
        talk.asked += 1
        talk.question_id = seen.question_id
        if talk.asked < TURNS_PER_CONVERSATION and seen.is_finished:
            self._idle.append(talk)

    async def _talk(self) -> Talk:
        if self._idle and self._chance.random() < 0.9:
            return self._idle.pop(self._chance.randrange(len(self._idle)))
        client = self._chance.choice(self._clients)
        return Talk(client, await client.conversation(self._chance.choice((MODEL, PREFIXED))))

    async def _watch_too(self, client: Client, seen: Seen) -> None:
        """A second window of the same user."""
        await asyncio.sleep(self._chance.uniform(0.0, 1.0))
        if seen.turn_id:
            await client.follow_from_start(seen.turn_id)

    def _stranger(self, client: Client) -> Client:
        return self._chance.choice([other for other in self._clients if other is not client])


async def registered(url: str, organization: str, history: Notes, chance: random.Random) -> Client:
    """A new organization's owner, with an API key."""
    email = f"{organization}@example.com"
    async with httpx.AsyncClient(base_url=url, timeout=30.0, trust_env=False) as http:
        response = await http.post("/api/v1/auth/register", json={"email": email, "password": _PASSWORD})
        response.raise_for_status()
        response = await http.post("/api/v1/auth/login", json={"email": email, "password": _PASSWORD})
        response.raise_for_status()
        token = response.json()["tokens"]["access_token"]
        headers = {"authorization": f"Bearer {token}"}
        response = await http.post("/api/v1/api_keys", json={"display_name": "chaos"}, headers=headers)
        response.raise_for_status()
    return Client(url, organization, response.json()["secret"], history, chance)
