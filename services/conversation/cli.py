"""Commands of conversation: API and worker, and what an operator asks of the queue."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from services.conversation.app import AUDIENCE, MIGRATIONS, open_queue, serve, work
from services.conversation.queue.port import Queue
from services.conversation.settings import ApiSettings, QueueSettings, WorkerSettings
from services.mesh.cli import Command, Deployable
from services.mesh.restored import NAME as AFTER_RESTORE
from services.mesh.restored import after_restore
from services.mesh.valkey import open_valkey

DEAD_SHOWN_MAX: Final = 20
REDRIVE_MAX: Final = 500


async def show_queue(config: QueueSettings) -> None:
    """Show how much waits in the queue, and its oldest dead letters."""
    async with _queue_alone(config) as queue:
        load = await queue.load()
        print(f"depth {load.depth}  oldest {load.oldest_age_s:.1f} s  dead {load.dead}")
        for letter in await queue.dead_letters(limit=DEAD_SHOWN_MAX):
            print(f"{letter.reason}  {letter.body}")


async def redrive(config: QueueSettings) -> None:
    """Put the turns of all dead letters into the queue again."""
    async with _queue_alone(config) as queue:
        total = 0
        while (await queue.load()).dead:
            total += await queue.redrive(limit=REDRIVE_MAX)
        print(f"{total} turns redriven")


@asynccontextmanager
async def _queue_alone(config: QueueSettings) -> AsyncIterator[Queue]:
    async with (
        open_valkey(config, application=f"{AUDIENCE}-queue") as valkey,
        open_queue(config, valkey, valkey) as queue,
    ):
        yield queue


DEPLOYABLE: Final = Deployable(
    name="conversation",
    serve=Command(ApiSettings, serve),
    worker=Command(WorkerSettings, work),
    migrations=MIGRATIONS,
    commands={
        "queue": Command(QueueSettings, show_queue),
        "redrive": Command(QueueSettings, redrive),
        AFTER_RESTORE: after_restore("conversation"),
    },
)
