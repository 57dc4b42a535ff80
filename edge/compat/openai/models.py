"""Models as OpenAI's SDKs read them: `GET /v1/models` and `GET /v1/models/{model}`."""

from collections.abc import Sequence
from typing import Final

from edge.compat.models import Writing
from edge.http import Exchange
from parley.inference.v1 import model_service_pb2

_CREATED: Final = 0
"""Nobody tells when a model was made, and SDKs insist on an integer."""
_BUILT_IN: Final = "parley"


def _listed(_: Exchange, models: Sequence[model_service_pb2.Model]) -> dict[str, object]:
    return {"object": "list", "data": [_members(model) for model in models], "has_more": False}


def _members(model: model_service_pb2.Model) -> dict[str, object]:
    provider, separator, _ = model.name.partition("/")
    return {
        "id": model.name,
        "object": "model",
        "created": _CREATED,
        "owned_by": provider if separator else _BUILT_IN,
        "parley": {
            "display_name": model.display_name,
            "context_tokens": model.context_tokens,
            "output_tokens_max": model.output_tokens_max,
            "is_default": model.is_default,
        },
    }


WRITING: Final = Writing(dialect="openai", listed=_listed, one=_members)
