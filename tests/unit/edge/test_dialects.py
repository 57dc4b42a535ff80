"""How the dialects write answers and errors: blocks in their order, hints, and every reason."""

from datetime import datetime
from typing import Any, get_args

import orjson
import pytest
from anthropic.types.shared.error_type import ErrorType

from edge.compat.anthropic.answers import Message
from edge.compat.anthropic.errors import anthropic_error
from edge.compat.generations import REQUEST_BYTES_MAX, Piece, refuse_huge
from edge.compat.openai.answers import Completion
from edge.compat.openai.errors import openai_error
from parley.common.v1 import usage_pb2
from parley.inference.v1 import generation_pb2
from parley.inference.v1.generation_pb2 import Part
from parley.inference.v1.generation_service_pb2 import PartDelta, TextDelta
from services.mesh.errors import ERROR_BY_REASON, HTTP_STATUS, Overloaded, RateLimited, Reason, RequestTooLarge

END = generation_pb2.Answer(
    finish_reason=generation_pb2.FINISH_REASON_TOOL_CALLS,
    model="some/model",
    usage=usage_pb2.Usage(input_tokens=9, cached_input_tokens=4, output_tokens=2),
)


def call(number: int, *, name: str = "", arguments: str = "") -> PartDelta:
    tool_call = generation_pb2.ToolCall(id=f"c{number}" if name else "", name=name, arguments=arguments)
    return PartDelta(number=number, piece=Part(tool_call=tool_call))


def thought(number: int, **fields: str) -> PartDelta:
    return PartDelta(number=number, piece=Part(reasoning=generation_pb2.Reasoning(**fields)))


def message() -> Message:
    return Message(identity="msg_1", model="m", request_id="req_1")


def events(text: bytes) -> list[dict[str, Any]]:  # Any: JSON
    """The data of Anthropic's events; each needs the line that names it."""
    found = []
    for frame in text.decode().strip().split("\n\n"):
        head, data = frame.split("\n")
        found.append(orjson.loads(data.removeprefix("data: ")))
        assert head == f"event: {found[-1]['type']}"
    return found


def blocks(*pieces: Piece) -> list[tuple[str, int, str]]:
    form = message()
    written = events(form.pieces(pieces) + form.end(END))
    told = [one for one in written if one["type"].startswith("content_block")]
    return [(one["type"].removeprefix("content_block_"), one["index"], _kind(one)) for one in told]


def _kind(one: dict[str, Any]) -> str:
    kind: str = one.get("content_block", one.get("delta", {})).get("type", "")
    return kind


def test_alternating_calls_stay_open_until_the_end() -> None:
    told = blocks(
        call(0, name="a"), call(1, name="b"), call(0, arguments="{}"), call(1, arguments="{}"), call(0, arguments=" ")
    )

    assert told == [
        ("start", 0, "tool_use"),
        ("start", 1, "tool_use"),
        ("delta", 0, "input_json_delta"),
        ("delta", 1, "input_json_delta"),
        ("delta", 0, "input_json_delta"),
        ("stop", 0, ""),
        ("stop", 1, ""),
    ]


def test_every_other_block_ends_before_the_next_begins() -> None:
    told = blocks(
        thought(0, text="Hm."),
        thought(0, signature="s"),
        thought(1, encrypted="e"),
        TextDelta(text="Let me."),
        call(2, name="a", arguments="{}"),
        TextDelta(text="Done."),
    )

    assert [(step, index) for step, index, _ in told if step != "delta"] == [
        (step, index) for index in range(5) for step in ("start", "stop")
    ]
    assert [kind for step, _, kind in told if step == "start"] == [
        "thinking",
        "redacted_thinking",
        "text",
        "tool_use",
        "text",
    ]
    assert ("delta", 0, "signature_delta") in told


