"""Caches on a real Valkey while writers change what readers read: nobody is told what was over when he asked.

A reader may be stopped between reading the truth and keeping it, for as long as whoever stops it likes; messages may be
lost. Each cache is held to its promise, and so is one without what the promise rests on, which has to break it.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import pytest
from pydantic import SecretStr

from services.auth.shared_state import SharedFacts
from services.conversation.history.branches import Branch, HistoryCache, Kept
from services.conversation.history.cache_valkey import ValkeyHistoryCache
from services.conversation.model import ConversationId, Owner, Role
from services.conversation.ports import PromptMessage
from services.inference.cache.entries import Entries, Found
from services.inference.cache.entries_valkey import ValkeyEntries
from services.mesh.cache import ALONE_LIFE_S, SUBSCRIBED_LIFE_S, InvalidatingCache
from services.mesh.clock import ManualClock
from services.mesh.errors import Unavailable
from services.mesh.settings import ValkeySettings
from services.mesh.valkey import Client, open_valkey
from tests.support.valkey import url_of
from tests.support.waiting import until

ROUNDS = 40
READERS = 6
WITHIN_S = 60.0
OWNER = Owner("org_acme", "usr_ada")
CONVERSATION = ConversationId("conv_1")

Stop = Callable[[], Awaitable[None]]


@pytest.fixture(params=["valkey", "cluster"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    settings = ValkeySettings(valkey_url=SecretStr(url_of(request)), valkey_timeout_s=60)
    async with open_valkey(settings, application="test") as opened:
        yield opened


class Subject(Protocol):
    """A cache over a truth that is a number which only grows."""

    async def read(self, stop: Stop) -> int:
        """The number, from the cache, or from the truth and then kept; stops in between."""
        ...

    async def change(self) -> None:
        """Makes the number larger by one; what was before is over when this returns."""
        ...


@dataclass(slots=True)
class Answers:
    """As the cache of answers is used: the epochs that a call began with are stored with what it made."""

    entries: Entries
    truth: int = 0

    async def read(self, stop: Stop) -> int:
        found = await self.entries.get("org_acme", "name")
        if found.entry is not None:
            epoch, _, number = found.entry.partition(b":")
            if epoch.decode() == found.epochs[""]:
                return int(number)
        number_now = self.truth
        await stop()
        made = f"{found.epochs['']}:{number_now}".encode()
        await self.entries.put("org_acme", "name", made, keep_s=600.0)
        return number_now

    async def change(self) -> None:
        self.truth += 1
        await self.entries.void("org_acme", "")


class BlindEntries(ValkeyEntries):
    """Mutant: answers are stored under whatever epoch there is when they are asked for."""

    async def get(self, organization_id: str, name: str) -> Found:
        found = await super().get(organization_id, name)
        return Found({"": "always"}, found.entry)


@dataclass(slots=True)
class Branches:
    """As the cache of histories is used when a conversation is changed."""

    cache: HistoryCache
    truth: int = 0

    async def read(self, stop: Stop) -> int:
        kept = await self.cache.get(OWNER, CONVERSATION)
        if kept.branch is not None:
            return int(kept.branch.messages[0].text)
        number_now = self.truth
        await stop()
        branch = Branch("msg", (PromptMessage(Role.USER, str(number_now)),), kept.mark)
        await self.cache.put(OWNER, CONVERSATION, branch)
        return number_now

    async def change(self) -> None:
        self.truth += 1
        await self.cache.drop(OWNER, CONVERSATION)


class MarklessHistories(ValkeyHistoryCache):
    """Mutant: whoever comes puts his branch there, with the mark that is there now."""

    async def put(self, owner: Owner, conversation_id: ConversationId, branch: Branch) -> bool:
        present: Kept = await super().get(owner, conversation_id)
        return await super().put(owner, conversation_id, Branch(branch.leaf_id, branch.messages, present.mark))


@dataclass(slots=True)
class Facts:
    """As auth looks credentials up, on a replica that hears nothing and keeps nothing itself: Valkey's part alone."""

    client: Client
    truth: int = 0
    made: type[SharedFacts] = SharedFacts
    clock: ManualClock = field(default_factory=ManualClock)

    async def read(self, stop: Stop) -> int:
        async def load() -> str:
            number_now = self.truth
            await stop()
            return str(number_now)

        return int(await self.made(self.client, self.clock).get("key", load) or -1)

    async def change(self) -> None:
        self.truth += 1
        await self.made(self.client, self.clock).forget(["key"])


