"""Wires inference together: settings in, a running server out."""

from contextlib import AsyncExitStack
from typing import Final

from parley.inference.v1 import generation_service_pb2_grpc, model_service_pb2_grpc
from services.inference import catalog
from services.inference.generation import Generator
from services.inference.providers import extractive, names, scripted
from services.inference.providers.base import Limits, Provider
from services.inference.routing import Router
from services.inference.servicers import GenerationServicer, ModelServicer
from services.inference.settings import Settings
from services.mesh import server, tokens
from services.mesh.cli import Deployable
from services.mesh.client import open_channel
from services.mesh.server import Register
from services.mesh.tokens import internal_verifier

AUDIENCE: Final = "inference"


async def serve(settings: Settings) -> None:
    """Serve the gRPC API until SIGTERM."""
    async with AsyncExitStack() as stack:
        auth = await stack.enter_async_context(open_channel(settings.auth_target, [tokens.CONTRACT]))
        await server.serve(settings, servicers=wire_up(settings, stack), verifier=internal_verifier(AUDIENCE, auth))


def wire_up(settings: Settings, stack: AsyncExitStack) -> list[Register]:
    """The servicers; what they hold is given back when `stack` is left.

    Raises:
        ModelUnknown: the default or a fallback model has no configured provider.
        ScriptError: the scripts do not fit.
    """
    providers = configured_providers(settings)
    for provider in providers.values():
        stack.push_async_callback(provider.close)
    router = Router(
        providers=providers,
        catalog=catalog.load(),
        default_model=default_model(settings),
        fallback_models=[name.strip() for name in settings.fallback_models.split(",") if name.strip()],
        listed_providers=listed_providers(settings),
    )
    generator = Generator(router, limits=limits(settings), context_tokens_assumed=settings.context_tokens_assumed)
    return [
        lambda grpc_server: generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(
            GenerationServicer(generator), grpc_server
        ),
        lambda grpc_server: model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelServicer(router), grpc_server
        ),
    ]


def configured_providers(settings: Settings) -> dict[str, Provider]:
    """The providers that the settings switch on; the built-in one always is."""
    providers: dict[str, Provider] = {names.EXTRACTIVE: extractive.ExtractiveProvider()}
    openai_key = settings.openai_api_key.get_secret_value()
    if openai_key or settings.openai_base_url:
        from services.inference.providers import openai  # noqa: PLC0415 - 0.5 s and 20 MB that most starts can spare

        providers[names.OPENAI] = openai.OpenAIProvider(api_key=openai_key, base_url=settings.openai_base_url)
    anthropic_key = settings.anthropic_api_key.get_secret_value()
    if anthropic_key:
        from services.inference.providers import anthropic  # noqa: PLC0415 - 1.2 s and 50 MB, as above

        providers[names.ANTHROPIC] = anthropic.AnthropicProvider(
            api_key=anthropic_key, base_url=settings.anthropic_base_url
        )
    if settings.scripted:
        providers[names.SCRIPTED] = scripted.ScriptedProvider(scripted.load(settings.scripted))
    return providers


def default_model(settings: Settings) -> str:
    """What an empty name means."""
    if settings.default_model:
        return settings.default_model
    if settings.openai_api_key.get_secret_value():
        return f"{names.OPENAI}/{settings.openai_model}"
    if settings.anthropic_api_key.get_secret_value():
        return f"{names.ANTHROPIC}/{settings.anthropic_model}"
    return names.EXTRACTIVE


def listed_providers(settings: Settings) -> frozenset[str]:
    """Whose catalogued models are listed: a server without a key is a local one, with models of its own."""
    keys = {
        names.OPENAI: settings.openai_api_key.get_secret_value(),
        names.ANTHROPIC: settings.anthropic_api_key.get_secret_value(),
        names.EXTRACTIVE: "built in",
    }
    return frozenset(name for name, key in keys.items() if key)


def limits(settings: Settings) -> Limits:
    """Time limits of an attempt."""
    return Limits(
        connect_s=settings.connect_s,
        first_event_s=settings.first_event_s,
        stall_s=settings.stall_s,
        total_s=settings.total_s,
    )


DEPLOYABLE: Final = Deployable(name="inference", settings=Settings, serve=serve)
