"""The dashboards of what Parley stores in, as its processes see it."""

from typing import Final

from dev.observe.panels import Board, Panel, one, quantiles, rates

POSTGRESQL: Final = Board(
    name="postgresql",
    title="PostgreSQL",
    description="PostgreSQL as Parley sees it; its own figures come from its own exporter.",
    panels=(
        Panel(
            title="Transactions",
            description="Units of work per second by kind and outcome.",
            unit="ops",
            queries=one(
                "sum by (job, kind, outcome) (rate(parley_mesh_database_transactions_total[$__rate_interval]))",
                "{{job}} {{kind}} {{outcome}}",
            ),
        ),
        Panel(
            title="Duration by kind",
            description="From the wish for a connection to the commit; what one in twenty exceeds.",
            unit="s",
            queries=quantiles("parley_mesh_database_transaction_seconds", by="kind"),
        ),
        Panel(
            title="Connections in use",
            description="Share of each process's pool.",
            unit="percentunit",
            queries=one(
                'parley_mesh_database_connections_count{which="used"} / ignoring (which) '
                '(parley_mesh_database_connections_count{which="max"} > 0)',
                "{{job}} {{instance}}",
            ),
        ),
        Panel(
            title="Whether it answers",
            description="1 where the last look reached PostgreSQL.",
            unit="short",
            queries=one('min by (job) (parley_mesh_check_passed_ratio{check="database"})', "{{job}}"),
        ),
        Panel(
            title="Connections",
            description="Opened at most, and used, of all processes together.",
            unit="short",
            queries=one("sum by (which) (parley_mesh_database_connections_count)", "{{which}}"),
        ),
        Panel(
            title="Failed units of work",
            description="Per second; a conflict that was repeated counts too.",
            unit="ops",
            queries=rates("parley_mesh_database_transactions_total", "job", selector='{outcome="failed"}'),
            is_quiet=True,
        ),
        Panel(
            title="Reads that replicas may answer",
            description="Per second: by a replica, by the primary as none was far enough, or asked of both.",
            unit="ops",
            queries=rates("parley_mesh_replica_reads_total", "where"),
            is_quiet=True,
        ),
        Panel(
            title="Age of the data of replicas",
            description="As the process sees it that sees the oldest; infinite, and no line, where one is left out.",
            unit="s",
            queries=one("max by (replica) (parley_mesh_replica_lag_seconds)", "{{replica}}"),
            is_quiet=True,
        ),
        Panel(
            title="Processes that leave a replica out",
            description="It is away, too far behind for long, or follows something else than its primary.",
            unit="short",
            queries=one("count by (replica) (parley_mesh_replica_lag_seconds == inf)", "{{replica}}"),
            is_quiet=True,
        ),
        Panel(
            title="Shards by instance",
            description="Of 64 of each service, where there are several instances.",
            unit="short",
            queries=one("max by (job, database_instance) (parley_mesh_shards_count)", "{{job}} {{database_instance}}"),
            is_quiet=True,
        ),
        Panel(
            title="Waits for shards that move",
            description="Of those who wanted to write while one was handed over.",
            unit="s",
            queries=quantiles("parley_mesh_shard_wait_seconds"),
            is_quiet=True,
        ),
    ),
)

VALKEY: Final = Board(
    name="valkey",
    title="Valkey and Kafka",
    description="Queue, journal and caches as Parley sees them.",
    panels=(
        Panel(
            title="Commands",
            description="Per second by what came of them.",
            unit="ops",
            queries=one(
                "sum by (job, outcome) (rate(parley_mesh_valkey_commands_total[$__rate_interval]))",
                "{{job}} {{outcome}}",
            ),
        ),
        Panel(
            title="Depth of the queue",
            description="Turns that wait or were received and not claimed, on either broker.",
            unit="short",
            queries=one("max(parley_conversation_queue_depth_messages)", "messages"),
        ),
        Panel(
            title="Look-ups in local caches",
            description="Per second by cache and outcome.",
            unit="ops",
            queries=one(
                "sum by (cache, outcome) (rate(parley_mesh_cache_lookups_total[$__rate_interval]))",
                "{{cache}} {{outcome}}",
            ),
        ),
        Panel(
            title="Histories",
            description="Branches needed for prompts, by where they came from.",
            unit="ops",
            queries=rates("parley_conversation_history_lookups_total", "source"),
        ),
        Panel(
            title="Vectors of questions",
            description="By where they were found: in the process, in Valkey, or nowhere.",
            unit="ops",
            queries=rates("parley_retrieval_vector_lookups_total", "found"),
        ),
        Panel(
            title="Kafka partitions by worker",
            description="Empty where Valkey is the queue.",
            unit="short",
            queries=one("parley_conversation_queue_partitions_count", "{{instance}}"),
            is_quiet=True,
        ),
    ),
)
