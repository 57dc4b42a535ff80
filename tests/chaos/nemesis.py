"""Carries a schedule out against a fleet, and puts everything right again."""

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final

from tests.chaos.fleet import Fleet
from tests.chaos.history import History
from tests.chaos.links import LINKS
from tests.chaos.provider import ChaosProvider
from tests.chaos.proxy import Trouble
from tests.chaos.schedule import Blow, Strike
from tests.support.provider_double import Fault

_TARGET_S_MAX: Final = 3.0
"""A strike whose process is just being started again waits for it for as long; then it is passed over."""
_BETWEEN_S: Final = 0.5
"""From freezing one process to killing another: enough for answers to end into the frozen one."""


class Nemesis:
    """Strikes.

    Args:
        fleet, provider: what is struck.
        history: gets every strike.
        say: tells a person.

    Attributes:
        struck: how many strikes hit.
        kills: how many processes were ended by SIGKILL.
    """

    def __init__(self, fleet: Fleet, provider: ChaosProvider, history: History, say: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._provider = provider
        self._history = history
        self._say = say
        self._links = {str(link): fleet.proxies[link] for link in LINKS}
        self.struck = 0
        self.kills = 0

    async def carry_out(self, strikes: Sequence[Strike]) -> None:
        """Strikes at the given times; returns when the last one is healed."""
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for strike in strikes:
                await asyncio.sleep(max(0.0, begun + strike.at_s - time.monotonic()))
                group.create_task(self._strike(strike))

    def heal(self) -> None:
        """Ends whatever lasts; the supervisor starts what is dead."""
        self._fleet.wake_all()
        self._provider.illness = Fault.NONE
        for proxy in self._links.values():
            proxy.heal()

    async def _strike(self, strike: Strike) -> None:
        hit = await self._inflict(strike)
        self.struck += hit
        self._history.add("strike", hit=hit, what=str(strike))
        self._say(f"  {strike}" + ("" if hit else " (it was not there)"))
        if hit and strike.lasts_s:
            await asyncio.sleep(strike.lasts_s)
            self._undo(strike)
            self._history.add("healed", what=str(strike))

    async def _inflict(self, strike: Strike) -> bool:
        match strike.blow:
            case Blow.KILL:
                return await self._killed(strike.target)
            case Blow.DRAIN:
                return await self._there(lambda: self._fleet.send(strike.target, signal.SIGTERM))
            case Blow.PAUSE:
                return await self._there(lambda: self._fleet.stop_clock(strike.target))
            case Blow.PAUSE_AND_KILL:
                paused = await self._there(lambda: self._fleet.stop_clock(strike.target))
                await asyncio.sleep(_BETWEEN_S)
                return await self._killed(strike.how) or paused
            case Blow.WIPE:
                wiped = await self._fleet.wipe(strike.target)
                self.kills += wiped
                return wiped
            case Blow.LINK:
                self._links[strike.target].trouble(Trouble(strike.how))
            case Blow.PROVIDER:
                self._provider.illness = Fault(strike.how)
        return True

    def _undo(self, strike: Strike) -> None:
        match strike.blow:
            case Blow.LINK:
                self._links[strike.target].heal()
            case Blow.PROVIDER:
                self._provider.illness = Fault.NONE
            case _:
                self._fleet.wake(strike.target)

    async def _killed(self, name: str) -> bool:
        hit = await self._there(lambda: self._fleet.send(name, signal.SIGKILL))
        self.kills += hit
        return hit

    async def _there(self, act: Callable[[], bool]) -> bool:
        """Acts as soon as the process is there."""
        deadline = time.monotonic() + _TARGET_S_MAX
        while not act():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True
