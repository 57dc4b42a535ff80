"""What load that lasts is asked of: a started stack, its provider, and a client in each organization."""

import random
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dev.home import ROOT
from tests.chaos import load
from tests.chaos.client import Client
from tests.chaos.fleet import Fleet, running_fleet
from tests.chaos.history import Notes
from tests.chaos.provider import MODEL, PROVIDERS, ChaosProvider, running_provider

LEASE_S: Final = 6.0
TURN_S_MAX: Final = 90.0
SETTINGS: Final[Mapping[str, str]] = {
    "PARLEY_AUTH_REGISTRATION": "open",
    # The shipped times divided by five, so that a minute holds as many takeovers as five would.
    "PARLEY_CONVERSATION_LEASE_S": str(LEASE_S),
    "PARLEY_CONVERSATION_HEARTBEAT_S": "2",
    "PARLEY_CONVERSATION_REAP_EVERY_S": "0.5",
    "PARLEY_CONVERSATION_REPUBLISH_AFTER_S": "2",
    "PARLEY_CONVERSATION_REDELIVER_AFTER_S": "3",
    "PARLEY_CONVERSATION_HAND_BACK_AFTER_S": "1",
    "PARLEY_CONVERSATION_QUEUE_MEASURE_EVERY_S": "1",
    # The shortest that a broker accepts; shipped is 10.
    "PARLEY_KAFKA_SESSION_S": "6",
    "PARLEY_CONVERSATION_TURN_S_MAX": str(TURN_S_MAX),
    "PARLEY_CONVERSATION_SILENCE_S_MAX": "15",
    "PARLEY_INFERENCE_STALL_S": "3",
    "PARLEY_INFERENCE_FIRST_EVENT_S": "5",
    "PARLEY_DRAIN_S": "3",
}


@dataclass(frozen=True, slots=True)
class Ground:
    """See the module."""

    fleet: Fleet
    provider: ChaosProvider
    clients: Sequence[Client]


@asynccontextmanager
async def prepared(history: Notes, settings: Mapping[str, str], *, tree: Path = ROOT) -> AsyncIterator[Ground]:
    """Everything started, and gone afterwards.

    Args:
        history: gets what clients and provider see.
        settings: of the stack, beside those that everybody needs.
        tree: the checkout that is run.
    """
    async with AsyncExitStack() as stack:
        place = stack.enter_context(_place())
        provider = await stack.enter_async_context(running_provider(history))
        url = f"http://127.0.0.1:{provider.port}/v1"
        (place / "providers.toml").write_text(PROVIDERS.format(url=url), encoding="utf-8")
        given = {
            **SETTINGS,
            "OPENAI_BASE_URL": url,
            "PARLEY_INFERENCE_PROVIDERS_FILE": str(place / "providers.toml"),
            "PARLEY_INFERENCE_DEFAULT_MODEL": MODEL,
            **settings,
        }
        fleet = await stack.enter_async_context(running_fleet(place / "dev", given, tree=tree))
        chance = random.Random(0)
        clients = [await load.registered(fleet.url, each, history, chance) for each in load.ORGANIZATIONS]
        for client in clients:
            stack.push_async_callback(client.http.aclose)
        yield Ground(fleet, provider, clients)


@contextmanager
def _place() -> Iterator[Path]:
    """A folder for a stack's data."""
    with tempfile.TemporaryDirectory(prefix="parley-chaos-", ignore_cleanup_errors=True) as name:
        # So that root's PostgreSQL runs as an unprivileged account, as it does in a checkout.
        Path(name).chmod(0o711)
        yield Path(name)
