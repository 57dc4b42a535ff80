"""The dashboards of what Parley depends on and of what it is made of: providers, and processes."""

from typing import Final

from dev.observe.panels import Board, Panel, Query, one, quantiles, rates

_PROCESSES: Final = '{job=~"edge|auth|conversation|conversation-worker|retrieval|retrieval-worker|inference"}'

PROVIDERS: Final = Board(
    name="providers",
    title="Providers",
    description="Models and who serves them: errors, speed, tokens, money.",
    panels=(
        Panel(
            title="Answers",
            description="Attempts per second that came to their end.",
            unit="ops",
            queries=rates("parley_inference_answers_total", "provider"),
        ),
        Panel(
            title="Failed attempts by kind",
            description="Per second; rate_limited and overloaded are theirs, key_refused is the operator's.",
            unit="ops",
            queries=one(
                "sum by (provider, kind) (rate(parley_inference_provider_errors_total[$__rate_interval]))",
                "{{provider}} {{kind}}",
            ),
            is_quiet=True,
        ),
        Panel(
            title="Time to the first token",
            description="From the start of an attempt; what one in twenty exceeds.",
            unit="s",
            queries=quantiles("parley_inference_first_token_seconds", by="model"),
        ),
        Panel(
            title="Time to the whole answer",
            description="From the start of an attempt; what one in twenty exceeds.",
            unit="s",
            queries=quantiles("parley_inference_answer_seconds", by="model"),
        ),
        Panel(
            title="Tokens by kind",
            description="Per second, as providers count them.",
            unit="ops",
            queries=rates("parley_inference_tokens_total", "kind"),
        ),
        Panel(
            title="Cost",
            description="US dollars per hour, of calls with a known price.",
            unit="currencyUSD",
            queries=one(
                "sum by (provider) (rate(parley_inference_cost_micros_total[$__rate_interval])) * 3600 / 1e6",
                "{{provider}}",
            ),
            is_quiet=True,
        ),
        Panel(
            title="Circuits",
            description="0 closed, 0.5 half open, 1 open: the target is left alone.",
            unit="short",
            queries=one("max by (provider, model) (parley_inference_circuit_state_ratio)", "{{provider}} {{model}}"),
        ),
        Panel(
            title="Keys that cool down",
            description="How much longer a key is left alone.",
            unit="s",
            queries=one("max by (provider, key) (parley_inference_key_cooling_seconds)", "{{provider}} {{key}}"),
        ),
        Panel(
            title="Switches and repeats",
            description="Per second: another model went on, or the same one was asked again.",
            unit="ops",
            queries=(
                Query(
                    "sum by (from_provider, to_provider) "
                    "(rate(parley_inference_provider_switches_total[$__rate_interval]))",
                    "{{from_provider}} → {{to_provider}}",
                ),
                Query(
                    "sum by (provider) (rate(parley_inference_repeats_total[$__rate_interval]))", "{{provider}} again"
                ),
            ),
            is_quiet=True,
        ),
        Panel(
            title="Answers of the cache",
            description="Calls of routes with a cache, by where their answer came from.",
            unit="ops",
            queries=rates("parley_inference_cache_calls_total", "result"),
            is_quiet=True,
        ),
        Panel(
            title="Reservations",
            description="Attempts before their call: held for, free, or refused.",
            unit="ops",
            queries=rates("parley_inference_reservations_total", "outcome"),
        ),
        Panel(
            title="Lines of the ledger that wait",
            description="Calls that are not yet booked; they are booked within a second while PostgreSQL is there.",
            unit="short",
            queries=one("sum(parley_inference_ledger_pending_count)", "lines"),
        ),
        Panel(
            title="Batches that have not ended",
            description="Of all organizations.",
            unit="short",
            queries=one("max(parley_inference_batches_open_count)", "batches"),
        ),
        Panel(
            title="Age of the oldest batch",
            description="Of those that have not ended; one that is not answered in two days fails.",
            unit="s",
            queries=one("max(parley_inference_batches_oldest_seconds)", "oldest"),
        ),
    ),
)

