"""Wires inference together: settings in, a running server out."""

import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from parley.inference.v1 import generation_service_pb2_grpc, model_service_pb2_grpc, provider_service_pb2_grpc
from services.inference.course import Tactics
from services.inference.generation import Generator
from services.inference.providers import names, scripted
from services.inference.providers.base import Limits, Provider
from services.inference.routes.compiling import Wishes
from services.inference.routes.shelf import Shelf
from services.inference.routes.source import RoutesError
from services.inference.routing import Router
from services.inference.servicers import GenerationServicer, ModelServicer, ProviderServicer
from services.inference.settings import Settings, SharedSettings
from services.inference.standing.outages import Outages
from services.inference.standing.outages_valkey import ValkeyOutages
from services.inference.standing.report import Reports
from services.inference.standing.standings import Standings
from services.mesh import server, tokens
from services.mesh.cli import Deployable
from services.mesh.client import open_channel
from services.mesh.clock import SYSTEM_CLOCK
from services.mesh.server import Register
from services.mesh.settings import SettingsError, load
from services.mesh.tasks import Loop
from services.mesh.tokens import internal_verifier
from services.mesh.valkey import open_valkey

AUDIENCE: Final = "inference"


async def serve(settings: Settings) -> None:
    """Serve the gRPC API until SIGTERM."""
    async with AsyncExitStack() as stack:
        auth = await stack.enter_async_context(open_channel(settings.auth_target, [tokens.CONTRACT]))
        shelf = open_shelf(settings, stack)
        valkey = await stack.enter_async_context(open_valkey(load(SharedSettings), application=AUDIENCE))
        outages = Outages(ValkeyOutages(valkey, SYSTEM_CLOCK), SYSTEM_CLOCK)
        tactics = Tactics(standings=Standings(outages))
        await server.serve(
            settings,
            servicers=wire_up(settings, shelf.router, tactics),
            verifier=internal_verifier(AUDIENCE, auth),
            loops=[*shelf.loops(), Loop("inference_outages", outages.run)],
        )


def wire_up(settings: Settings, router: Router, tactics: Tactics) -> list[Register]:
    """The servicers."""
    generator = Generator(
        router, total_s=settings.total_s, context_tokens_assumed=settings.context_tokens_assumed, tactics=tactics
    )
    reports = Reports(router, tactics.standings)
    return [
        lambda grpc_server: generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(
            GenerationServicer(generator), grpc_server
        ),
        lambda grpc_server: model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelServicer(router), grpc_server
        ),
        lambda grpc_server: provider_service_pb2_grpc.add_ProviderServiceServicer_to_server(
            ProviderServicer(reports), grpc_server
        ),
    ]


def open_shelf(settings: Settings, stack: AsyncExitStack) -> Shelf:
    """What the settings and the files say of providers; given back when `stack` is left.

    Raises:
        SettingsError: a file does not fit.
        ModelUnknown: the default or another name leads nowhere.
        ScriptError: the scripts do not fit.
    """
    path = Path(settings.providers_file) if settings.providers_file else None
    try:
        shelf = Shelf(path, wishes(settings))
    except RoutesError as error:
        raise SettingsError(str(error)) from error
    stack.push_async_callback(shelf.close)
    return shelf


def wishes(settings: Settings) -> Wishes:
    """What the environment says beside the files."""
    named = {
        "OPENAI_API_KEY": settings.openai_api_key.get_secret_value(),
        "OPENAI_BASE_URL": settings.openai_base_url,
        "ANTHROPIC_API_KEY": settings.anthropic_api_key.get_secret_value(),
        "ANTHROPIC_BASE_URL": settings.anthropic_base_url,
    }
    built_in: dict[str, Provider] = {}
    if settings.scripted:
        built_in[names.SCRIPTED] = scripted.ScriptedProvider(scripted.load(settings.scripted))
    return Wishes(
        default=settings.default_model,
        fallback=tuple(name.strip() for name in settings.fallback_models.split(",") if name.strip()),
        defaults=(f"{names.OPENAI}/{settings.openai_model}", f"{names.ANTHROPIC}/{settings.anthropic_model}"),
        limits=limits(settings),
        # Variables that are settings of their own may have come from a file or an argument instead.
        variables=lambda name: named[name] if name in named else os.environ.get(name, ""),
        built_in=built_in,
    )


def limits(settings: Settings) -> Limits:
    """Time limits of an attempt."""
    return Limits(
        connect_s=settings.connect_s,
        first_event_s=settings.first_event_s,
        stall_s=settings.stall_s,
        total_s=settings.total_s,
    )


DEPLOYABLE: Final = Deployable(name="inference", settings=Settings, serve=serve)
