"""What boards show of targets."""

from services.inference.providers.failures import Failure, Kind
from services.inference.standing.gauges import Gauges
from services.inference.standing.standings import CALLS_MIN
from services.mesh.clock import ManualClock
from services.mesh.errors import ProviderUnavailable
from services.mesh.telemetry import REGISTRY
from tests.support.standing import admitted, key, standings, target

LABELS = {"provider": "gauged", "model": "other", "key": "a/k"}


def value(name: str) -> float | None:
    return REGISTRY.get_sample_value(f"parley_inference_{name}", LABELS)


async def test_gauges_tell_state_averages_and_cooling() -> None:
    clock = ManualClock()
    known, well, ill = standings(clock), target(key(), name="gauged/well"), target(key(), name="gauged/ill")
    done = await admitted(known, well)
    known.began(done, 0.5)
    known.succeeded(done, seconds=2.0, is_slow=False)
    await admitted(known, well)
    await Gauges(known).measure()

    assert [value(name) for name in ("circuit_state_ratio", "key_cooling_seconds")] == [0.0, 0.0]
    assert [value(name) for name in ("latency_seconds", "first_text_seconds")] == [2.0, 0.5]
    assert value("attempts_in_flight_count") == 1.0

    for _ in range(CALLS_MIN):
        known.failed(await admitted(known, ill), Failure(Kind.CUT, ProviderUnavailable()), wait_s=None)
    known.failed(await admitted(known, well), Failure(Kind.RATE_LIMITED, ProviderUnavailable()), wait_s=9.0)
    await Gauges(known).measure()

    assert [value(name) for name in ("circuit_state_ratio", "key_cooling_seconds")] == [1.0, 9.0]
