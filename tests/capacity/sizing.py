"""From what things cost to how many processes a load needs: the tables of docs/capacity.md.

`python -m tests.capacity.sizing` computes them anew after the measured table of that page was changed.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Final

from dev.tools.tidiness import ROOT

PAGE: Final = ROOT / "docs" / "capacity.md"
_STORES: Final = frozenset({"PostgreSQL", "Valkey"})
"""Grow by larger machines, and PostgreSQL by shards; all others grow by replicas of one core each."""
_USE: Final = 0.6
"""Share of a core that is planned for: what is above it is for bursts and for a replica that restarts."""
_MIB: Final = 1024.0
_MEASURED: Final = "measured"
_COMPUTED: Final = "computed"


@dataclass(frozen=True, slots=True)
class Load:
    """What people do.

    Attributes:
        users: at work at the same time.
        turns_per_minute: of each.
        answer_s: for which an answer is written.
        tokens_per_s: of each answer.
        searching: share of turns with a search.
    """

    users: int
    turns_per_minute: float = 1.0
    answer_s: float = 20.0
    tokens_per_s: float = 40.0
    searching: float = 0.5

    @property
    def turns_per_s(self) -> float:
        """Of all users."""
        return self.users * self.turns_per_minute / 60

    @property
    def streams(self) -> float:
        """Answers that are being written at any time (Little's law)."""
        return self.turns_per_s * self.answer_s

    @property
    def tokens_per_s_of_all(self) -> float:
        """Of all answers."""
        return self.streams * self.tokens_per_s


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process or store spends and holds.

    Attributes:
        turn_ms: CPU of a turn with a few tokens.
        token_us: CPU of each further token.
        search_ms: CPU of a search.
        idle_mib: memory without any stream.
        stream_kib: memory of each open stream.
    """

    turn_ms: float
    token_us: float
    search_ms: float
    idle_mib: float
    stream_kib: float


@dataclass(frozen=True, slots=True)
class Size:
    """What a load needs of one process or store.

    Attributes:
        cores: that it keeps busy.
        replicas: of one core each; one for a store.
        memory_mib: of each replica.
    """

    cores: float
    replicas: int
    memory_mib: float


LOADS: Final = (Load(100), Load(1_000), Load(10_000))


def size(cost: Cost, load: Load, *, is_store: bool) -> Size:
    """What a load needs: replicas at the planned use, and one more that may be away."""
    turns_ms = load.turns_per_s * (cost.turn_ms + load.searching * cost.search_ms)
    cores = turns_ms / 1e3 + load.tokens_per_s_of_all * cost.token_us / 1e6
    replicas = 1 if is_store else max(1, ceil(cores / _USE)) + 1
    sharing = 1 if is_store else replicas - 1
    return Size(cores, replicas, cost.idle_mib + load.streams / sharing * cost.stream_kib / _MIB)


def measured(text: str) -> dict[str, Cost]:
    """Costs by name, from the measured table of the page."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in _between(text, _MEASURED).splitlines()]
    return {row[0]: Cost(*(float(cell) for cell in row[1:6])) for row in rows[2:]}


def computed(costs: Mapping[str, Cost]) -> Iterator[str]:
    """Lines of the computed table."""
    yield "| | " + " | ".join(f"{load.users:,} users" for load in LOADS) + " |"
    yield "|---|" + "---|" * len(LOADS)
    yield _row("turns/s", [f"{load.turns_per_s:.1f}" for load in LOADS])
    yield _row("open answers", [f"{load.streams:,.0f}" for load in LOADS])
    yield _row("tokens/s", [f"{load.tokens_per_s_of_all:,.0f}" for load in LOADS])
    totals = [0.0 for _ in LOADS]
    for name, cost in costs.items():
        sizes = [size(cost, load, is_store=name in _STORES) for load in LOADS]
        totals = [total + each.cores for total, each in zip(totals, sizes, strict=True)]
        yield _row(name, [_told(each, is_store=name in _STORES) for each in sizes])
    yield _row("cores kept busy", [f"{total:.1f}" for total in totals])


def written(text: str) -> str:
    """The page with its computed table anew."""
    old = _between(text, _COMPUTED)
    return text.replace(old, "\n".join(computed(measured(text))))


def _told(each: Size, *, is_store: bool) -> str:
    if is_store:
        return f"{each.cores:.1f} cores"
    return f"{each.replicas} × {each.memory_mib:,.0f} MiB, {each.cores:.1f} cores"


def _row(name: str, cells: list[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def _between(text: str, name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert found is not None, name
    return found.group(1)


def main(page: Path = PAGE) -> None:
    """Write the page."""
    page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
