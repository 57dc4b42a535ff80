"""Targets, and what replicas share, for tests of standings."""

from services.inference.providers.base import Limits
from services.inference.routing import Key, Line, Target
from services.inference.standing.outages import Outages
from services.inference.standing.standings import Admission, Blocked, Standings
from services.mesh.clock import ManualClock
from services.mesh.errors import Unavailable
from tests.support.inference import FakeProvider


class SharedMemory:
    """What replicas have in common, in one process; `is_away` makes it fail."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}
        self._claims: dict[str, float] = {}
        self.is_away = False

    async def put(self, until: dict[str, float]) -> None:
        self._check()
        for name, instant in until.items():
            self._claims.pop(name, None)
            if instant:
                self._until[name] = instant
            else:
                self._until.pop(name, None)

    async def all(self) -> dict[str, float]:
        self._check()
        return dict(self._until)

    async def claim(self, name: str, *, life_s: float) -> bool:
        self._check()
        now = self._clock.now().timestamp()
        if self._claims.get(name, 0.0) > now:
            return False
        self._claims[name] = now + life_s
        return True

    def _check(self) -> None:
        if self.is_away:
            raise Unavailable


def key(name: str = "k", *, weight: float = 1.0, requests: int | None = None, tokens: int | None = None) -> Key:
    provider = FakeProvider("a")
    return Key(
        id=f"a/{name}", line=Line(provider), weight=weight, requests_per_minute=requests, tokens_per_minute=tokens
    )


def target(*keys: Key, name: str = "a/m") -> Target:
    return Target(name=name, model="m", card=None, keys=keys or (key(),), limits=Limits(first_event_s=10.0))


def standings(clock: ManualClock, outages: Outages | None = None) -> Standings:
    return Standings(outages, clock=clock, chance=lambda: 0.5)


async def admitted(known: Standings, asked: Target, *, tokens: int = 10) -> Admission:
    found = await known.admit(asked, tokens)
    assert isinstance(found, Admission), found
    return found


async def blocked(known: Standings, asked: Target, *, tokens: int = 10) -> Blocked:
    found = await known.admit(asked, tokens)
    assert isinstance(found, Blocked)
    return found
