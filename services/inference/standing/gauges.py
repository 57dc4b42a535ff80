"""What operators see of targets on their boards: state, averages and cool-downs, measured every few seconds."""

from typing import Final

from services.inference.standing.outages import State
from services.inference.standing.standings import Circuit, Standings
from services.mesh.tasks import Loop, periodic
from services.mesh.telemetry import gauge

EVERY_S: Final = 5.0

_LABELS: Final = ["provider", "model", "key"]
_STATE: Final = gauge(
    "parley_inference_circuit_state_ratio", "How open a circuit is: 0 closed, 0.5 half open, 1 open.", _LABELS
)
_COOLING: Final = gauge("parley_inference_key_cooling_seconds", "How much longer a key is left alone.", _LABELS)
_LATENCY: Final = gauge("parley_inference_latency_seconds", "Moving average of whole answers.", _LABELS)
_FIRST_TEXT: Final = gauge("parley_inference_first_text_seconds", "Moving average of the first text.", _LABELS)
_IN_FLIGHT: Final = gauge("parley_inference_attempts_in_flight_count", "Attempts under way.", _LABELS)

_OPENNESS: Final = {State.CLOSED: 0.0, State.HALF_OPEN: 0.5, State.OPEN: 1.0}


class Gauges:
    """Measures how targets stand.

    Args:
        standings: knows it.
    """

    def __init__(self, standings: Standings) -> None:
        self._standings = standings

    def loop(self) -> Loop:
        """Measures again and again."""
        return periodic("inference_gauges", self.measure, every_s=EVERY_S)

    async def measure(self) -> None:
        """Sets every gauge; of models that no catalog knows, the worst stands for all of a key."""
        worst: dict[tuple[str, str, str], list[Circuit]] = {}
        for circuit in self._standings.circuits():
            labels = (circuit.model.partition("/")[0], circuit.label, circuit.key_id)
            worst.setdefault(labels, []).append(circuit)
        for labels, circuits in worst.items():
            self._set(labels, circuits)

    def _set(self, labels: tuple[str, str, str], circuits: list[Circuit]) -> None:
        known = self._standings
        cooling = [max(known.limited_s(one), known.refused_s(one.key_id)) for one in circuits]
        _STATE.labels(*labels).set(max(_OPENNESS[known.state(one)[0]] for one in circuits))
        _COOLING.labels(*labels).set(max(cooling))
        _LATENCY.labels(*labels).set(max(one.averages.latency_s or 0.0 for one in circuits))
        _FIRST_TEXT.labels(*labels).set(max(one.averages.first_text_s or 0.0 for one in circuits))
        _IN_FLIGHT.labels(*labels).set(sum(one.averages.in_flight for one in circuits))
