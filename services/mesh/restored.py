"""`after-restore`, a command of every service: PostgreSQL was put back to an earlier instant, and Valkey was not.

Everything that a service keeps there is made of what PostgreSQL holds, or forgets itself in minutes. After a restore it
may be made of what PostgreSQL does not hold any more: answers out of deleted documents, fences of attempts that never
were, turns that nobody asked. So all of it goes, while no process runs that could put it back.
"""

import sys
from typing import Final

from services.mesh.cli import Command
from services.mesh.settings import ValkeySettings
from services.mesh.valkey import open_valkey

NAME: Final = "after-restore"


async def forget(settings: ValkeySettings, service: str) -> int:
    """Removes what the service keeps in Valkey; how many keys there were. Safe to repeat.

    Raises:
        Unavailable: Valkey is away; some keys may be gone.
    """
    async with open_valkey(settings, application=f"{service}-{NAME}") as client:
        # In a cluster a name may begin with its hash tag.
        return sum([await client.remove(prefix) for prefix in (f"parley:{service}:", f"{{parley:{service}")])


def after_restore(service: str) -> Command[ValkeySettings]:
    """The command of a service that has nothing else to do."""

    async def forget_what_was(settings: ValkeySettings) -> None:
        """Forget what Valkey knows, before anything is started on a restored database."""
        tell(keys=await forget(settings, service))

    return Command(ValkeySettings, forget_what_was)


def tell(**counts: int) -> None:
    """Tells a person what was done."""
    sys.stdout.write("".join(f"{name}: {count} gone\n" for name, count in counts.items()))
