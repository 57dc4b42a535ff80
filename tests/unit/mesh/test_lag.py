import asyncio
import time

from services.mesh.lag import EVERY_S, measured
from services.mesh.telemetry import REGISTRY
from tests.support.waiting import until


def _figure(suffix: str) -> float:
    return REGISTRY.get_sample_value(f"parley_mesh_event_loop_lag_seconds_{suffix}") or 0.0


async def test_loop_that_is_held_up_is_seen_to_be_late() -> None:
    count, seconds = _figure("count"), _figure("sum")
    with measured():
        time.sleep(EVERY_S + 0.2)  # noqa: ASYNC251 - what is measured is that nothing else can run
        await until(lambda: _figure("count") > count, within_s=60)

    assert _figure("sum") - seconds >= 0.2


async def test_nothing_is_measured_outside_of_the_body() -> None:
    with measured():
        await until(lambda: _figure("count"), within_s=60)
    count = _figure("count")
    fired = asyncio.Event()
    asyncio.get_running_loop().call_later(EVERY_S * 1.5, fired.set)
    await fired.wait()

    assert _figure("count") == count
