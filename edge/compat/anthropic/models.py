"""`GET /anthropic/v1/models` and `GET /anthropic/v1/models/{model}`."""

from typing import Final

from starlette.types import Receive, Scope, Send

from edge.compat.anthropic.errors import REQUEST_ID
from edge.compat.generations import Callers
from edge.compat.models import Models
from edge.http import Exchange
from edge.middleware import ROUTE_KEY
from edge.transcoding.encoding import dump
from edge.transcoding.routes import PARAMETERS_KEY
from parley.inference.v1 import model_service_pb2
from services.mesh import context
from services.mesh.errors import invalid_field

_CREATED: Final = "1970-01-01T00:00:00Z"
"""Nobody tells when a model was made; Anthropic's own word for that is the epoch."""
_PAGE_DEFAULT: Final = 20
_PAGE_MAX: Final = 1_000


class ListModels:
    """All models, the default first, in pages."""

    def __init__(self, callers: Callers, models: Models) -> None:
        self._callers = callers
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        scope[ROUTE_KEY] = "anthropic.models.list"
        metadata = await self._callers.metadata_for(exchange, "inference")
        data = [_members(model) for model in await self._models.all(metadata)]
        page, has_more = _page(exchange, data)
        members = {
            "data": page,
            "has_more": has_more,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
        }
        await exchange.respond(200, dump(members), headers=((REQUEST_ID, context.request_id()),))


class GetModel:
    """One model; `default` is the one that an empty name means."""

    def __init__(self, callers: Callers, models: Models) -> None:
        self._callers = callers
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        scope[ROUTE_KEY] = "anthropic.models.get"
        metadata = await self._callers.metadata_for(exchange, "inference")
        found = await self._models.one(scope[PARAMETERS_KEY]["model"], metadata)
        await exchange.respond(200, dump(_members(found)), headers=((REQUEST_ID, context.request_id()),))


def _page(exchange: Exchange, data: list[dict[str, object]]) -> tuple[list[dict[str, object]], bool]:
    """The models that the query asks for, and whether more lie beyond them."""
    query = exchange.query()
    limit = _limit(query.get("limit", []))
    ids = [model["id"] for model in data]
    after, before = _cursor(query, "after_id", ids), _cursor(query, "before_id", ids)
    if before is not None:
        start = max(0, before - limit)
        return data[start:before], start > 0
    start = 0 if after is None else after + 1
    return data[start : start + limit], start + limit < len(data)


def _limit(values: list[str]) -> int:
    if not values:
        return _PAGE_DEFAULT
    if len(values) > 1 or not values[0].isdecimal() or not 1 <= int(values[0][:9]) <= _PAGE_MAX:
        raise invalid_field("limit", f"must be a number from 1 to {_PAGE_MAX}")
    return int(values[0])


def _cursor(query: dict[str, list[str]], name: str, ids: list[object]) -> int | None:
    values = query.get(name, [])
    if not values:
        return None
    if len(values) > 1 or values[0] not in ids:
        raise invalid_field(name, "must be the id of a listed model")
    return ids.index(values[0])


def _members(model: model_service_pb2.Model) -> dict[str, object]:
    return {
        "type": "model",
        "id": model.name,
        "display_name": model.display_name or model.name,
        "created_at": _CREATED,
        "lifecycle": "active",
        "max_input_tokens": model.context_tokens or None,
        "max_tokens": model.output_tokens_max or None,
        "parley": {"is_default": model.is_default},
    }
