"""One run: load, faults, healing, peace, and the judgement of each seed."""

import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dev.home import ROOT
from tests.chaos import load
from tests.chaos.check import RECOVERY_S_MAX, Case, Verdict, judge
from tests.chaos.client import Client, Seen
from tests.chaos.fleet import Fleet, running_fleet
from tests.chaos.history import History, read
from tests.chaos.nemesis import Nemesis
from tests.chaos.provider import MODEL, PROBE, PROVIDERS, ChaosProvider, running_provider
from tests.chaos.revocation import Revoker
from tests.chaos.schedule import Strike, schedule
from tests.chaos.stored import Stored, read_stored
from tests.support.waiting import until

LEASE_S: Final = 6.0
TURN_S_MAX: Final = 90.0
SETTINGS: Final[Mapping[str, str]] = {
    "PARLEY_AUTH_REGISTRATION": "open",
    # The shipped times divided by five, so that a minute holds as many takeovers as five would.
    "PARLEY_CONVERSATION_LEASE_S": str(LEASE_S),
    "PARLEY_CONVERSATION_HEARTBEAT_S": "2",
    "PARLEY_CONVERSATION_REAP_EVERY_S": "0.5",
    "PARLEY_CONVERSATION_REPUBLISH_AFTER_S": "2",
    "PARLEY_CONVERSATION_REDELIVER_AFTER_S": "3",
    "PARLEY_CONVERSATION_HAND_BACK_AFTER_S": "1",
    "PARLEY_CONVERSATION_QUEUE_MEASURE_EVERY_S": "1",
    # The shortest that a broker accepts; shipped is 10.
    "PARLEY_KAFKA_SESSION_S": "6",
    "PARLEY_CONVERSATION_TURN_S_MAX": str(TURN_S_MAX),
    "PARLEY_CONVERSATION_SILENCE_S_MAX": "15",
    "PARLEY_INFERENCE_STALL_S": "3",
    "PARLEY_INFERENCE_FIRST_EVENT_S": "5",
    "PARLEY_DRAIN_S": "3",
}
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


@contextmanager
def _place() -> Iterator[Path]:
    """A folder for a stack's data."""
    with tempfile.TemporaryDirectory(prefix="parley-chaos-", ignore_cleanup_errors=True) as name:
        # So that root's PostgreSQL runs as an unprivileged account, as it does in a checkout.
        Path(name).chmod(0o711)
        yield Path(name)


@asynccontextmanager
async def arena(options: Options, say: Say) -> AsyncIterator[Arena]:
    """A started stack with its provider and registered clients."""
    async with AsyncExitStack() as stack:
        place = stack.enter_context(_place())
        options.folder.mkdir(parents=True, exist_ok=True)
        history = Switch(History(options.folder / "start.jsonl"))
        provider = await stack.enter_async_context(running_provider(history))
        begun = time.monotonic()
        url = f"http://127.0.0.1:{provider.port}/v1"
        (place / "providers.toml").write_text(PROVIDERS.format(url=url), encoding="utf-8")
        settings = {
            **SETTINGS,
            "OPENAI_BASE_URL": url,
            "PARLEY_INFERENCE_PROVIDERS_FILE": str(place / "providers.toml"),
            "PARLEY_INFERENCE_DEFAULT_MODEL": MODEL,
            "CHAOS_QUEUE": options.queue,
        }
        fleet = await stack.enter_async_context(running_fleet(place / "dev", settings, tree=options.tree))
        stack.callback(shutil.copytree, fleet.folder / "logs", options.folder / "logs", dirs_exist_ok=True)
        chance = random.Random(0)
        clients = [await load.registered(fleet.url, each, history, chance) for each in load.ORGANIZATIONS]
        for client in clients:
            stack.push_async_callback(client.http.aclose)
        say(f"{len(fleet.names)} processes are up after {time.monotonic() - begun:.0f} s; history in {options.folder}")
        yield Arena(fleet, provider, history, clients)


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
