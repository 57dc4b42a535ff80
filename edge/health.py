"""/healthz and /readyz on the HTTP port, for load balancers that see no other; figures are on the debug port alone."""

from starlette.types import Receive, Scope, Send

from edge.http import Exchange
from edge.middleware import ROUTE_KEY
from edge.transcoding.encoding import dump
from services.mesh.debug_http import Health


async def alive(scope: Scope, receive: Receive, send: Send) -> None:
    """The process answers."""
    scope[ROUTE_KEY] = "healthz"
    await Exchange(scope, receive, send).respond(200, dump({"status": "alive"}))


class Ready:
    """Whether requests can be answered: every service is connected, and the process is not about to end."""

    def __init__(self, health: Health) -> None:
        self._health = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        scope[ROUTE_KEY] = "readyz"
        problems = await self._health.problems()
        status = {"status": "not ready" if problems else "ready", "problems": problems}
        await Exchange(scope, receive, send).respond(503 if problems else 200, dump(status))
