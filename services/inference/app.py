"""Wires inference together: settings in, a running server out."""

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc.aio

from parley.inference.v1 import (
    batch_service_pb2_grpc,
    budget_service_pb2_grpc,
    cache_service_pb2_grpc,
    generation_service_pb2_grpc,
    model_service_pb2_grpc,
    prompt_service_pb2_grpc,
    provider_service_pb2_grpc,
    usage_service_pb2_grpc,
)
from services.inference import clients
from services.inference.batches.making import Batches
from services.inference.batches.metrics import backlog_loop
from services.inference.batches.ordinary import Ordinary
from services.inference.batches.pacing import Pace
from services.inference.batches.paying import Till
from services.inference.batches.planning import Planner
from services.inference.batches.reading import ItemReader
from services.inference.batches.runner import Runner, Steps
from services.inference.batches.store import BatchStore
from services.inference.batches.vendors import Vendors
from services.inference.cache.archive import Archive
from services.inference.cache.cached import CachedAnswers
from services.inference.cache.entries_valkey import ValkeyEntries
from services.inference.cache.flights import Flights
from services.inference.cache.purging import Purging
from services.inference.cache.semantic import Meanings
from services.inference.embedding import Embeds
from services.inference.generating.answering import Answers
from services.inference.generating.course import Tactics
from services.inference.generating.generator import Generator
from services.inference.money.books import Books
from services.inference.money.budgets import Budgets
from services.inference.money.limits import LimitBook
from services.inference.money.metered import MeteredPurse
from services.inference.money.purse import FREE, Purse
from services.inference.money.rates import SharedRates
from services.inference.money.spends import Spends
from services.inference.money.usage import UsageReports
from services.inference.prompts.examples import Examples
from services.inference.prompts.library import Library
from services.inference.prompts.lookup import PromptBook
from services.inference.prompts.preview import Previews
from services.inference.prompts.resolving import PromptAnswers
from services.inference.providers import names, scripted
from services.inference.providers.base import Limits, Provider
from services.inference.retention import BATCHES_MAX, LINES_MAX, Retention
from services.inference.routes.compiling import Wishes
from services.inference.routes.shelf import Shelf
from services.inference.routes.source import RoutesError
from services.inference.routing import Router
from services.inference.servicers import (
    BatchServicer,
    BudgetServicer,
    CacheServicer,
    GenerationServicer,
    ModelServicer,
    PromptServicer,
    ProviderServicer,
    UsageServicer,
)
from services.inference.settings import EmbeddingSettings, ServeSettings, Settings
from services.inference.standing.gauges import Gauges
from services.inference.standing.outages import Outages
from services.inference.standing.outages_valkey import ValkeyOutages
from services.inference.standing.report import Reports
from services.inference.standing.standings import Standings
from services.inference.store_postgres import PostgresStore
from services.inference.store_postgres.batches import PostgresBatches
from services.inference.store_postgres.prompts import PostgresPrompts
from services.inference.tables import SCHEMA
from services.inference.wire.batches import RequestCodec
from services.mesh import server, tokens
from services.mesh.client import open_channel
from services.mesh.clock import SYSTEM_CLOCK
from services.mesh.postgres.places import Places
from services.mesh.postgres.shards.instances import open_places
from services.mesh.server import Register
from services.mesh.settings import SettingsError
from services.mesh.tasks import Loop, periodic
from services.mesh.tokens import WorkloadTokens, internal_verifier
from services.mesh.valkey import Client, open_valkey

AUDIENCE: Final = "inference"
LAPSE_EVERY_S: Final = 5.0
"""Reservations lapse so much later at most; until then they count as reserved, which leaves no more room than spent."""
FORGET_EVERY_S: Final = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """What calls are paid from, and who tells of it; free and silent unless there is a database."""

    purse: Purse = FREE
    spends: Spends | None = None
    till: Till | None = None
    servicers: list[Register] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """What organizations keep for wishes to name."""

    book: PromptBook
    examples: Examples
    library: Library

    def loops(self) -> list[Loop]:
        """What has to run beside the server."""
        return [Loop("inference_prompts", self.book.listen)]

    def answers(self, answers: Answers) -> PromptAnswers:
        """`answers` for wishes that may name a prompt."""
        return PromptAnswers(answers, self.book, self.examples)