PROCESSES: Final = Board(
    name="processes",
    title="Processes",
    description="Utilization, saturation and errors of each process, and what retrieval holds in memory.",
    panels=(
        Panel(
            title="Processor",
            description="Cores in use. A process is one event loop: at 1 it is full.",
            unit="short",
            queries=one(
                f"rate(process_cpu_seconds_total{_PROCESSES}[$__rate_interval])",
                "{{job}} {{instance}}",
            ),
        ),
        Panel(
            title="Memory",
            description="Resident.",
            unit="bytes",
            queries=one(f"process_resident_memory_bytes{_PROCESSES}", "{{job}} {{instance}}"),
        ),
        Panel(
            title="Event loop lag",
            description="What one timer in a hundred is late by; past a quarter of a second people notice.",
            unit="s",
            queries=one(
                "histogram_quantile(0.99, sum by (job, instance, le) "
                "(rate(parley_mesh_event_loop_lag_seconds_bucket[$__rate_interval])))",
                "{{job}} {{instance}}",
            ),
        ),
        Panel(
            title="File descriptors",
            description="Share of what the process may open; a stream is one.",
            unit="percentunit",
            queries=one(f"process_open_fds{_PROCESSES} / process_max_fds", "{{job}} {{instance}}"),
        ),
        Panel(
            title="Background loops",
            description="That run now.",
            unit="short",
            queries=one("sum by (loop) (parley_mesh_loop_running_count)", "{{loop}}"),
        ),
        Panel(
            title="Loops that were started again",
            description="Per second; each has its error in the log.",
            unit="ops",
            queries=rates("parley_mesh_loop_restarts_total", "loop"),
        ),
        Panel(
            title="Jobs in threads",
            description="That run or wait, of bounded executors; a full one refuses.",
            unit="short",
            queries=one("sum by (job, executor) (parley_mesh_executor_queued_count)", "{{job}} {{executor}}"),
        ),
        Panel(
            title="Garbage collections",
            description="Of the oldest generation, per second.",
            unit="ops",
            queries=rates("python_gc_collections_total", "job", selector='{generation="2"}'),
        ),
        Panel(
            title="Indexes in memory",
            description="Of all knowledge bases that a replica of retrieval has loaded.",
            unit="bytes",
            queries=one("parley_retrieval_index_bytes", "{{instance}}"),
        ),
        Panel(
            title="Documents",
            description="By how their processing ended, per second.",
            unit="ops",
            queries=rates("parley_retrieval_documents_total", "outcome"),
        ),
        Panel(
            title="Documents that wait",
            description="For a worker, or in the hands of one; counted up to 10,000.",
            unit="short",
            queries=(Query("max(parley_retrieval_documents_pending_count)", "pending"),),
        ),
        Panel(
            title="Time to load or refresh an index",
            description="What one in twenty exceeds.",
            unit="s",
            queries=quantiles("parley_retrieval_refresh_seconds", by="kind"),
        ),
        Panel(
            title="Time until certificates expire",
            description="Of processes that have some: their own (leaf), and the first of the CAs that they trust (ca).",
            unit="s",
            queries=one(
                "min by (job, certificate) (parley_mesh_certificate_remaining_seconds)", "{{job}} {{certificate}}"
            ),
            is_quiet=True,
        ),
        Panel(
            title="Certificates that were read",
            description="Per second, by whether they are in use since; what was refused is in the log.",
            unit="ops",
            queries=rates("parley_mesh_certificate_reads_total", "outcome"),
            is_quiet=True,
        ),
        Panel(
            title="Processes that can be scraped",
            description="1 is up.",
            unit="short",
            queries=one(f"up{_PROCESSES}", "{{job}} {{instance}}"),
        ),
    ),
)