class MarklessFacts(SharedFacts):
    """Mutant: what was loaded is put there, whatever was forgotten meanwhile."""

    async def _shared(self, name: str, load: Callable[[], Awaitable[str | None]]) -> str | None:
        known = await self._client.get(f"mutant:{name}")
        if known is None:
            known = await load()
            await self._client.set(f"mutant:{name}", known or "", px=60_000)
        return bytes(known).decode() if isinstance(known, bytes) else known

    async def forget(self, names: object) -> None:
        await self._client.delete("mutant:key")


async def broken_promises(subject: Answers | Branches | Facts, seed: int) -> int:
    """Reads that returned what was over when they began, of many that writers and pauses are mixed among."""
    chance = random.Random(seed)
    over = broken = 0
    paused: list[asyncio.Event] = []

    async def stop() -> None:
        if chance.random() < 0.5:
            gate = asyncio.Event()
            paused.append(gate)
            await gate.wait()

    async def read() -> None:
        nonlocal broken
        at_least = over
        found = await subject.read(stop)
        broken += found < at_least

    async with asyncio.TaskGroup() as group:
        for _ in range(ROUNDS):
            await subject.change()
            over = subject.truth
            for _ in range(2):
                readers = [group.create_task(read()) for _ in range(READERS)]
                await asyncio.wait(readers, timeout=0.005)
                chance.shuffle(paused)
                for gate in paused[: len(paused) // 3]:  # others sleep through several changes
                    gate.set()
                del paused[: len(paused) // 3]
        for gate in paused:
            gate.set()
    return broken


async def _never() -> None:
    """Does not stop."""


SUBJECTS: dict[str, tuple[Callable[[Client], Answers | Branches | Facts], Callable[[Client], object]]] = {
    "answers": (lambda client: Answers(ValkeyEntries(client)), lambda client: Answers(BlindEntries(client))),
    "histories": (
        lambda client: Branches(ValkeyHistoryCache(client, prefix="test", keep_s=60)),
        lambda client: Branches(MarklessHistories(client, prefix="test", keep_s=60)),
    ),
    "credentials": (Facts, lambda client: Facts(client, made=MarklessFacts)),
}


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("seed", range(3))
async def test_nobody_reads_what_was_over_when_he_asked(client: Client, name: str, seed: int) -> None:
    assert await broken_promises(SUBJECTS[name][0](client), seed) == 0


@pytest.mark.parametrize("name", SUBJECTS)
async def test_a_cache_without_its_mark_is_caught(client: Client, name: str) -> None:
    mutant = SUBJECTS[name][1](client)
    assert isinstance(mutant, Answers | Branches | Facts)
    assert sum([await broken_promises(mutant, seed) for seed in range(3)]) > 0


class Replica:
    """A process that keeps prompts, limits or the like in its memory, and is told of changes."""

    def __init__(self, client: Client, truth: dict[str, int]) -> None:
        self.clock = ManualClock()
        self.cache: InvalidatingCache[int] = InvalidatingCache("races", client, entries_max=10, clock=self.clock)
        self.truth = truth

    async def read(self, stop: Stop = _never) -> int:
        async def load() -> int:
            number_now = self.truth["k"]
            await stop()
            return number_now

        found = await self.cache.get_or_load("k", load)
        assert found is not None
        return found

    async def change(self) -> None:
        self.truth["k"] += 1
        await self.cache.invalidate("k")

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.cache.listen())
        try:
            await until(lambda: self.cache.is_subscribed, within_s=WITHIN_S)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_replica_that_slept_while_it_loaded_keeps_nothing_for_longer_than_any_other(client: Client) -> None:
    """It does not even hear of the change: what it read is as old as its reading, not as its waking."""
    here, there = Replica(client, {"k": 1}), Replica(client, {"k": 1})
    there.truth = here.truth

    async def sleep() -> None:
        await here.change()
        there.clock.advance(ALONE_LIFE_S)

    assert await there.read(sleep) == 1
    assert await there.read() == 2


@pytest.mark.parametrize("client", ["valkey"], indirect=True)
async def test_a_change_that_could_not_be_told_is_told_later(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(_channel: str, _text: str) -> None:
        raise Unavailable("nobody is told anything")

    truth = {"k": 1}
    here, there = Replica(client, truth), Replica(client, truth)
    async with here.listening(), there.listening():
        assert await there.read() == 1
        with monkeypatch.context() as away:
            away.setattr(client, "tell", tell)
            await here.change()
            assert await there.read() == 1  # it cannot know

        async with asyncio.timeout(WITHIN_S):
            while await there.read() != 2:  # noqa: ASYNC110 - a message between processes sets no event
                await asyncio.sleep(0.05)
    assert there.clock.monotonic() < SUBSCRIBED_LIFE_S
