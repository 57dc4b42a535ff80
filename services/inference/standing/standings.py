"""Who of a target's keys is asked now, and what is remembered of how it went."""

import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final

from services.inference.providers.allowances import Allowance
from services.inference.providers.failures import BLAMED, Failure, Kind
from services.inference.routing import Key, Target
from services.inference.standing.meters import Meter
from services.inference.standing.outages import Alone, Outages, State
from services.inference.standing.window import Averages, Window
from services.mesh import telemetry
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.telemetry import counter

CALLS_MIN: Final = 10
"""Fewer calls in the window say nothing."""
FAILURE_SHARE: Final = 0.5
SLOW_SHARE: Final = 0.8
SLOW_PART: Final = 0.5
"""A first text that took more than this part of its time limit makes a call slow."""
OPEN_S_MIN: Final = 2.0
OPEN_S_MAX: Final = 15.0
"""Whoever has one target only is well again this soon, and a fifth, after it is."""
COOLING_S: Final = 1.0
"""Of a key whose provider limits its rate and does not say for how long."""
REFUSED_KEY_S: Final = 20.0
"""A key that was refused, or whose account is spent, is tried again this often: an operator may have mended it."""
CIRCUITS_MAX: Final = 10_000
"""Kept in memory; models that are merely passed through make their own, so the one used longest ago is forgotten."""


_OPENINGS: Final = counter(
    "parley_inference_circuit_openings", "Times a target was left alone: it failed or was slow too often.", ["provider"]
)
_COOLINGS: Final = counter(
    "parley_inference_key_coolings", "Times a key was left alone: limited, or refused.", ["provider", "key", "kind"]
)
_log = telemetry.logger("inference.standings")


@dataclass(frozen=True, slots=True)
class Blocked:
    """No key of a target may be asked.

    Attributes:
        wait_s: until one may.
        kind: why.
    """

    wait_s: float
    kind: Kind


@dataclass(slots=True, kw_only=True)
class Circuit:
    """A target with one of its keys.

    Attributes:
        id: `<model>@<key>`.
        label: the model in metrics, whose labels are a closed set: `other` for one that no catalog knows.
        openings: in a row, without a success between.
    """

    id: str
    model: str
    label: str
    key_id: str
    window: Window
    averages: Averages
    openings: int = 0


@dataclass(slots=True)
class Admission:
    """A key that may be asked now; `standings` is to be told how it went, exactly once."""

    key: Key
    circuit: Circuit
    is_probe: bool
    is_told: bool = False


