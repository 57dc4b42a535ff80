"""One run: two PostgreSQL servers, a steady load, and moves; judged as the fault suite judges."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dev.home import ROOT
from dev.postgres import Cluster
from tests.chaos import load
from tests.chaos.check import Case, Verdict, judge
from tests.chaos.fleet import Fleet
from tests.chaos.ground import TURN_S_MAX, prepared
from tests.chaos.history import History, Record, read
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
    kept = _FOLDER / f"{time.strftime('%H%M%S')}-{os.getpid()}"
    kept.mkdir(parents=True, exist_ok=True)
    history = History(kept / "history.jsonl")
    async with prepared(history, {"PARLEY_DEV_SHARDS": str(len(SERVERS))}) as ground:
        fleet = ground.fleet
        begun = time.time()
        for name in (
            "healed",
            "recovered",
            "peace",
        ):  # what the checker forgives while faults last is not forgiven here
            history.add("mark", name=name)
        asking = load.Load(ground.clients, history, seed=1, rate=rate)
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
