"""The connections between processes that the fault proxy sits on."""

from dataclasses import dataclass
from typing import Final

WORKERS: Final = ("conversation-worker", "conversation-worker-2")
APIS: Final = ("conversation", "conversation-2")
STORES: Final = ("postgres", "valkey")


@dataclass(frozen=True, slots=True, order=True)
class Link:
    """Who calls whom, by names of the process table."""

    caller: str
    called: str

    def __str__(self) -> str:
        return f"{self.caller}>{self.called}"


LINKS: Final = (
    *(Link(caller, store) for caller in (*APIS, *WORKERS, "auth") for store in STORES),
    *(Link(worker, "inference") for worker in WORKERS),
    *(Link("edge", api) for api in APIS),
)
"""Retrieval is left out: turns of this load search nothing."""