class Standings:
    """All circuits and keys of this process.

    Args:
        outages: who is not to be asked until when.
        clock: where the time comes from.
        chance: draws among keys by weight.
    """

    def __init__(
        self,
        outages: Outages | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.outages: Final = outages or Outages(Alone(), clock)
        self._clock = clock
        self._chance = chance
        self._circuits: dict[str, Circuit] = {}
        self._meters: dict[str, Meter] = {}

    async def admit(self, target: Target, tokens: int, *, without: Collection[str] = ()) -> Admission | Blocked:
        """A key of `target` for a call of about `tokens`, drawn by weight among those that may be asked.

        Args:
            target: who is to be asked.
            tokens: that the call will consume.
            without: ids of keys that have failed this call.
        """
        soonest: Blocked | None = None
        keys = [key for key in target.keys if key.id not in without]
        for key in sorted(keys, key=lambda one: -(self._chance() ** (1.0 / one.weight))):
            blocked = self._blocked(target, key, tokens)
            if blocked is None:
                admission = await self._admission(target, key, tokens)
                if admission is not None:
                    return admission
                blocked = Blocked(OPEN_S_MIN, Kind.OVERLOADED)
            if soonest is None or blocked.wait_s < soonest.wait_s:
                soonest = blocked
        return soonest or Blocked(0.0, Kind.KEY_REFUSED)

    def allow(self, admission: Admission, allowance: Allowance) -> None:
        """The vendor has said what the key may still ask."""
        self._meter(admission.key).note(allowance, self._clock.monotonic())

    def began(self, admission: Admission, seconds: float) -> None:
        """The first text came."""
        admission.circuit.averages.began(seconds)

    def succeeded(self, admission: Admission, *, seconds: float, is_slow: bool) -> None:
        """The answer came to its end."""
        if not self._told(admission):
            return
        circuit = admission.circuit
        circuit.averages.took(seconds)
        if self.outages.state(_breaker(circuit.id)) is not State.CLOSED:
            circuit.window.clear()
        circuit.openings = 0
        self.outages.end(_breaker(circuit.id))
        self._count(circuit, is_failure=False, is_slow=is_slow)

    def failed(self, admission: Admission, failure: Failure, *, wait_s: float | None) -> None:
        """The attempt failed; `wait_s` is what the provider asked for."""
        if not self._told(admission):
            return
        circuit, kind = admission.circuit, failure.kind
        circuit.averages.failed(kind.value)
        if failure.allowance is not None:
            self.allow(admission, failure.allowance)
        if kind is Kind.RATE_LIMITED:
            self.outages.begin(_cooling(circuit.id), wait_s or COOLING_S)
        elif kind in {Kind.KEY_REFUSED, Kind.QUOTA_SPENT}:
            self.outages.begin(_cooling(admission.key.id), REFUSED_KEY_S)
            # Only an operator can mend it: the one word on which key it is.
            _log.error(
                "key_unusable", key=admission.key.id, model=circuit.label, kind=kind.value, pause_s=REFUSED_KEY_S
            )
        if kind in {Kind.RATE_LIMITED, Kind.KEY_REFUSED, Kind.QUOTA_SPENT}:
            _COOLINGS.labels(_provider(circuit), admission.key.id, kind.value).inc()
        if kind in BLAMED:
            if admission.is_probe:
                self._open(circuit)
            self._count(circuit, is_failure=True, is_slow=False)
        elif admission.is_probe:
            self.outages.release_probe(_breaker(circuit.id))

    def abandoned(self, admission: Admission) -> None:
        """The caller left; that says nothing of the target."""
        if self._told(admission) and admission.is_probe:
            self.outages.release_probe(_breaker(admission.circuit.id))

    def circuits(self) -> Iterator[Circuit]:
        """Every circuit that was used."""
        return iter(list(self._circuits.values()))

    def state(self, circuit: Circuit) -> tuple[State, float]:
        """State of a circuit, and the seconds until it may be asked again."""
        name = _breaker(circuit.id)
        return self.outages.state(name), max(0.0, self.outages.until(name))

    def limited_s(self, circuit: Circuit) -> float:
        """Seconds for which the key is left alone for this model."""
        return max(0.0, self.outages.until(_cooling(circuit.id)))

    def refused_s(self, key_id: str) -> float:
        """Seconds for which the key is left alone for all models."""
        return max(0.0, self.outages.until(_cooling(key_id)))

    def left(self, key_id: str, name: str) -> int | None:
        """What the vendor said the key has left of `requests` or `tokens`."""
        meter = self._meters.get(key_id)
        return None if meter is None else meter.left(name, self._clock.monotonic())

    def _blocked(self, target: Target, key: Key, tokens: int) -> Blocked | None:
        circuit_id = _circuit_id(target, key)
        refused_s = self.outages.until(_cooling(key.id))
        if refused_s > 0:
            return Blocked(refused_s, Kind.KEY_REFUSED)
        meter = self._meter(key)
        limited_s = max(self.outages.until(_cooling(circuit_id)), meter.wait_s(tokens, self._clock.monotonic()))
        if limited_s > 0:
            return Blocked(limited_s, Kind.RATE_LIMITED)
        if self.outages.state(_breaker(circuit_id)) is State.OPEN:
            return Blocked(self.outages.until(_breaker(circuit_id)), Kind.OVERLOADED)
        return None

    async def _admission(self, target: Target, key: Key, tokens: int) -> Admission | None:
        circuit = self._circuit(target, key)
        is_probe = self.outages.state(_breaker(circuit.id)) is State.HALF_OPEN
        if is_probe and not await self.outages.claim_probe(_breaker(circuit.id)):
            return None
        self._meter(key).take(tokens, self._clock.monotonic())
        circuit.averages.calls += 1
        circuit.averages.in_flight += 1
        return Admission(key, circuit, is_probe)

    def _told(self, admission: Admission) -> bool:
        if admission.is_told:
            return False
        admission.is_told = True
        admission.circuit.averages.in_flight -= 1
        return True

    def _count(self, circuit: Circuit, *, is_failure: bool, is_slow: bool) -> None:
        now = self._clock.monotonic()
        circuit.window.add(now, is_failure=is_failure, is_slow=is_slow)
        calls, failures, slow = circuit.window.counts(now)
        if calls >= CALLS_MIN and (failures >= calls * FAILURE_SHARE or slow >= calls * SLOW_SHARE):
            self._open(circuit)

    def _open(self, circuit: Circuit) -> None:
        if self.outages.state(_breaker(circuit.id)) is State.OPEN:
            return
        seconds = min(OPEN_S_MAX, OPEN_S_MIN * 2.0**circuit.openings)
        circuit.openings += 1
        _OPENINGS.labels(_provider(circuit)).inc()
        circuit.window.clear()
        # Jitter keeps replicas and circuits from probing in step.
        self.outages.begin(_breaker(circuit.id), seconds * (0.8 + 0.4 * self._chance()))

    def _circuit(self, target: Target, key: Key) -> Circuit:
        name = _circuit_id(target, key)
        circuit = self._circuits.pop(name, None) or Circuit(
            id=name,
            model=target.name,
            label="other" if target.card is None else target.name,
            key_id=key.id,
            window=Window(),
            averages=Averages(),
        )
        self._circuits[name] = circuit
        if len(self._circuits) > CIRCUITS_MAX:
            del self._circuits[next(iter(self._circuits))]
        return circuit

    def _meter(self, key: Key) -> Meter:
        meter = self._meters.setdefault(key.id, Meter())
        meter.limit(key.requests_per_minute, key.tokens_per_minute)
        return meter


def _circuit_id(target: Target, key: Key) -> str:
    return f"{target.name}@{key.id}"


def _breaker(name: str) -> str:
    return f"breaker:{name}"


def _cooling(name: str) -> str:
    return f"cooling:{name}"


def _provider(circuit: Circuit) -> str:
    return circuit.model.partition("/")[0]