@dataclass(frozen=True, slots=True)
class Offline:
    """Batches: who serves them, and what has to run beside the server."""

    servicer: Register
    loops: list[Loop]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """What answers need not be made anew from."""

    archive: Archive
    flights: Flights
    meanings: Meanings


async def serve(settings: ServeSettings) -> None:
    """Serve the gRPC API until SIGTERM."""
    async with AsyncExitStack() as stack:
        auth = await stack.enter_async_context(open_channel(settings.auth_target, [tokens.CONTRACT], settings))
        shelf = open_shelf(settings, stack)
        valkey = await stack.enter_async_context(open_valkey(settings, application=AUDIENCE))
        places = await stack.enter_async_context(open_places(settings, application=AUDIENCE, service=SCHEMA))
        money = await open_money(
            settings, places, valkey, stack, allows_unpriced=lambda: shelf.router.book.allows_unpriced
        )
        embeds = await open_embeds(settings, auth, stack)
        prompts = open_prompts(places, valkey, embeds)
        cache = await open_cache(valkey, embeds, stack)
        outages = Outages(ValkeyOutages(valkey, SYSTEM_CLOCK), SYSTEM_CLOCK)
        tactics = Tactics(standings=Standings(outages))
        standing = [Loop("inference_outages", outages.run), Gauges(tactics.standings).loop()]
        answers = prompts.answers(open_answers(settings, shelf.router, tactics, money, cache))
        batches = open_batches(settings, PostgresBatches(places), shelf.router, tactics, answers, money)
        await server.serve(
            settings,
            servicers=[*wire_up(settings, shelf.router, tactics, money, prompts, cache), batches.servicer],
            verifier=internal_verifier(AUDIENCE, auth),
            loops=[*shelf.loops(), *standing, *money.loops, *prompts.loops(), *batches.loops],
        )


async def open_embeds(settings: EmbeddingSettings, auth: grpc.aio.Channel, stack: AsyncExitStack) -> Embeds | None:
    """Vectors from retrieval; None where nobody told where that is."""
    if settings.retrieval_target is None or settings.workload_secret is None:
        return None
    secret = settings.workload_secret.get_secret_value()
    retrieval = await stack.enter_async_context(open_channel(settings.retrieval_target, [clients.RETRIEVAL], settings))
    workload = WorkloadTokens(auth, workload=AUDIENCE, secret=secret)
    return clients.EmbeddingClient(retrieval, workload, timeout_s=settings.embed_s_max)


async def open_money(
    settings: ServeSettings,
    places: Places,
    valkey: Client,
    stack: AsyncExitStack,
    *,
    allows_unpriced: Callable[[], bool] = lambda: False,
) -> Money:
    """Budgets, ledger and usage on the database; no longer used when `stack` is left."""
    store, limits = PostgresStore(places), LimitBook(PostgresStore(places), valkey)
    books = Books(store, SharedRates(valkey))
    purse = await stack.enter_async_context(
        MeteredPurse(books, limits, slack_s=settings.reservation_slack_s, allows_unpriced=allows_unpriced)
    )
    budgets, reports = BudgetServicer(Budgets(store, limits)), UsageServicer(UsageReports(store))
    retention = Retention(store, "ledger lines", days=settings.ledger_days, at_once=LINES_MAX)
    return Money(
        purse=purse,
        spends=Spends(store),
        till=Till(books, limits, allows_unpriced=allows_unpriced),
        servicers=[
            lambda grpc_server: budget_service_pb2_grpc.add_BudgetServiceServicer_to_server(budgets, grpc_server),
            lambda grpc_server: usage_service_pb2_grpc.add_UsageServiceServicer_to_server(reports, grpc_server),
        ],
        loops=[
            Loop("inference_limits", limits.listen),
            Loop("inference_books", books.run, drain=books.drain),
            periodic("inference_lapses", books.lapse, every_s=LAPSE_EVERY_S),
            periodic("inference_retention", retention.forget, every_s=FORGET_EVERY_S),
        ],
    )