def test_a_message_begins_with_the_estimate_and_ends_with_the_providers_count() -> None:
    form = message()
    form.begin(generation_pb2.ContextReport(system_tokens=1, history_tokens=6))
    written = events(form.pieces([TextDelta(text="Hi")]) + form.end(END))

    assert written[0]["message"]["usage"]["input_tokens"] == 7
    assert written[-2]["usage"]["input_tokens"] == 5
    assert written[-2]["usage"]["cache_read_input_tokens"] == 4
    assert [one["type"] for one in written].count("message_start") == 1
    assert written[-1]["type"] == "message_stop"


def test_arguments_that_are_no_object_are_wrapped() -> None:
    spoken = generation_pb2.Answer(parts=[Part(tool_call=generation_pb2.ToolCall(id="c", name="f", arguments="no"))])
    whole: Any = message().whole(spoken)

    assert whole["content"][0]["input"] == {"unparsed": "no"}


def test_pieces_of_a_call_have_the_index_of_their_call_at_openai() -> None:
    form = Completion(identity="c", created=1, model="m", includes_usage=False)
    chunks = form.pieces([thought(0, text="Hm."), call(3, name="a"), call(7, name="b"), call(3, arguments="{}")])
    deltas = [orjson.loads(line[6:])["choices"][0]["delta"] for line in chunks.split(b"\n\n") if line]

    assert deltas[0] == {
        "role": "assistant",
        "reasoning_content": "Hm.",
        "reasoning_details": [{"type": "reasoning.text", "text": "Hm.", "index": 0}],
    }
    assert [delta["tool_calls"][0]["index"] for delta in deltas[1:]] == [0, 1, 0]


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_an_anthropic_error(reason: Reason) -> None:
    answer = anthropic_error(ERROR_BY_REASON[reason]("what happened"), "req_1")
    body, headers = orjson.loads(answer.body), dict(answer.headers)

    assert answer.status == (529 if reason is Reason.OVERLOADED else HTTP_STATUS[reason])
    assert body["type"] == "error"
    assert body["error"]["type"] in {*get_args(ErrorType), "request_too_large"}
    assert body["error"]["details"]["error_code"] == reason.value.lower()
    assert body["request_id"] == headers["request-id"] == "req_1"
    assert headers["x-should-retry"] in {"true", "false"}


def test_overload_has_the_vendors_own_status() -> None:
    answer = anthropic_error(Overloaded(retry_after_s=0.25), "req_1")
    headers = dict(answer.headers)

    assert (answer.status, headers["retry-after"], headers["retry-after-ms"]) == (529, "1", "250")
    assert headers["x-should-retry"] == "true"


@pytest.mark.parametrize(("measure", "remaining"), [("requests", "0"), ("tokens", None)])
def test_a_spent_limit_is_told_in_the_headers_that_users_read(measure: str, remaining: str | None) -> None:
    name = f"{measure}_per_minute"
    error = RateLimited("too many", metadata={"limit": name, name: "60"}, retry_after_s=1.5)
    by_anthropic, by_openai = dict(anthropic_error(error, "req_1").headers), dict(openai_error(error, "req_1").headers)

    assert by_anthropic[f"anthropic-ratelimit-{measure}-limit"] == by_openai[f"x-ratelimit-limit-{measure}"] == "60"
    assert by_openai[f"x-ratelimit-reset-{measure}"] == "1.500s"
    assert datetime.fromisoformat(by_anthropic[f"anthropic-ratelimit-{measure}-reset"]).tzinfo is not None
    assert by_anthropic.get(f"anthropic-ratelimit-{measure}-remaining") == remaining
    assert by_openai.get(f"x-ratelimit-remaining-{measure}") == remaining


@pytest.mark.parametrize("size", [REQUEST_BYTES_MAX - 1, REQUEST_BYTES_MAX])
def test_a_prompt_that_the_mesh_can_carry_is_taken(size: int) -> None:
    refuse_huge(size)


def test_a_prompt_that_the_mesh_cannot_carry_is_refused() -> None:
    with pytest.raises(RequestTooLarge):
        refuse_huge(REQUEST_BYTES_MAX + 1)
