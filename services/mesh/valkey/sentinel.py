"""Finds the primary that sentinels name, with every new connection.

Whoever was connected to a primary that died, froze or was made a replica loses that connection and asks again; nothing
has to be told to this process.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from redis.asyncio import SSLConnection
from redis.asyncio.connection import parse_url
from redis.exceptions import ConnectionError  # noqa: A004 - the driver's own, named as it names it

from services.mesh.errors import MeshError, Unavailable
from services.mesh.valkey.client import Births, Client, Limits, PlainConnection, SecureConnection, pool
from services.mesh.valkey_address import Address, Host

ASK_S_MAX: Final = 1.0
"""For one sentinel; one that needs longer is passed over."""


class Sentinels:
    """Knows where the primary is by asking."""

    def __init__(self, clients: Sequence[Client], *, primary: str) -> None:
        self._clients = list(clients)
        self._primary = primary

    async def primary(self) -> Host:
        """Where the primary is, by the first sentinel that knows.

        Raises:
            Unavailable: none does.
        """
        failure: Exception | None = None
        for client in tuple(self._clients):
            try:
                async with asyncio.timeout(ASK_S_MAX):
                    found = await client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._primary)
            except (MeshError, TimeoutError) as error:
                failure = error
                # Whoever answers is asked first the next time.
                self._clients.remove(client)
                self._clients.append(client)
                continue
            if found:
                return Host(found[0].decode(), int(found[1]))
        raise Unavailable(f"no sentinel knows the primary {self._primary!r}", retry_after_s=1.0) from failure


class _Led:
    """A connection to wherever the primary is."""

    host: str
    port: int

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels

    async def _connect(self) -> None:
        # The one step that every way of connecting in redis-py 8.1 goes through.
        found = await self._sentinels.primary()
        self.host, self.port = found.name, found.port
        await super()._connect()  # type: ignore[misc] # of the class beside it

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's own signature
        """Refuses a server that a late sentinel still takes for the primary: it would answer with what is old."""
        await super().on_connect_check_health(check_health)  # type: ignore[misc] # as above
        await self.send_command("INFO", "replication", check_health=False)  # type: ignore[attr-defined] # as above
        if b"role:master" not in await self.read_response():  # type: ignore[attr-defined] # as above
            raise ConnectionError("the server is a replica")


class _LedPlain(_Led, PlainConnection):
    """In the clear."""


class _LedSecure(_Led, SecureConnection):
    """Over TLS."""


@asynccontextmanager
async def open_led(address: Address, limits: Limits) -> AsyncIterator[Client]:
    """A client of the primary that the sentinels of the address name."""
    given = parse_url(address.url)
    login = {"username": address.sentinel_username or None, "password": address.sentinel_password or None, "db": 0}
    asking = Limits(
        application=limits.application,
        connections_max=limits.connections_max,
        timeout_s=ASK_S_MAX,
        pool_wait_s=ASK_S_MAX,
    )
    unseen, births = Births(), Births()
    askers = [
        Client(pool(address.url, asking, unseen, host=host.name, port=host.port, **login), unseen)
        for host in address.hosts
    ]
    kind = _LedSecure if given.get("connection_class") is SSLConnection else _LedPlain
    sentinels = Sentinels(askers, primary=address.primary)
    client = Client(pool(address.url, limits, births, connection_class=kind, sentinels=sentinels), births)
    try:
        yield client
    finally:
        for one in (client, *askers):
            await one.aclose()
            await one.connection_pool.aclose()
