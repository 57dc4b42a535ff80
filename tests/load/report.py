"""The tables of a run."""

from collections.abc import Iterator, Mapping
from typing import Final

from tests.load.bench import HIT, MESSAGES, REQUESTS, SHORT, WHOLE, Figures

_UNITS: Final = ("JSON request", "streamed request", "token", SHORT.name, MESSAGES.name, HIT.name)
"""A streamed request is one without its tokens."""


def tables(figures: Mapping[str, Figures]) -> Iterator[str]:
    """CPU by unit of work with its ratios, then by process; the first subject is what the others are held against."""
    for connections in REQUESTS:
        yield from _ratios(figures, connections)
    for connections in REQUESTS:
        for work in REQUESTS[connections]:
            yield f"\n{work.name}, {connections} open, ms of CPU per request by process"
            for name, of_subject in figures.items():
                if of_subject.knows(connections, work):
                    by_role = of_subject.request_ms_by_role(connections, work)
                    yield f"  {name:<10}" + "".join(f"{role:>11} {cost:6.3f}" for role, cost in by_role.items())
    yield "\nwhen nobody asks, ms of CPU per second"
    yield from (f"  {name:<10}{of_subject.idle_ms_per_s():10.2f}" for name, of_subject in figures.items())


def _ratios(figures: Mapping[str, Figures], connections: int) -> Iterator[str]:
    costs = {name: _costs(of_subject, connections) for name, of_subject in figures.items()}
    bases = list(costs)[:2]  # the pass-through, and where there are three, what was before
    heads = "".join(f"{f'to {base}':>12}" for base in bases)
    yield f"\n{connections} open, CPU" + " " * 25 + f"{'ms':>8}{heads}"
    for unit in _UNITS:
        for name, cost in costs.items():
            if unit in cost:
                ratios = "".join(_ratio(cost[unit], costs[base].get(unit)) for base in bases)
                yield f"  {unit:<30}{name:<10}{cost[unit]:8.3f}{ratios}"


def _ratio(cost: float, base: float | None) -> str:
    return f"{'-':>12}" if base is None else f"{cost / base:>12.2f}"


def _costs(figures: Figures, connections: int) -> Mapping[str, float]:
    whole, opening, token = _UNITS[:3]
    works = {work.name: work for work in (SHORT, MESSAGES, HIT) if figures.knows(connections, work)}
    return {
        whole: figures.request_ms(connections, WHOLE),
        opening: figures.opening_ms(connections),
        token: figures.token_ms(connections),
        **{name: figures.request_ms(connections, work) for name, work in works.items()},
    }
