"""Wires conversation together: settings in, a running API or worker out."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from parley.conversation.v1 import conversation_service_pb2_grpc, turn_service_pb2_grpc
from services.conversation import clients, tables
from services.conversation.asking.conversations import Conversations, FeedbackBook, Messages
from services.conversation.asking.feeds import TAIL_WAIT_S, Feeds
from services.conversation.asking.references import References
from services.conversation.asking.turns import Neighbours, TurnLimits, Turns
from services.conversation.asking.watching import Watching
from services.conversation.history.branches import History
from services.conversation.history.cache_valkey import ValkeyHistoryCache
from services.conversation.history.recall import Recall
from services.conversation.history.summaries import Measure, Summaries
from services.conversation.journal.port import Journal
from services.conversation.journal.valkey import ValkeyJournal
from services.conversation.journal.valkey_tail import ValkeyTail
from services.conversation.ports import KnowledgeBases, Prompts, Writer
from services.conversation.queue.gauges import QueueGauges
from services.conversation.queue.port import Queue
from services.conversation.queue.valkey import ValkeyQueue
from services.conversation.running.backlog import BacklogGauges
from services.conversation.running.generation import Sources
from services.conversation.running.leftovers import Sweeper
from services.conversation.running.reaper import Reaper, ReaperPace
from services.conversation.running.recovery import Recovery
from services.conversation.running.relay import Relay, Relays
from services.conversation.running.run import Timing
from services.conversation.running.stops import Signals, Stops
from services.conversation.running.stops_valkey import ValkeyStops
from services.conversation.running.worker import RECEIVE_WAIT_S, Backends, Pace, Worker
from services.conversation.servicers import ConversationServicer, FeedbackServicer, MessageServicer, TurnServicer
from services.conversation.settings import ApiSettings, QueueSettings, WorkerSettings
from services.conversation.store_postgres import PostgresStore
from services.conversation.store_postgres.handling import Handling
from services.conversation.store_postgres.intake import Intake
from services.conversation.wire.events import EventCodec
from services.mesh import server, tokens
from services.mesh.client import open_channel
from services.mesh.debug_http import Check
from services.mesh.ids import new_id
from services.mesh.postgres.migrate import Migrations
from services.mesh.postgres.places import Places
from services.mesh.postgres.shards.instances import open_places
from services.mesh.server import Register
from services.mesh.tasks import Loop, periodic
from services.mesh.tokens import WorkloadTokens, internal_verifier
from services.mesh.valkey import Client, open_valkey

AUDIENCE: Final = "conversation"
KEY_PREFIX: Final = "parley:conversation"
BLOCKING_SLACK_S: Final = 3.0
"""A connection that waits for news gives up this much after the server should have answered."""
SWEEP_EVERY_S: Final = 10.0
"""Between looks for what deleted conversations left."""
MIGRATIONS: Final = Migrations(tables.SCHEMA, tables.metadata, Path(__file__).parent / "migrations")


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """What API and worker share."""

    places: Places
    valkey: Client
    store: PostgresStore
    queue: Queue
    journal: ValkeyJournal
    tail: ValkeyTail
    recovery: Recovery
    reapers: Sequence[Reaper]
    sweepers: Sequence[Sweeper]
    stops: Stops


async def serve(config: ApiSettings) -> None:
    """Serve the gRPC API until SIGTERM."""
    async with (
        opened(config) as core,
        Intake(core.places, has_replicas=bool(config.database_replicas)) as intake,
        open_channel(config.auth_target, [tokens.CONTRACT], config) as auth,
        open_channel(config.retrieval_target, [clients.KNOWLEDGE_BASES], config) as retrieval,
        open_channel(config.inference_target, [clients.PROMPTS], config) as inference,
    ):
        workload = WorkloadTokens(auth, workload=AUDIENCE, secret=config.workload_secret.get_secret_value())
        registers, loops = api(
            config,
            replace(core, store=PostgresStore(core.places, intake=intake)),
            clients.KnowledgeBaseClient(retrieval, workload),
            clients.PromptClient(inference, workload),
        )
        await server.serve(
            config,
            servicers=registers,
            verifier=internal_verifier(AUDIENCE, auth),
            loops=[*loops, *common_loops(config, core)],
            checks=[Check("database", core.places.ping)],
        )


async def work(config: WorkerSettings) -> None:
    """Answer turns until SIGTERM."""
    async with opened(config) as shared, AsyncExitStack() as stack:
        handling = await stack.enter_async_context(Handling(shared.places))
        store = PostgresStore(shared.places, handling=handling)
        core = replace(shared, store=store, recovery=recovery_of(config, store, shared.journal))
        auth = await stack.enter_async_context(open_channel(config.auth_target, [tokens.CONTRACT], config))
        retrieval = await stack.enter_async_context(open_channel(config.retrieval_target, [clients.RETRIEVAL], config))
        inference = await stack.enter_async_context(open_channel(config.inference_target, [clients.INFERENCE], config))
        workload = WorkloadTokens(auth, workload=AUDIENCE, secret=config.workload_secret.get_secret_value())
        writer = clients.InferenceClient(inference, workload, silence_s_max=config.silence_s_max)
        sources = Sources(
            history=History(
                core.store,
                ValkeyHistoryCache(core.valkey, prefix=KEY_PREFIX, keep_s=config.history_keep_s),
                messages_max=config.history_messages_max,
            ),
            retrieval=clients.RetrievalClient(retrieval, workload, timeout_s=config.search_s_max),
            inference=writer,
            passages_max=config.passages_max,
            prompt_tokens_max=config.prompt_tokens_max,
            recall=Recall(
                core.store,
                messages_max=config.history_messages_max,
                above_tokens=config.summary_above_tokens if config.makes_summaries else None,
            ),
        )
        loops: list[Loop] = []
        if config.makes_summaries:
            summaries = summaries_of(config, core, writer)
            sources = replace(sources, ended=summaries.ended)
            loops.append(Loop("summaries", summaries.run))
        relay = relays_of(config, core)
        worker = worker_of(config, core, sources, relay)
        await server.run_worker(
            config,
            loops=[
                Loop("turns", worker.run, drain=worker.drain),
                Loop("relay", relay.run),
                *loops,
                *common_loops(config, core),
            ],
            checks=[Check("database", core.places.ping)],
        )


@asynccontextmanager
async def opened(config: ApiSettings) -> AsyncIterator[Core]:
    """Connections, and what rests on them."""
    async with AsyncExitStack() as stack:
        places = await stack.enter_async_context(open_places(config, application=AUDIENCE, service=tables.SCHEMA))
        valkey = await stack.enter_async_context(open_valkey(config, application=AUDIENCE))
        wait_s = max(TAIL_WAIT_S, RECEIVE_WAIT_S) + BLOCKING_SLACK_S
        waiting = await stack.enter_async_context(
            open_valkey(config, application=f"{AUDIENCE}-waiting", timeout_s=wait_s)
        )
        store, codec = PostgresStore(places), EventCodec()
        queue = await stack.enter_async_context(open_queue(config, valkey, waiting))
        journal = ValkeyJournal(valkey, prefix=KEY_PREFIX, codec=codec)
        recovery = recovery_of(config, store, journal)
        pace = ReaperPace(
            lease_s=config.lease_s,
            attempts_max=config.attempts_max,
            republish_after_s=config.republish_after_s,
            request_keep_s=config.request_keep_s,
        )
        yield Core(
            places=places,
            valkey=valkey,
            store=store,
            queue=queue,
            journal=journal,
            tail=ValkeyTail(waiting, prefix=KEY_PREFIX, codec=codec),
            recovery=recovery,
            reapers=[Reaper(PostgresStore(alone), queue, recovery, pace) for alone in places.alone()],
            # They only ever drop histories.
            sweepers=[
                Sweeper(PostgresStore(alone), ValkeyHistoryCache(valkey, prefix=KEY_PREFIX, keep_s=1), journal)
                for alone in places.alone()
            ],
            stops=ValkeyStops(valkey, waiting, prefix=KEY_PREFIX),
        )


def recovery_of(config: ApiSettings, store: PostgresStore, journal: Journal) -> Recovery:
    """What takes over turns on a store."""
    return Recovery(store, journal, lease_s=config.lease_s, journal_keep_s=config.journal_keep_s)


@asynccontextmanager
async def open_queue(config: QueueSettings, valkey: Client, waiting: Client) -> AsyncIterator[Queue]:
    """The queue that the settings choose."""
    if config.queue == "valkey":
        yield ValkeyQueue(valkey, waiting, prefix=KEY_PREFIX)
        return
    # Loaded where it is chosen: nobody else needs the package, nor the time to load its C library.
    from services.conversation.queue.kafka.cluster import KafkaOptions  # noqa: PLC0415 - see above
    from services.conversation.queue.kafka.queue import open_kafka_queue  # noqa: PLC0415 - see above

    options = KafkaOptions(
        bootstrap=config.kafka_bootstrap,
        options={name: value.get_secret_value() for name, value in config.kafka_options.items()},
        topic=f"{config.kafka_prefix}.turns",
        group=f"{config.kafka_prefix}.workers",
        session_s=config.kafka_session_s,
    )
    async with open_kafka_queue(options) as queue:
        yield queue


def api(
    config: ApiSettings, core: Core, knowledge_bases: KnowledgeBases, prompts: Prompts
) -> tuple[list[Register], list[Loop]]:
    """The servicers, and the loops that they need."""
    store, journal = core.store, core.journal
    # The API only ever drops histories, so it needs no bounds of its own for them.
    history = History(store, ValkeyHistoryCache(core.valkey, prefix=KEY_PREFIX, keep_s=1), messages_max=0)
    relay = relays_of(config, core)
    feeds = Feeds(core.tail, store, poll_s=config.poll_s, is_whole=not core.valkey.is_cluster)
    references = References(knowledge_bases, prompts, store)
    signals = Signals(relay, core.stops)
    turns = Turns(
        store,
        Neighbours(signals, core.recovery, references, feeds),
        limits=TurnLimits(lease_s=config.lease_s, turn_s_max=config.turn_s_max),
        new_id=new_id,
    )
    watching = Watching(store, journal, feeds, poll_s=config.poll_s)
    conversations = Conversations(store, journal, history, references, signals, new_id=new_id)
    services = conversation_service_pb2_grpc
    registers: list[Register] = [
        lambda grpc_server: services.add_ConversationServiceServicer_to_server(
            ConversationServicer(conversations), grpc_server
        ),
        lambda grpc_server: services.add_MessageServiceServicer_to_server(
            MessageServicer(Messages(store, store)), grpc_server
        ),
        lambda grpc_server: services.add_FeedbackServiceServicer_to_server(
            FeedbackServicer(FeedbackBook(store)), grpc_server
        ),
        lambda grpc_server: turn_service_pb2_grpc.add_TurnServiceServicer_to_server(
            TurnServicer(turns, watching), grpc_server
        ),
    ]
    return registers, [Loop("relay", relay.run), Loop("feeds", feeds.run)]


def relays_of(config: ApiSettings, core: Core) -> Relays:
    """What moves turns to the queue, from each PostgreSQL instance by itself."""
    stores = [PostgresStore(alone) for alone in core.places.alone()]
    return Relays([Relay(store, core.queue, every_s=config.relay_every_s) for store in stores])


def worker_of(config: WorkerSettings, core: Core, sources: Sources, relay: Relays) -> Worker:
    """The worker on its backends."""
    return Worker(
        Backends(
            store=core.store,
            queue=core.queue,
            journal=core.journal,
            recovery=core.recovery,
            hint=relay.hint,
            stops=core.stops,
        ),
        sources,
        timing=Timing(
            lease_s=config.lease_s,
            heartbeat_s=config.heartbeat_s,
            fold_every_s=config.fold_every_s,
            attempts_max=config.attempts_max,
            backoff_s=config.backoff_s,
        ),
        pace=Pace(
            concurrency=config.concurrency,
            redeliver_after_s=config.redeliver_after_s,
            republish_after_s=config.republish_after_s,
            cancel_poll_s=config.cancel_poll_s,
            # Handing back takes time too, and all of it has to fit into the drain.
            hand_back_after_s=min(config.hand_back_after_s, config.drain_s / 2),
        ),
    )


def summaries_of(config: WorkerSettings, core: Core, writer: Writer) -> Summaries:
    """What makes summaries of long histories."""
    measure = Measure(
        model=config.summary_model,
        above_tokens=config.summary_above_tokens,
        keep_tokens=config.summary_keep_tokens,
        tokens_max=config.summary_tokens_max,
        input_tokens_max=config.summary_input_tokens_max,
        time_s=config.summary_s_max,
        messages_max=config.history_messages_max,
    )
    return Summaries(core.store, core.store, writer, measure, new_id=new_id)


def common_loops(config: ApiSettings, core: Core) -> list[Loop]:
    """Loops that both kinds of process run, so that one of either is enough.

    Those that find work go through one PostgreSQL instance each: one that is away keeps nobody else's turns waiting.
    """
    return [
        *(periodic("reaper", reaper.reap, every_s=config.reap_every_s) for reaper in core.reapers),
        *(periodic("sweeper", sweeper.sweep, every_s=SWEEP_EVERY_S) for sweeper in core.sweepers),
        periodic("queue_gauges", QueueGauges(core.queue).measure, every_s=config.queue_measure_every_s),
        periodic("backlog_gauges", BacklogGauges(core.store).measure, every_s=config.queue_measure_every_s),
    ]
