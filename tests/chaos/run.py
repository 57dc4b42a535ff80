"""One run: load, faults, healing, peace, and the judgement of each seed."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dev.home import ROOT
from tests.chaos import load
from tests.chaos.check import RECOVERY_S_MAX, Case, Verdict, judge
from tests.chaos.client import Client, Seen
from tests.chaos.fleet import Fleet
from tests.chaos.ground import LEASE_S, TURN_S_MAX, prepared
from tests.chaos.history import History, read
from tests.chaos.nemesis import Nemesis
from tests.chaos.provider import MODEL, PROBE, ChaosProvider
from tests.chaos.revocation import Revoker
from tests.chaos.schedule import Strike, schedule
from tests.chaos.stored import Stored, read_stored
from tests.support.waiting import until

PEACE_S: Final = 12.0
SETTLE_S: Final = 2.0
"""After healing: connections that were just cut are noticed by their owners before peace is said to begin."""
DRAIN_S_MAX: Final = 160.0
HASTY_DRAIN_S_MAX: Final = 10.0
_PROGRESS_S: Final = 5.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run.

    Attributes:
        faults_s: of each seed.
        rate: questions per second.
        tree: the checkout to run.
        queue: `valkey` or `kafka`.
        is_calm: without faults.
        is_hasty: half the peace, and none where the stack is not healthy in time: the verdict is known by then.
        folder: where history and end state go; each seed has a folder of its own there.
    """

    faults_s: float
    rate: float
    folder: Path
    tree: Path = ROOT
    queue: str = "valkey"
    is_calm: bool = False
    is_hasty: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """One seed's.

    Attributes:
        dropped: questions that were not asked because too many had no answer yet.
    """

    seed: int
    dropped: int
    kills: int
    strikes: int
    verdict: Verdict


class Arena:
    """The running stack with its clients; seeds are run in it one after another."""

    def __init__(self, fleet: Fleet, provider: ChaosProvider, history: "Switch", clients: Sequence[Client]) -> None:
        self.fleet = fleet
        self.provider = provider
        self.history = history
        self.clients = clients

    async def run(self, seed: int, options: Options, say: Say) -> Result:
        """Runs one seed and judges it."""
        folder = options.folder / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        history = History(folder / "history.jsonl")
        self.history.to(history)
        begun = time.time()
        strikes = (
            () if options.is_calm else schedule(seed, seconds=options.faults_s, lease_s=LEASE_S, queue=options.queue)
        )
        nemesis = Nemesis(self.fleet, self.provider, history, say)
        try:
            dropped = await self._phases(seed, options, strikes, nemesis, say)
        finally:
            nemesis.heal()
            history.close()
        stored = await read_stored(self.fleet.database_url(), since=begun, queued=await self.fleet.queued())
        stored.save(folder / "stored.json")
        verdict = judged(folder)
        for violation in verdict.violations[:20]:
            say(f"  VIOLATION {violation}")
        return Result(seed, dropped, nemesis.kills, nemesis.struck, verdict)

    async def _phases(self, seed: int, options: Options, strikes: Sequence[Strike], nemesis: Nemesis, say: Say) -> int:
        """Returns how many questions were not asked."""
        history = self.history.present
        asking = load.Load(self.clients, history, seed=seed, rate=options.rate)
        revoker = Revoker(self.clients[0], history)
        async with asyncio.TaskGroup() as group:
            progress = group.create_task(_progress(asking, say))
            group.create_task(revoker.run())
            loading = group.create_task(asking.run())
            say(f"seed {seed}: {len(strikes)} strikes in {options.faults_s:.0f} s, {options.rate:.0f} questions/s")
            begun = time.monotonic()
            await nemesis.carry_out(strikes)
            await asyncio.sleep(max(0.0, begun + options.faults_s - time.monotonic()))
            nemesis.heal()
            history.add("mark", name="healed")
            is_healthy = await self._recover(asking, say, bound_s=RECOVERY_S_MAX * (1 if options.is_hasty else 2))
            if is_healthy or not options.is_hasty:
                await asyncio.sleep(PEACE_S / 2 if options.is_hasty else PEACE_S)
            asking.is_open = False
            revoker.is_open = False
            try:
                async with asyncio.timeout(HASTY_DRAIN_S_MAX if options.is_hasty else DRAIN_S_MAX):
                    await loading
                history.add("mark", name="over")
            except TimeoutError:
                say("  some turns have no end")
            progress.cancel()
        return asking.dropped

    async def _recover(self, asking: load.Load, say: Say, *, bound_s: float) -> bool:
        """Waits until the stack is whole, what was accepted during the faults has ended, and new turns end too."""
        history = self.history.present
        healed = time.monotonic()
        started = frozenset(asking.open)
        try:
            async with asyncio.timeout(bound_s):
                await until(lambda: self.fleet.is_up() and not started & asking.open, within_s=bound_s)
                async with asyncio.TaskGroup() as group:
                    for client in self.clients:
                        group.create_task(_probe(client, asking.seed))
        except (TimeoutError, AssertionError):
            say(f"  not healthy: {len(started & asking.open)} old turns are open, {self.fleet.states()}")
            return False
        history.add("mark", name="recovered")
        say(f"  healthy again {time.monotonic() - healed:.1f} s after the last fault")
        await asyncio.sleep(SETTLE_S)
        history.add("mark", name="peace")
        return True


def judged(folder: Path) -> Verdict:
    """Judges what one seed left in its folder."""
    stored = Stored.load(folder / "stored.json")
    return judge(Case(read(folder / "history.jsonl"), stored, turn_s_max=TURN_S_MAX))


class Switch:
    """The history that is being written; clients and provider live longer than one."""

    def __init__(self, history: History) -> None:
        self.present = history

    def to(self, history: History) -> None:
        """Writes into another one from now on."""
        self.present = history

    def now(self) -> float:
        """See `History.now`."""
        return self.present.now()

    def add(self, op: str, **facts: object) -> None:
        """See `History.add`."""
        self.present.add(op, **facts)


@asynccontextmanager
async def arena(options: Options, say: Say) -> AsyncIterator[Arena]:
    """A started stack with its provider and registered clients."""
    options.folder.mkdir(parents=True, exist_ok=True)
    history = Switch(History(options.folder / "start.jsonl"))
    begun = time.monotonic()
    async with prepared(history, {"CHAOS_QUEUE": options.queue}, tree=options.tree) as ground:
        fleet = ground.fleet
        say(f"{len(fleet.names)} processes are up after {time.monotonic() - begun:.0f} s; history in {options.folder}")
        try:
            yield Arena(fleet, ground.provider, history, ground.clients)
        finally:
            shutil.copytree(fleet.folder / "logs", options.folder / "logs", dirs_exist_ok=True)


async def _probe(client: Client, seed: int) -> None:
    conversation_id = await client.conversation(MODEL)
    await client.ask(conversation_id, f"{client.organization}.{seed}.{PROBE}", Seen())


async def _progress(asking: load.Load, say: Say) -> None:
    begun = time.monotonic()
    while True:
        await asyncio.sleep(_PROGRESS_S)
        dropped = f", {asking.dropped} not asked" if asking.dropped else ""
        elapsed_s = time.monotonic() - begun
        say(f"[{elapsed_s:4.0f} s] {asking.asked} asked, {asking.finished} ended, {asking.running} running{dropped}")
