"""`python -m tests.capacity`: measures what docs/capacity.md computes from, and prints it as tables."""

import argparse
import sys
from collections.abc import Iterator
from typing import Final

from tests.capacity.searching import searched
from tests.capacity.storing import stored
from tests.capacity.turning import Held, Turned, turned

PARTS: Final = ("search", "store", "turn")
_MIB: Final = 1024 * 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.capacity", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--messages", type=int, default=1_000_000, help="in the database whose tables are weighed")
    options = parser.parse_args()
    tables = {"search": _search, "store": lambda: _store(options.messages), "turn": _turn}
    for part in options.parts:
        for line in tables[part]():
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


def _search() -> Iterator[str]:
    yield from _head("chunks", "index, MiB", "ranking, ms", "encoding, ms")
    for each in searched():
        figures = (f"{each.index_bytes / _MIB:.0f}", f"{each.rank_ms:.1f}", f"{each.encode_ms:.1f}")
        yield _row(f"{each.chunks:,}", *figures)


def _store(messages: int) -> Iterator[str]:
    yield from _head(f"table, {messages:,} messages", "rows", "table, MiB", "indexes, MiB", "bytes per row")
    total = 0
    for each in stored(messages):
        size = each.table_bytes + each.index_bytes
        total += size
        figures = (f"{each.table_bytes / _MIB:.0f}", f"{each.index_bytes / _MIB:.0f}", f"{size / each.rows:.0f}")
        yield _row(each.name, f"{each.rows:,}", *figures)
    yield _row("all of them", "", f"{total / _MIB:.0f}", "", "")


def _turn() -> Iterator[str]:
    for each in turned():
        match each:
            case Turned():
                yield from _head(f"{each.work}, {each.turns / each.seconds:.0f} per second", "CPU ms per turn")
                yield from (_row(name, f"{cost:.1f}") for name, cost in each.cpu_ms.items())
                yield _row("all of them", f"{sum(each.cpu_ms.values()):.1f}")
            case Held():
                yield from _head("memory", "before, MiB", "after, MiB")
                for name, before in each.before.items():
                    yield _row(name, f"{before / _MIB:.0f}", f"{each.after[name] / _MIB:.0f}")


def _head(*names: str) -> Iterator[str]:
    yield ""
    yield _row(*names)
    yield _row(*("---" for _ in names))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
