"""What viewers of turns saw, replayed from the history: a stream proves that nothing is missing or repeated."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.chaos.history import Record
from tests.support.rest import ServerSentEvent, StreamBrokenError, Watcher


@dataclass(slots=True)
class Viewer:
    """One viewer of one turn, over all of its connections.

    Attributes:
        takeover_s_max: longest time from the last event of an attempt to the first one of another attempt.
    """

    number: int
    turn_id: str
    watcher: Watcher = field(default_factory=Watcher)
    problems: list[str] = field(default_factory=list)
    is_finished: bool = False
    takeover_s_max: float = 0.0
    attempt: int = 0
    last_at: float = 0.0

    @property
    def text(self) -> str:
        """The answer as the viewer has it."""
        return self.watcher.text

    @property
    def sequence(self) -> int:
        """Of the last event."""
        return self.watcher.sequence

    def see(self, record: Record) -> None:
        """Takes the next event in; what does not fit is noted, once."""
        if self.problems:
            return
        if self.is_finished and record["event"] != "error":
            self.problems.append(f"{record['event']} {record['id']} after the end")
            return
        data = json.loads(record["data"])
        try:
            self.watcher.see(ServerSentEvent(record["id"], record["event"], data))
        except StreamBrokenError:
            return
        except (AssertionError, LookupError, ValueError) as problem:  # an event that the contract does not know, too
            held = f"after event {self.sequence}, with {len(self.text)} code points"
            self.problems.append(f"{record['event']} {record['id']} {held}: {str(problem) or 'does not fit'}")
            return
        self.is_finished = record["event"] == "turn_finished"
        attempt = int(data.get("attempt", 0))
        if self.attempt and attempt > self.attempt:
            self.takeover_s_max = max(self.takeover_s_max, record["t"] - self.last_at)
        self.attempt, self.last_at = max(attempt, self.attempt), record["t"]


def replay(events: Iterable[Record]) -> dict[int, Viewer]:
    """Every viewer by number."""
    found: dict[int, Viewer] = {}
    for record in events:
        viewer = found.setdefault(record["viewer"], Viewer(record["viewer"], record["turn"]))
        viewer.see(record)
    return found


def disagreements(events: Iterable[Record]) -> Iterator[tuple[str, int]]:
    """Turn and sequence of events that two viewers saw differently; snapshots replace events, so they differ."""
    first: dict[tuple[str, int], str] = {}
    for record in events:
        if record["event"] in {"snapshot", "error"}:
            continue
        place = (record["turn"], int(record["id"]))
        if first.setdefault(place, record["data"]) != record["data"]:
            yield place
