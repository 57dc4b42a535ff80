"""What is wrong with a plan, whatever the tables hold: work that grows with them instead of with the answer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tests.scale.plans import Explained, Plan

SORTED_ROWS_MAX: Final = 1_100
"""The largest page there is, and a little."""
READ_PER_ROW_MAX: Final = 4
"""Rows looked at for each row that is given or changed: a join reads two or three."""
READ_SLACK: Final = 150
BLOCKS_PER_ROW_MAX: Final = 32
"""Pages of 8 kB: a descent in an index of millions of rows is four; a changed row is entered into each index."""
BLOCKS_SLACK: Final = 120


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a statement may read although it gives less, and why that cannot grow for ever.

    Attributes:
        reason: what bounds it.
        rows: how many it may look at.
    """

    reason: str
    rows: int


def complaints(explained: Explained, *, large: frozenset[str], allowances: Mapping[str, Allowance]) -> list[str]:
    """What is wrong; empty when nothing is. An allowance is found by a piece of the statement."""
    allowance = next((each for piece, each in allowances.items() if piece in explained.statement), Allowance("", 0))
    given = _rows_given(explained)
    return [
        f"{complaint}\n    {' '.join(explained.statement.split())[:400]}"
        for complaint in (
            *_whole_tables(explained, large, allowance.rows),
            *_sorts(explained, max(SORTED_ROWS_MAX, allowance.rows)),
            *_reads(explained, max(READ_PER_ROW_MAX * given + READ_SLACK, allowance.rows)),
            *_blocks(explained.plan, BLOCKS_PER_ROW_MAX * max(given, allowance.rows) + BLOCKS_SLACK),
        )
    ]


def _rows_given(explained: Explained) -> float:
    """Rows that leave the plan; of a change, those that it changes, also where it gives none back."""
    return max(_rows(node) for node in _outer(explained.plan))


def _outer(plan: Plan) -> Iterator[Plan]:
    """The outermost node, and below a change what it changes."""
    yield plan
    if plan["Node Type"] in {"ModifyTable", "LockRows"}:
        yield from (inner for below in plan.get("Plans", []) for inner in _outer(below))


def _whole_tables(explained: Explained, large: frozenset[str], rows_max: int) -> Iterator[str]:
    for node in explained.nodes():
        name = f"{node.get('Schema', '')}.{node.get('Relation Name', '')}".lstrip(".")
        is_large = any(name in {table, table.partition(".")[2]} for table in large)
        if node["Node Type"] == "Seq Scan" and is_large and _rows(node) > rows_max:
            yield f"reads all of {name}"


def _sorts(explained: Explained, rows_max: int) -> Iterator[str]:
    for node in explained.nodes():
        if node["Node Type"] == "Sort":
            rows = sum(_rows(inner) for inner in node["Plans"])
            if rows > rows_max:
                yield f"sorts {rows:.0f} rows by {node['Sort Key']}"


def _reads(explained: Explained, rows_max: float) -> Iterator[str]:
    for node in explained.nodes():
        if "Scan" in node["Node Type"] and "Relation Name" in node:
            removed = sum(node.get(f"Rows Removed by {what}", 0) for what in ("Filter", "Index Recheck"))
            read = (node["Actual Rows"] + removed) * node["Actual Loops"]
            if read > rows_max:
                how = f"{node['Node Type']}, {rows_max:.0f} at most"
                yield f"looks at {read:.0f} rows of {node['Relation Name']} ({how})"


def _blocks(plan: Plan, blocks_max: float) -> Iterator[str]:
    blocks = plan.get("Shared Hit Blocks", 0) + plan.get("Shared Read Blocks", 0)
    if blocks > blocks_max:
        yield f"touches {blocks} pages, {blocks_max:.0f} at most"


def _rows(node: Plan) -> float:
    return float(node["Actual Rows"] * node["Actual Loops"])
