from datetime import UTC, datetime

import pytest

from services.inference.providers.faults import Fault, retry_after_s, to_mesh_error
from services.mesh.clock import ManualClock
from services.mesh.errors import Reason

NOW = ManualClock(instant=datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, 3600.0),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30"}, None),
        ({"retry-after": "later"}, None),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
    ],
)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, clock=NOW) == seconds


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (400, "BadRequestError: This model's maximum context length is 4096 tokens", Reason.CONTEXT_LENGTH_EXCEEDED),
        (400, "exceed_context_size_error", Reason.CONTEXT_LENGTH_EXCEEDED),
        (400, "something else", Reason.PROVIDER_REJECTED),
        (409, "conflict_error", Reason.PROVIDER_REJECTED),
        (418, "teapot", Reason.PROVIDER_REJECTED),
        (200, "a success that is none", Reason.PROVIDER_UNAVAILABLE),
        (302, "moved", Reason.PROVIDER_UNAVAILABLE),
        (503, "service_unavailable", Reason.PROVIDER_UNAVAILABLE),
    ],
)
def test_other_servers_and_other_statuses(status: int, code: str, reason: Reason) -> None:
    error = to_mesh_error(Fault(status=status, code=code), "openai/m")

    assert error.reason is reason
    assert error.metadata == {"model": "openai/m"}
