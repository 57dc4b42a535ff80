"""Which failed calls are begun again: gRPC's own rules (proposal A6), with the figures of `services.mesh.client`."""

import random
from typing import Final

from services.mesh.tunnel.frames import Metadata

ATTEMPTS_MAX: Final = 3
BACKOFF_S_MIN: Final = 0.05
BACKOFF_S_MAX: Final = 0.5
BUDGET_TOKENS: Final = 10
BUDGET_RATIO: Final = 0.1
"""At most one call in ten is a repeat once things go wrong."""
_PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"


class Retries:
    """The budget of one channel."""

    def __init__(self) -> None:
        self._tokens = float(BUDGET_TOKENS)

    def succeeded(self) -> None:
        """A call that could have been repeated did not need to be."""
        self._tokens = min(float(BUDGET_TOKENS), self._tokens + BUDGET_RATIO)

    def pause_s(self, attempts: int, metadata: Metadata) -> float | None:
        """Seconds until the next attempt of a call that failed for the `attempts`-th time; None for no further one."""
        self._tokens = max(0.0, self._tokens - 1)
        pushback = next((value for key, value in metadata if key == _PUSHBACK_KEY), None)
        if attempts >= ATTEMPTS_MAX or self._tokens <= BUDGET_TOKENS / 2:
            return None
        if pushback is not None:
            text = pushback if isinstance(pushback, str) else ""
            return int(text) / 1_000 if text.isascii() and text.isdigit() else None
        return min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2.0 ** (attempts - 1)) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