def open_prompts(places: Places, valkey: Client, embeds: Embeds | None) -> Prompts:
    """Prompts on the database; without `embeds` no example is nearer than another."""
    store = PostgresPrompts(places)
    book, examples = PromptBook(store, valkey), Examples(store, embeds)
    return Prompts(book=book, examples=examples, library=Library(store, book, examples))


async def open_cache(valkey: Client, embeds: Embeds | None, stack: AsyncExitStack) -> Cache:
    """Answers in Valkey; without `embeds` none goes by meaning. Running calls end when `stack` is left."""
    flights = await stack.enter_async_context(Flights())
    return Cache(archive=Archive(ValkeyEntries(valkey), SYSTEM_CLOCK), flights=flights, meanings=Meanings(embeds))


def open_answers(
    settings: Settings, router: Router, tactics: Tactics, money: Money, cache: Cache | None = None
) -> Answers:
    """What answers wishes that name no prompt; without a cache each of them anew."""
    generator = Generator(
        router,
        total_s=settings.total_s,
        context_tokens_assumed=settings.context_tokens_assumed,
        purse=money.purse,
        tactics=tactics,
    )
    if cache is None:
        return generator
    return CachedAnswers(generator, router, cache.archive, cache.flights, cache.meanings)


def open_batches(
    settings: Settings, store: BatchStore, router: Router, tactics: Tactics, answers: PromptAnswers, money: Money
) -> Offline:
    """Batches in `store`, answered by the vendors or by `answers`."""
    assert money.till is not None  # whoever has a store of batches has one of budgets
    codec, clock, till = RequestCodec(), SYSTEM_CLOCK, money.till
    pace = Pace(poll_s_min=settings.batch_poll_s, answers=settings.batch_answers)
    planner = Planner(
        router,
        answers,
        codec,
        context_tokens_assumed=settings.context_tokens_assumed,
        is_usable=lambda key_id: not tactics.standings.refused_s(key_id),
    )
    vendors = Vendors(store, planner, ItemReader(planner, codec, clock), till, pace=pace, clock=clock)
    ordinary = Ordinary(store, answers, till, codec, pace=pace, clock=clock)
    runner = Runner(store, Steps(store, vendors, ordinary, till, clock=clock), pace=pace, clock=clock)
    retention = Retention(store, "batches", days=settings.batch_days, at_once=BATCHES_MAX)
    servicer = BatchServicer(Batches(store, planner, till, codec, window_s=settings.batch_hours * 3_600))
    return Offline(
        lambda grpc_server: batch_service_pb2_grpc.add_BatchServiceServicer_to_server(servicer, grpc_server),
        [
            runner.loop(),
            backlog_loop(store, clock),
            periodic("inference_batch_retention", retention.forget, every_s=FORGET_EVERY_S),
        ],
    )


def wire_up(
    settings: Settings,
    router: Router,
    tactics: Tactics,
    money: Money | None = None,
    prompts: Prompts | None = None,
    cache: Cache | None = None,
) -> list[Register]:
    """The servicers; without money nobody counts, without prompts none is named, without a cache no answer is kept."""
    money = money or Money()
    answers = open_answers(settings, router, tactics, money, cache)
    kept: list[Register] = []
    if cache is not None:
        purges = CacheServicer(Purging(cache.archive, router))
        kept += [lambda grpc_server: cache_service_pb2_grpc.add_CacheServiceServicer_to_server(purges, grpc_server)]
    if prompts is not None:
        answers = prompts.answers(answers)
        servicer = PromptServicer(prompts.library, Previews(prompts.book, prompts.examples, router))
        kept += [lambda grpc_server: prompt_service_pb2_grpc.add_PromptServiceServicer_to_server(servicer, grpc_server)]
    reports = Reports(router, tactics.standings)
    return [
        lambda grpc_server: generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(
            GenerationServicer(answers), grpc_server
        ),
        lambda grpc_server: model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelServicer(router), grpc_server
        ),
        lambda grpc_server: provider_service_pb2_grpc.add_ProviderServiceServicer_to_server(
            ProviderServicer(reports, money.spends), grpc_server
        ),
        *money.servicers,
        *kept,
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
