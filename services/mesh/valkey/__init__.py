"""Valkey or Redis: one server, a cluster, or the primary that sentinels name, to callers all the same."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from services.mesh.settings import ValkeySettings
from services.mesh.valkey.client import POOL_WAIT_S, Argument, Births, Client, Limits, Script, pool, translated
from services.mesh.valkey.cluster import ClusterClient
from services.mesh.valkey.sentinel import open_led
from services.mesh.valkey_address import Host, Kind, parse

__all__ = ["POOL_WAIT_S", "Argument", "Client", "Script", "open_valkey", "translated"]


@asynccontextmanager
async def open_valkey(
    settings: ValkeySettings, *, application: str, timeout_s: float | None = None, pool_wait_s: float = POOL_WAIT_S
) -> AsyncIterator[Client]:
    """A client with a bounded pool, closed on leaving. It connects when it is first used.

    Args:
        settings: address, pool size, command timeout.
        application: name that `CLIENT LIST` shows.
        timeout_s: of a command instead of the setting's; blocking reads need more than they block.
        pool_wait_s: seconds that a command waits for a free connection.
    """
    address = parse(settings.valkey_url.get_secret_value())
    limits = Limits(
        application=application,
        connections_max=settings.valkey_connections_max,
        timeout_s=timeout_s or settings.valkey_timeout_s,
        pool_wait_s=pool_wait_s,
    )
    births = Births()
    async with AsyncExitStack() as stack:
        if address.kind is Kind.SENTINEL:
            yield await stack.enter_async_context(open_led(address, limits))
            return

        def opened(host: Host) -> Client:
            return Client(pool(address.url, limits, births, host=host.name, port=host.port), births)

        client = (
            ClusterClient(address.hosts, opened, births)
            if address.kind is Kind.CLUSTER
            else Client(pool(address.url, limits, births), births)
        )
        stack.push_async_callback(client.connection_pool.aclose)
        stack.push_async_callback(client.aclose)
        yield client
