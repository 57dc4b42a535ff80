"""What both vendors say of a batch and of its items, as JSON; for the batch double."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, TypeAlias

from tests.support import provider_parts
from tests.support.provider_double import SECRET_WORDS
from tests.support.provider_parts import Json, Said, Words


class Spoilt(StrEnum):
    """What becomes of an item that is not answered."""

    EXPIRED = "expired"
    CANCELLED = "cancelled"
    CONTEXT_LENGTH = "400 context"
    RATE_LIMITED = "429"
    SERVER_ERROR = "500"
    GARBLED = "a line that is no JSON"
    HEADLESS = "a line without its content"
    ENDLESS = "an answer without its end"
    TOO_LONG = "a line beyond any bound"
    MISSING = "no line"


Outcome: TypeAlias = tuple[Said, ...] | Spoilt

ERRORS: Final[dict[str, tuple[int, str, str, str]]] = {
    # status, OpenAI's code, Anthropic's type, words
    "400": (400, "invalid_value", "invalid_request_error", "not so"),
    "400 context": (400, "context_length_exceeded", "invalid_request_error", "prompt is too long"),
    "401": (401, "invalid_api_key", "authentication_error", "no such key"),
    "404": (404, "not_found", "not_found_error", "no such thing"),
    "409": (409, "conflict", "invalid_request_error", "it is at its end"),
    "429": (429, "rate_limit_exceeded", "rate_limit_error", "slow down"),
    "500": (500, "server_error", "api_error", "internal"),
}


@dataclass(slots=True)
class Kept:
    """A batch as the vendor keeps it.

    Attributes:
        requests: what is asked, by its custom id.
        state: in OpenAI's words; Anthropic's follow from it.
        outcomes: of its items, once it is at its end.
        size_bytes: of the requests as they came.
    """

    id: str
    is_openai: bool
    requests: dict[str, Json]
    created_at: datetime
    metadata: Json = field(default_factory=dict)
    file_id: str = ""
    state: str = "in_progress"
    ended_at: datetime | None = None
    refusal: str = ""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    is_archived: bool = False
    size_bytes: int = 0

    @property
    def is_ended(self) -> bool:
        return self.state in {"completed", "expired", "cancelled", "failed"}

    def finish(self, outcomes: Mapping[str, Outcome], default: Outcome | None, now: datetime) -> None:
        """Every item comes to its end; outcomes are by item, and those of a batch that is cancelled need none."""
        is_cancelled = self.state == "cancelling"
        for name in self.requests:
            item = name.partition("-")[2]
            usual = default or (Spoilt.CANCELLED if is_cancelled else (Words(f"Answer to {item}."),))
            self.outcomes[name] = outcomes.get(item, usual)
        self.state = "cancelled" if is_cancelled else "completed"
        if Spoilt.EXPIRED in self.outcomes.values():
            self.state = "expired"
        self.ended_at = now


def error_of(name: str, *, is_openai: bool) -> tuple[int, Json]:
    """Status and body of an error."""
    status, code, kind, words = ERRORS[name]
    message = f"{words}: {SECRET_WORDS}"
    if is_openai:
        return status, {"error": {"code": code, "type": "invalid_request_error", "message": message, "param": None}}
    return status, {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


def lines_of(kept: Kept, *, is_error: bool | None = None) -> bytes:
    """The results in the reverse of their order; None for those of both kinds."""
    content = bytearray()
    for name, outcome in reversed(kept.outcomes.items()):
        is_spoilt = isinstance(outcome, Spoilt) and outcome is not Spoilt.ENDLESS
        if outcome is Spoilt.MISSING or is_error not in {None, is_spoilt}:
            continue
        if outcome is Spoilt.GARBLED:
            content += b'{"custom_id": "' + name.encode() + b'", "resp\xff\n'
        elif outcome is Spoilt.TOO_LONG:
            content += b'{"custom_id": "' + name.encode() + b'", "x": "' + b"x" * 20_000_000 + b'"}\n'
        elif outcome is Spoilt.HEADLESS:
            content += json.dumps({"custom_id": name}).encode() + b"\n"
        else:
            content += json.dumps(_line(kept, name, outcome)).encode() + b"\n"
    return bytes(content)


def shown(kept: Kept) -> Json:
    """A batch as its vendor shows it."""
    return _openai_shown(kept) if kept.is_openai else _anthropic_shown(kept)


def _line(kept: Kept, name: str, outcome: Outcome) -> Json:
    model = kept.requests[name]["model"]
    return _openai_line(name, outcome, model) if kept.is_openai else _anthropic_line(name, outcome, model)


def _openai_line(name: str, outcome: Outcome, model: str) -> Json:
    line: Json = {"id": f"batch_req_{name}", "custom_id": name, "response": None, "error": None}
    if outcome in {Spoilt.EXPIRED, Spoilt.CANCELLED}:
        code = "batch_expired" if outcome is Spoilt.EXPIRED else "batch_cancelled"
        return line | {"error": {"code": code, "message": SECRET_WORDS}}
    status, body = 200, {}
    if not isinstance(outcome, Spoilt):
        body = provider_parts.openai_whole(outcome, model)
    elif outcome is Spoilt.ENDLESS:
        body = provider_parts.openai_whole((Words("And then"),), model)
        body["choices"][0]["finish_reason"] = None
    else:
        status, body = error_of(outcome.value, is_openai=True)
    return line | {"response": {"status_code": status, "request_id": "req_1", "body": body}}


def _anthropic_line(name: str, outcome: Outcome, model: str) -> Json:
    if not isinstance(outcome, Spoilt):
        result: Json = {"type": "succeeded", "message": provider_parts.anthropic_whole(outcome, model)}
    elif outcome is Spoilt.ENDLESS:
        message = provider_parts.anthropic_whole((Words("And then"),), model)
        result = {"type": "succeeded", "message": message | {"stop_reason": None}}
    elif outcome in {Spoilt.EXPIRED, Spoilt.CANCELLED}:
        result = {"type": "expired" if outcome is Spoilt.EXPIRED else "canceled"}
    else:
        result = {"type": "errored", "error": error_of(outcome.value, is_openai=False)[1]}
    return {"custom_id": name, "result": result}


def _openai_shown(kept: Kept) -> Json:
    shown: Json = {
        "id": kept.id,
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "created_at": int(kept.created_at.timestamp()),
        "input_file_id": kept.file_id,
        "metadata": kept.metadata,
        "status": kept.state,
    }
    spoilt = sum(isinstance(outcome, Spoilt) for outcome in kept.outcomes.values())
    counts = {"total": len(kept.requests), "completed": len(kept.outcomes) - spoilt, "failed": spoilt}
    if kept.state == "failed":
        errors = [{"code": kept.refusal, "line": None, "message": SECRET_WORDS, "param": None}]
        shown["errors"] = {"object": "list", "data": errors}
    elif kept.ended_at is not None:
        shown[f"{kept.state}_at"] = int(kept.ended_at.timestamp())
        shown |= {"output_file_id": f"output_of_{kept.id}", "error_file_id": f"errors_of_{kept.id}"}
    return shown | {"request_counts": counts}


def _anthropic_shown(kept: Kept) -> Json:
    values = list(kept.outcomes.values())
    counts = {
        "processing": len(kept.requests) - len(values),
        "expired": values.count(Spoilt.EXPIRED),
        "canceled": values.count(Spoilt.CANCELLED),
        "errored": values.count(Spoilt.SERVER_ERROR) + values.count(Spoilt.CONTEXT_LENGTH),
    }
    counts["succeeded"] = len(kept.requests) - sum(counts.values())
    state = "canceling" if kept.state == "cancelling" else "ended" if kept.is_ended else "in_progress"
    return {
        "id": kept.id,
        "type": "message_batch",
        "processing_status": state,
        "request_counts": counts,
        "created_at": kept.created_at.isoformat(),
        "expires_at": (kept.created_at + timedelta(days=1)).isoformat(),
        "ended_at": None if kept.ended_at is None else kept.ended_at.isoformat(),
        "archived_at": kept.created_at.isoformat() if kept.is_archived else None,
        "results_url": f"http://somewhere.else/v1/messages/batches/{kept.id}/results" if kept.is_ended else None,
    }
