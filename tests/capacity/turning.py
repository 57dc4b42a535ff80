"""What a turn costs each process in processor time, with and without search, and what each process holds in memory."""

import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from dev.tools.tidiness import ROOT
from tests.load.meter import Reading, memory_bytes
from tests.support.rest import Rest
from tests.support.stack import Stack, running_stack

_SCRIPT: Final = {
    "short": {"deltas": ["A short ", "answer."], "input_tokens": 200, "output_tokens": 4},
    "long": {"tokens": 202, "delay_ms": 25},
}
_TOKENS_MORE: Final = 200
"""Of the long answer."""
_CALLERS: Final = 8
_LONG_CALLERS: Final = 48
"""So many long answers are open at a time."""
_TURNS: Final = 4
"""Of each conversation."""
_IDLE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked.

    Attributes:
        name: in words.
        settings: of each conversation.
        callers: that ask at the same time.
        conversations: of each caller.
    """

    name: str
    settings: Mapping[str, str]
    callers: int = _CALLERS
    conversations: int = 10


@dataclass(frozen=True, slots=True)
class Turned:
    """One kind of work.

    Attributes:
        work: in words.
        turns: that were made.
        seconds: that it took.
        cpu_ms: of each process, per turn; less what it does when nobody asks.
    """

    work: str
    turns: int
    seconds: float
    cpu_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Held:
    """Proportional memory of each process in bytes, before the first turn and after the last one."""

    before: Mapping[str, int]
    after: Mapping[str, int]


def turned() -> Iterator[Turned | Held]:
    """Measure turns on a whole stack of this machine."""
    with running_stack({"PARLEY_INFERENCE_SCRIPTED": json.dumps(_SCRIPT)}) as stack:
        pids = {name: stack.pid(name) for name in stack.names}
        before = _held(pids)
        idle = _idle(pids)
        with Rest(stack.url, stack.api_key) as rest:
            base = rest.post("/api/v1/knowledge_bases", {"display_name": "Pages"})["id"]
            page = ROOT / "docs" / "architecture.md"
            rest.ready(rest.upload(base, page.name, page.read_bytes())["id"])
        never = {"model": "scripted/short", "retrieval_mode": "never"}
        searching = {"model": "scripted/short", "retrieval_mode": "always", "knowledge_base_id": base}
        yield _measured(stack, pids, idle, Work("turn without search", never))
        yield _measured(stack, pids, idle, Work("turn with search", searching))
        long = Work(f"turn without search, {_TOKENS_MORE} tokens more", never | {"model": "scripted/long"})
        yield _measured(stack, pids, idle, replace(long, callers=_LONG_CALLERS, conversations=1))
        yield Held(before, _held(pids))


def _held(pids: Mapping[str, int]) -> dict[str, int]:
    return {name: memory_bytes(pid) for name, pid in pids.items()}


def _idle(pids: Mapping[str, int]) -> dict[str, float]:
    """Seconds of processor time per second."""
    earlier = Reading.of(pids)
    time.sleep(_IDLE_S)
    later = Reading.of(pids)
    return {name: spent / later.seconds_since(earlier) for name, spent in later.since(earlier).items()}


def _measured(stack: Stack, pids: Mapping[str, int], idle: Mapping[str, float], work: Work) -> Turned:
    _all_ask(stack, replace(work, conversations=1))
    earlier = Reading.of(pids)
    _all_ask(stack, work)
    later = Reading.of(pids)
    turns, seconds = work.callers * work.conversations * _TURNS, later.seconds_since(earlier)
    spent = {name: cpu - idle[name] * seconds for name, cpu in later.since(earlier).items()}
    return Turned(work.name, turns, seconds, {name: 1000 * cpu / turns for name, cpu in spent.items()})


def _all_ask(stack: Stack, work: Work) -> None:
    with ThreadPoolExecutor(work.callers) as pool:
        for asked in [pool.submit(_ask, stack, work) for _ in range(work.callers)]:
            asked.result()


def _ask(stack: Stack, work: Work) -> None:
    """Whole conversations, one after another."""
    with Rest(stack.url, stack.api_key) as rest:
        for _ in range(work.conversations):
            made = rest.post("/api/v1/conversations", work.settings)
            for number in range(_TURNS):
                rest.ask(made["id"], f"What does the gateway do with request {number}?")
