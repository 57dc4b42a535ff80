"""Problems and OpenAI errors: every reason, and nothing that was not meant to be told."""

import orjson
import pytest

from edge.compat.openai.errors import openai_error
from edge.errors import Surfaces, problem
from services.mesh.errors import (
    ERROR_BY_REASON,
    HTTP_STATUS,
    CredentialsInvalid,
    Internal,
    MethodNotAllowed,
    NotFound,
    RateLimited,
    Reason,
    invalid_field,
)
from services.mesh.status import INTERNAL_TEXT

SECRET = "postgresql://user:password@host"


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_a_problem_with_its_status(reason: Reason) -> None:
    answer = problem(ERROR_BY_REASON[reason]("what happened"), "req_1")
    body = orjson.loads(answer.body)

    assert answer.status == body["status"] == HTTP_STATUS[reason]
    assert answer.media_type == "application/problem+json"
    assert body["reason"] == reason
    assert body["type"] == f"/docs#{reason}"
    assert body["title"]
    assert body["request_id"] == "req_1"
    assert body["detail"] == (INTERNAL_TEXT if reason is Reason.INTERNAL else "what happened")


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_an_openai_error_with_its_status(reason: Reason) -> None:
    answer = openai_error(ERROR_BY_REASON[reason]("what happened"), "req_1")
    error = orjson.loads(answer.body)["error"]

    assert answer.status == HTTP_STATUS[reason]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"]
    assert dict(answer.headers)["x-should-retry"] in {"true", "false"}


def test_fields_metadata_and_delay_are_told() -> None:
    fields = orjson.loads(problem(invalid_field("parts[0].text", "must not be empty"), "r").body)
    missing = orjson.loads(problem(NotFound.of("turn"), "r").body)
    limited = problem(RateLimited(retry_after_s=1.2), "r")

    assert fields["errors"] == [{"field": "parts[0].text", "description": "must not be empty"}]
    assert missing["metadata"] == {"resource": "turn"}
    assert orjson.loads(limited.body)["retry_after_s"] == 1.2
    assert dict(limited.headers)["retry-after"] == "2"


def test_protocol_headers_go_with_their_errors() -> None:
    assert dict(problem(CredentialsInvalid(), "r").headers)["www-authenticate"].startswith("Bearer")
    assert dict(problem(MethodNotAllowed(metadata={"allow": "GET"}), "r").headers)["allow"] == "GET"


@pytest.mark.parametrize(
    "error", [RuntimeError(SECRET), Internal(SECRET, metadata={"dsn": SECRET}), KeyError(SECRET), OSError(SECRET)]
)
@pytest.mark.parametrize("path", ["/api/v1/conversations", "/v1/chat/completions"])
def test_the_words_of_an_unexpected_error_never_leave(error: Exception, path: str) -> None:
    answer = Surfaces({"/v1/": openai_error}).answer(error, path=path, request_id="r")

    assert answer.status == 500
    assert b"password" not in answer.body
    assert INTERNAL_TEXT.encode() in answer.body


def test_each_surface_has_its_own_dialect() -> None:
    surfaces = Surfaces({"/v1/": openai_error})

    assert b'"error"' in surfaces.answer(NotFound(), path="/v1/models", request_id="r").body
    assert b'"reason"' in surfaces.answer(NotFound(), path="/api/v1/models", request_id="r").body
    assert surfaces.answer(TimeoutError(), path="/x", request_id="r").status == 504


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.CREDENTIALS_INVALID, "invalid_api_key"),
        (Reason.MODEL_UNKNOWN, "model_not_found"),
        (Reason.CONTEXT_LENGTH_EXCEEDED, "context_length_exceeded"),
        (Reason.RATE_LIMITED, "rate_limit_exceeded"),
    ],
)
def test_codes_that_openais_users_know(reason: Reason, code: str) -> None:
    assert orjson.loads(openai_error(ERROR_BY_REASON[reason](), "r").body)["error"]["code"] == code


def test_sdks_repeat_only_what_a_repeat_can_help() -> None:
    def advice(reason: Reason) -> str:
        return dict(openai_error(ERROR_BY_REASON[reason](), "r").headers)["x-should-retry"]

    assert advice(Reason.OVERLOADED) == advice(Reason.RATE_LIMITED) == "true"
    assert advice(Reason.TURN_ALREADY_RUNNING) == advice(Reason.PROVIDER_UNAVAILABLE) == "false"
