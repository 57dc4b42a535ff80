"""How providers stand, for operators: gathered when somebody asks."""

from dataclasses import dataclass, field

from services.inference.routing import Key, Router
from services.inference.standing.outages import State
from services.inference.standing.standings import Circuit, Standings


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReport:
    """A key of a pool; what the vendor did not say is None."""

    id: str
    weight: float
    requests_left: int | None
    tokens_left: int | None
    cooling_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetReport:
    """A model with one key. Averages are None before their first value."""

    model: str
    key_id: str
    state: State
    open_s: float
    cooling_s: float
    latency_s: float | None
    first_text_s: float | None
    calls: int
    in_flight: int
    failures: dict[str, int]
    last_failure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderReport:
    """A configured provider."""

    name: str
    keys: tuple[KeyReport, ...]
    targets: tuple[TargetReport, ...] = field(default=())


class Reports:
    """Tells how providers stand.

    Args:
        router: knows who is configured.
        standings: knows how they stand.
    """

    def __init__(self, router: Router, standings: Standings) -> None:
        self._router = router
        self._standings = standings

    def providers(self) -> list[ProviderReport]:
        """Every configured provider by name, with the targets of it that were asked."""
        circuits = list(self._standings.circuits())
        reports = []
        for name, source in sorted(self._router.book.sources.items()):
            ids = {key.id for key in source.keys}
            reports.append(
                ProviderReport(
                    name=name,
                    keys=tuple(self._key(key) for key in source.keys),
                    targets=tuple(self._target(circuit) for circuit in circuits if circuit.key_id in ids),
                )
            )
        return reports

    def _key(self, key: Key) -> KeyReport:
        return KeyReport(
            id=key.id,
            weight=key.weight,
            requests_left=self._standings.left(key.id, "requests"),
            tokens_left=self._standings.left(key.id, "tokens"),
            cooling_s=self._standings.refused_s(key.id),
        )

    def _target(self, circuit: Circuit) -> TargetReport:
        state, open_s = self._standings.state(circuit)
        seen = circuit.averages
        return TargetReport(
            model=circuit.model,
            key_id=circuit.key_id,
            state=state,
            open_s=open_s,
            cooling_s=self._standings.limited_s(circuit),
            latency_s=seen.latency_s,
            first_text_s=seen.first_text_s,
            calls=seen.calls,
            in_flight=seen.in_flight,
            failures=dict(seen.failures),
            last_failure=seen.last_failure,
        )
