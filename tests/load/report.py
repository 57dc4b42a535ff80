"""The tables of a run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tests.load.bench import LONG, REQUESTS, SHORT, WHOLE, Figures

_UNITS: Final = ("JSON request", "streamed request", "token")


def tables(figures: Mapping[str, Figures]) -> Iterator[str]:
    """CPU by unit of work with its ratios, then by process; the first subject is what the others are held against."""
    for connections in REQUESTS:
        yield from _ratios(figures, connections)
    for connections in REQUESTS:
        for work in (WHOLE, SHORT, LONG):
            yield f"\n{work.name}, {connections} open, ms of CPU per request by process"
            for name, of_subject in figures.items():
                by_role = of_subject.request_ms_by_role(connections, work)
                yield f"  {name:<10}" + "".join(f"{role:>11} {cost:6.3f}" for role, cost in by_role.items())
    yield "\nwhen nobody asks, ms of CPU per second"
    yield from (f"  {name:<10}{of_subject.idle_ms_per_s():10.2f}" for name, of_subject in figures.items())


def _ratios(figures: Mapping[str, Figures], connections: int) -> Iterator[str]:
    costs = {name: _costs(of_subject, connections) for name, of_subject in figures.items()}
    bases = list(costs)[:2]  # the pass-through, and where there are three, what was before
    heads = "".join(f"{f'to {base}':>12}" for base in bases)
    yield f"\n{connections} open, CPU" + " " * 13 + f"{'ms':>8}{heads}"
    for unit, _ in enumerate(_UNITS):
        for name, cost in costs.items():
            ratios = "".join(f"{cost[unit] / costs[base][unit]:>12.2f}" for base in bases)
            yield f"  {_UNITS[unit]:<18}{name:<10}{cost[unit]:8.3f}{ratios}"


def _costs(figures: Figures, connections: int) -> Sequence[float]:
    return (
        figures.request_ms(connections, WHOLE),
        figures.opening_ms(connections),
        figures.token_ms(connections),
    )
