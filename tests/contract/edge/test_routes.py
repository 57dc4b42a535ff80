"""The edge offers what the contracts say, and nothing else but a named list."""

from edge.transcoding.contracts import bindings, contracts
from edge.transcoding.endpoints import StreamEndpoint, UnaryEndpoint
from edge.transcoding.routes import Template
from tests.support.edge import running_edge

HANDWRITTEN = {
    "DELETE /api/v1/auth/session",
    "GET /",
    "GET /docs",
    "GET /favicon.ico",
    "GET /healthz",
    "GET /anthropic/v1/models",
    "GET /anthropic/v1/models/{model=**}",
    "GET /openapi.json",
    "GET /readyz",
    "GET /v1/models",
    "GET /v1/models/{model=**}",
    "POST /anthropic/v1/messages",
    "POST /anthropic/v1/messages/count_tokens",
    "POST /api/v1/auth/session",
    "POST /api/v1/knowledge_bases/{knowledge_base_id}/documents",
    "POST /v1/chat/completions",
    "POST /v1/embeddings",
}


async def test_every_binding_of_the_contracts_is_routed_to_its_method() -> None:
    async with running_edge() as under_test:
        for binding in bindings():
            path = Template.parse(binding.template).fill(dict.fromkeys(_variables(binding.template), "x"))
            found = under_test.edge.routes.find(binding.verb, path)
            assert found is not None, binding.template
            endpoint = found[0].endpoints[binding.verb]
            assert isinstance(endpoint, UnaryEndpoint | StreamEndpoint)
            assert endpoint.binding == binding


async def test_every_other_route_is_on_the_list_of_handwritten_ones() -> None:
    async with running_edge() as under_test:
        found = {
            f"{verb} {target.template.text}"
            for target in under_test.edge.routes
            for verb, endpoint in target.endpoints.items()
            if not isinstance(endpoint, UnaryEndpoint | StreamEndpoint)
        }
        assert {route for route in found if " /web/" not in route and not route.startswith("HEAD ")} == HANDWRITTEN


def test_every_method_with_a_binding_is_reachable_and_every_stream_says_how() -> None:
    bound = {binding.contract.method.full_name for binding in bindings()}
    streams = {name for name, contract in contracts().items() if contract.method.server_streaming and name in bound}

    assert bound
    assert all(contracts()[name].event_stream is not None for name in streams)


async def test_every_route_that_is_not_public_needs_a_credential() -> None:
    async with running_edge() as under_test:
        for binding in bindings():
            if binding.contract.policy.is_public:
                continue
            path = Template.parse(binding.template).fill(dict.fromkeys(_variables(binding.template), "x"))
            response = await under_test.client.request(binding.verb, path)
            assert (response.status_code, response.json()["reason"]) == (401, "CREDENTIALS_INVALID"), path


def _variables(template: str) -> tuple[str, ...]:
    return Template.parse(template).variables
