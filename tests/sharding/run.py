"""One run: two PostgreSQL servers, a steady load, and moves; judged as the fault suite judges."""

import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dev.home import ROOT
from dev.postgres import Cluster
from tests.chaos import load
from tests.chaos.check import Case, Verdict, judge
from tests.chaos.client import Client
from tests.chaos.fleet import Fleet, running_fleet
from tests.chaos.history import History, Record, read
from tests.chaos.provider import MODEL, PROVIDERS, running_provider
from tests.chaos.run import SETTINGS, TURN_S_MAX
from tests.chaos.stored import Stored, read_stored

SERVICES: Final = ("conversation", "retrieval", "inference")
SERVERS: Final = {"main": "postgres", "b": "postgres-b"}
ALL: Final = "0-63"
SETTLE_S: Final = 3.0
"""Of load before the first move and after the last one."""
DRAIN_S_MAX: Final = 160.0
MOVE_S_MAX: Final = 200.0
_BAD_REQUEST: Final = 400
_FOLDER: Final = ROOT / ".state" / "sharding"
"""Keeps histories and end states."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run showed.

    Attributes:
        moves: commands that moved shards while questions were asked.
        failures: what clients were told that was no success.
        stored: turns by the server that has them in the end.
        wait_s_max: longest time from a question to its acknowledgement.
    """

    asked: int
    dropped: int
    moves: int
    failures: Sequence[str]
    stored: dict[str, int]
    wait_s_max: float
    verdict: Verdict


async def run(*, rate: float, rounds: int, say: Say) -> Result:
    """Moves all shards of every service to the second server and back, `rounds` times."""
    async with AsyncExitStack() as stack:
        place = stack.enter_context(_place())
        kept = _FOLDER / f"{time.strftime('%H%M%S')}-{os.getpid()}"
        kept.mkdir(parents=True, exist_ok=True)
        history = History(kept / "history.jsonl")
        fleet, clients = await stack.enter_async_context(_started(place, history))
        begun = time.time()
        for name in (
            "healed",
            "recovered",
            "peace",
        ):  # what the checker forgives while faults last is not forgiven here
            history.add("mark", name=name)
        asking = load.Load(clients, history, seed=1, rate=rate)
        async with asyncio.TaskGroup() as group:
            loading = group.create_task(asking.run())
            await asyncio.sleep(SETTLE_S)
            moves = await _move_about(fleet, rounds, say)
            await asyncio.sleep(SETTLE_S)
            asking.is_open = False
            async with asyncio.timeout(DRAIN_S_MAX):
                await loading
        history.add("mark", name="over")
        history.close()
        parts = {name: await _stored(fleet, name, kept / f"{name}.json", since=begun) for name in SERVERS}
        records = list(read(kept / "history.jsonl"))
        queued = await fleet.queued()
    verdict = judge(Case(records, _together(list(parts.values()), queued), turn_s_max=TURN_S_MAX))
    return Result(
        asked=asking.asked,
        dropped=asking.dropped,
        moves=moves,
        failures=[str(record) for record in records if _is_failure(record)],
        stored={name: len(part.turns) for name, part in parts.items()},
        wait_s_max=_wait_s_max(records),
        verdict=verdict,
    )


@contextmanager
def _place() -> Iterator[Path]:
    """A folder for a stack's data."""
    with tempfile.TemporaryDirectory(prefix="parley-sharding-", ignore_cleanup_errors=True) as name:
        # So that root's PostgreSQL runs as an unprivileged account, as it does in a checkout.
        Path(name).chmod(0o711)
        yield Path(name)


async def _move_about(fleet: Fleet, rounds: int, say: Say) -> int:
    """Moves everything to the second server and back; gives how many commands that took."""
    moves = 0
    for _ in range(rounds):
        for to in ("b", "main"):
            begun = time.monotonic()
            await asyncio.gather(*(_moved(fleet, service, to, say) for service in SERVICES))
            moves += len(SERVICES)
            say(f"  everything is on {to} after {time.monotonic() - begun:.1f} s")
    return moves


async def _moved(fleet: Fleet, service: str, to: str, say: Say) -> None:
    """Runs the command that an operator types."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    environment |= {
        "PARLEY_DATABASE_URL": _url(fleet, "main"),
        "PARLEY_DATABASE_SHARDS": json.dumps({name: _url(fleet, name) for name in SERVERS if name != "main"}),
    }
    command = [sys.executable, "-m", f"services.{service}", "shards", "move", ALL, "--to", to]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    async with asyncio.timeout(MOVE_S_MAX):
        async for line in process.stdout:
            say(f"  {service}: {line.decode().rstrip()}")
        if await process.wait():
            raise AssertionError(f"{service} was not moved to {to}")


@asynccontextmanager
async def _started(place: Path, history: History) -> AsyncIterator[tuple[Fleet, list[Client]]]:
    """A stack on two servers, with a client in each organization."""
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(running_provider(history))
        url = f"http://127.0.0.1:{provider.port}/v1"
        (place / "providers.toml").write_text(PROVIDERS.format(url=url), encoding="utf-8")
        settings = {
            **SETTINGS,
            "OPENAI_BASE_URL": url,
            "PARLEY_INFERENCE_PROVIDERS_FILE": str(place / "providers.toml"),
            "PARLEY_INFERENCE_DEFAULT_MODEL": MODEL,
            "PARLEY_DEV_SHARDS": str(len(SERVERS)),
        }
        fleet = await stack.enter_async_context(running_fleet(place / "dev", settings, tree=ROOT))
        chance = random.Random(0)
        clients = [await load.registered(fleet.url, each, history, chance) for each in load.ORGANIZATIONS]
        for client in clients:
            stack.push_async_callback(client.http.aclose)
        yield fleet, clients


async def _stored(fleet: Fleet, instance: str, path: Path, *, since: float) -> Stored:
    """What a server has in the end, by way of a file, as the checker wants it."""
    (await read_stored(_url(fleet, instance), since=since, queued=0)).save(path)
    return Stored.load(path)


def _url(fleet: Fleet, instance: str) -> str:
    server = SERVERS[instance]
    return Cluster(fleet.folder / server).url(fleet.ports(server)["postgres"])


def _together(parts: Sequence[Stored], queued: int) -> Stored:
    return Stored(
        turns=[row for part in parts for row in part.turns],
        messages=[row for part in parts for row in part.messages],
        outbox=[row for part in parts for row in part.outbox],
        queued=queued,
    )


def _is_failure(record: Record) -> bool:
    """Whether a client was told of a failure, or of nothing at all."""
    match record["op"]:
        case "posted":
            return int(record["status"]) >= _BAD_REQUEST
        case "watched":
            return record["how"] not in {"ended", "left"}
        case "event":
            return bool(record["event"] == "error")
        case op:
            return op in {"broken", "gave_up"}


def _wait_s_max(records: Sequence[Record]) -> float:
    """The longest that anybody waited for the acknowledgement of a question."""
    sent: dict[str, float] = {}
    longest = 0.0
    for record in records:
        if record["op"] == "post":
            sent[record["key"]] = record["t"]
        elif record["op"] == "posted":
            longest = max(longest, record["t"] - sent.get(record["key"], record["t"]))
    return longest
