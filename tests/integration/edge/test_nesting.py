"""JSON that is nested without end is refused on every surface; it exhausts no stack of ours."""

import pytest

from tests.support.edge import KEY_HEADERS, EdgeUnderTest

CHAT = '"model": "m", "store": false, "messages": [{"role": "user", "content": "?"}]'
TALK = '"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "?"}'
CALL = '{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": $}]}'
RESULT = '{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "k"}]}'
BODIES = {
    "native": ("/api/v1/conversations", "$"),
    "native, a text": ("/api/v1/conversations", '{"title": $}'),
    "native, a message": ("/api/v1/generations", '{"prompt": $}'),
    "openai": ("/v1/chat/completions", "$"),
    "openai, messages": ("/v1/chat/completions", '{"model": "m", "messages": $}'),
    "openai, a tool": (
        "/v1/chat/completions",
        f'{{{CHAT}, "tools": [{{"type": "function", "function": {{"name": "f", "parameters": $}}}}]}}',
    ),
    "openai, a format": (
        "/v1/chat/completions",
        f'{{{CHAT}, "response_format": {{"type": "json_schema", "json_schema": {{"name": "f", "schema": $}}}}}}',
    ),
    "anthropic": ("/anthropic/v1/messages", "$"),
    "anthropic, a tool": ("/anthropic/v1/messages", f'{{{TALK}], "tools": [{{"name": "f", "input_schema": $}}]}}'),
    "anthropic, a call": ("/anthropic/v1/messages", f"{{{TALK}, {CALL}, {RESULT}]}}"),
}
# Beyond what orjson writes, what Python's own parser takes, and what would fit into a body at all.
DEPTHS = (300, 950, 100_000)


@pytest.mark.parametrize("place", BODIES)
async def test_deep_nesting_is_the_callers_fault(place: str, edge: EdgeUnderTest) -> None:
    path, frame = BODIES[place]
    headers = KEY_HEADERS | {"content-type": "application/json"}

    for depth in DEPTHS:
        for opening, closing in (("[", "]"), ('{"a":', "}")):
            body = frame.replace("$", opening * depth + "1" + closing * depth)
            answer = await edge.client.post(path, content=body, headers=headers)
            assert answer.status_code == 400, (depth, opening, answer.text[:200])
            assert "message" in answer.text or "detail" in answer.text
