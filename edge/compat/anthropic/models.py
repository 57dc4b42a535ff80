"""Models as Anthropic's SDKs read them: `GET /anthropic/v1/models` and `GET /anthropic/v1/models/{model}`."""

from collections.abc import Sequence
from typing import Final

from edge.compat.anthropic.errors import REQUEST_ID
from edge.compat.models import Writing
from edge.http import Exchange, HeaderList
from parley.inference.v1 import model_service_pb2
from services.mesh import context
from services.mesh.errors import invalid_field

_CREATED: Final = "1970-01-01T00:00:00Z"
"""Nobody tells when a model was made; Anthropic's own word for that is the epoch."""
_PAGE_DEFAULT: Final = 20
_PAGE_MAX: Final = 1_000


def _listed(exchange: Exchange, models: Sequence[model_service_pb2.Model]) -> dict[str, object]:
    page, has_more = _page(exchange, [_members(model) for model in models])
    return {
        "data": page,
        "has_more": has_more,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }


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


def _headers() -> HeaderList:
    return ((REQUEST_ID, context.request_id()),)


WRITING: Final = Writing(dialect="anthropic", listed=_listed, one=_members, headers=_headers)
