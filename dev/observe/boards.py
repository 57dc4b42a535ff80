"""The eight dashboards, from what people see (edge, turns) to what processes are made of."""

from typing import Final

from dev.observe.boards_inside import PROCESSES, PROVIDERS
from dev.observe.boards_stores import POSTGRESQL, VALKEY
from dev.observe.objectives import OBJECTIVE, PERIOD, RATIO
from dev.observe.panels import Board, Panel, Query, one, quantiles, rates

_ROUTES: Final = '{route!~"healthz|readyz|metrics"}'

EDGE: Final = Board(
    name="edge",
    title="Edge",
    description="Rate, errors and duration of what clients ask for over HTTP.",
    panels=(
        Panel(
            title="Requests by status",
            description="Answers per second; 499 is a client that left.",
            unit="reqps",
            queries=rates("parley_edge_requests_total", "status", selector=_ROUTES),
        ),
        Panel(
            title="Share of server errors",
            description="Answers of 500 and above; the objective allows one in a thousand.",
            unit="percentunit",
            queries=one(
                'sum(rate(parley_edge_requests_total{status=~"5.."}[$__rate_interval])) '
                f"/ sum(rate(parley_edge_requests_total{_ROUTES}[$__rate_interval]))",
                "errors",
            ),
            is_quiet=True,
        ),
        Panel(
            title="Time to the head of the answer",
            description="All routes together. An event stream's head comes with its first event.",
            unit="s",
            queries=quantiles("parley_edge_response_start_seconds"),
        ),
        Panel(
            title="Time to the head of the answer by route",
            description="What one in twenty requests exceeds.",
            unit="s",
            queries=quantiles("parley_edge_response_start_seconds", by="route"),
        ),
        Panel(
            title="Requests by route",
            description="Answers per second of each RPC or hand-written route.",
            unit="reqps",
            queries=rates("parley_edge_requests_total", "route", selector=_ROUTES),
        ),
        Panel(
            title="Open streams and requests",
            description="Held at this moment; an edge takes 10,000 streams.",
            unit="short",
            queries=(
                Query("sum(parley_edge_streams_open_count)", "streams"),
                Query("sum(parley_edge_requests_in_flight_count)", "requests, streams included"),
            ),
        ),
        Panel(
            title="Events written to streams",
            description="Per second, merged ones counted as one.",
            unit="ops",
            queries=one("sum(rate(parley_edge_stream_events_total[$__rate_interval]))", "events"),
        ),
        Panel(
            title="Credentials exchanged at auth",
            description="By how it ended. Most requests are answered from what the edge remembers for two seconds.",
            unit="ops",
            queries=rates("parley_edge_token_exchanges_total", "outcome"),
        ),
        Panel(
            title="Age of what the edge knows of a caller",
            description="For as long a revoked credential may still be let in here; never above two seconds.",
            unit="s",
            queries=quantiles("parley_edge_identity_age_seconds"),
        ),
        Panel(
            title="Logins",
            description="By outcome. Many refusals are somebody who guesses passwords.",
            unit="ops",
            queries=rates("parley_auth_logins_total", "outcome"),
            is_quiet=True,
        ),
    ),
)

GRPC: Final = Board(
    name="grpc",
    title="gRPC",
    description="Who calls whom, how often, how long it takes and why it fails.",
    panels=(
        Panel(
            title="Calls by caller and service",
            description="Per second. `none` is a call without one of our own workloads behind it.",
            unit="reqps",
            queries=one(
                "sum by (caller, service) (rate(parley_mesh_rpc_calls_total[$__rate_interval]))",
                "{{caller}} → {{service}}",
            ),
        ),
        Panel(
            title="Calls that failed by caller and service",
            description="Per second, by gRPC code. NOT_FOUND and the like are answers, UNAVAILABLE is not.",
            unit="reqps",
            queries=one(
                'sum by (caller, service, code) (rate(parley_mesh_rpc_calls_total{code!="OK"}[$__rate_interval]))',
                "{{caller}} → {{service}} {{code}}",
            ),
            is_quiet=True,
        ),
        Panel(
            title="Duration by method",
            description="What one in twenty calls exceeds, streams included: those last as long as somebody watches.",
            unit="s",
            queries=quantiles("parley_mesh_rpc_duration_seconds", by="method"),
        ),
        Panel(
            title="Calls in flight",
            description="By method, streams included.",
            unit="short",
            queries=one("sum by (method) (parley_mesh_rpc_in_flight_count)", "{{method}}"),
        ),
        Panel(
            title="Errors by reason",
            description="Per second, in the words of docs/errors.md.",
            unit="ops",
            queries=rates("parley_mesh_rpc_errors_total", "reason"),
            is_quiet=True,
        ),
        Panel(
            title="Messages sent",
            description="Responses per second; more than one per call where it streams.",
            unit="ops",
            queries=rates("parley_mesh_rpc_messages_total", "job"),
        ),
        Panel(
            title="Searches",
            description="By mode and decision: whether passages were worth showing to a model.",
            unit="ops",
            queries=one(
                "sum by (mode, decision) (rate(parley_retrieval_searches_total[$__rate_interval]))",
                "{{mode}}: {{decision}}",
            ),
        ),
        Panel(
            title="Items sent together",
            description="How much a group commit merges; it grows with load, and with it falls the price of each item.",
            unit="short",
            queries=quantiles("parley_mesh_groupcommit_batch_items", by="writer"),
        ),
        Panel(
            title="Frames that travel together",
            description="In one message of a tunnel; it grows with load, and with it falls the price of each call.",
            unit="short",
            queries=quantiles("parley_mesh_tunnel_batch_frames"),
        ),
        Panel(
            title="Open tunnels",
            description="To each service: one of every process that calls each of its replicas, two for a moment.",
            unit="short",
            queries=one("sum by (job) (parley_mesh_tunnel_open_count)", "{{job}}"),
        ),
        Panel(
            title="Connections without a tunnel",
            description="To processes that know none, because they are older; calls cost more on them. None is usual.",
            unit="short",
            queries=one("sum by (job) (parley_mesh_tunnel_plain_count)", "{{job}}"),
        ),
        Panel(
            title="Tunnels that were lost",
            description="Per second, by who called: calls were on them, and failed or were made again.",
            unit="ops",
            queries=rates("parley_mesh_tunnel_lost_total", "job"),
        ),
    ),
)

TURNS: Final = Board(
    name="turns",
    title="Turns",
    description="The way of a question: accepted, outbox, queue, worker, first token, end.",
    panels=(
        Panel(
            title="Accepted, relayed, ended",
            description="Turns per second. In the long run all three are the same.",
            unit="ops",
            queries=(
                Query(
                    'sum(rate(parley_edge_requests_total{route="parley.conversation.v1.TurnService.CreateTurn"}'
                    "[$__rate_interval]))",
                    "asked for",
                ),
                Query("sum(rate(parley_conversation_turns_relayed_total[$__rate_interval]))", "relayed"),
                Query("sum(rate(parley_conversation_turns_ended_total[$__rate_interval]))", "ended"),
            ),
        ),
        Panel(
            title="Ends by state",
            description="Turns per second that a worker ended.",
            unit="ops",
            queries=rates("parley_conversation_turns_ended_total", "state"),
        ),
        Panel(
            title="Failures by reason",
            description="PROVIDER_… is theirs, INTERNAL, UNAVAILABLE, OVERLOADED and DEADLINE_EXCEEDED are ours.",
            unit="ops",
            queries=rates("parley_conversation_turns_failed_total", "reason"),
            is_quiet=True,
        ),
        Panel(
            title="Time until the model is asked",
            description="From acceptance: everything that is ours of the wait for the first token.",
            unit="s",
            queries=quantiles("parley_conversation_answer_start_seconds"),
        ),
        Panel(
            title="Time to the first text",
            description="From acceptance, with the provider's part of it.",
            unit="s",
            queries=quantiles("parley_conversation_first_text_seconds"),
        ),
        Panel(
            title="Wait in the queue",
            description="From acceptance to the first claim by a worker.",
            unit="s",
            queries=quantiles("parley_conversation_queue_wait_seconds"),
        ),
        Panel(
            title="Turns that have not ended",
            description="In PostgreSQL, and those that workers hold in memory.",
            unit="short",
            queries=(
                Query("max by (state) (parley_conversation_turns_active_count)", "{{state}}"),
                Query("sum(parley_conversation_turns_running_count)", "held by workers"),
            ),
        ),
        Panel(
            title="Queue",
            description="Messages that wait or were received and not claimed, and those that nobody can handle.",
            unit="short",
            queries=(
                Query("max(parley_conversation_queue_depth_messages)", "waiting"),
                Query("max(parley_conversation_queue_dead_messages)", "dead letters"),
            ),
        ),
        Panel(
            title="Oldest in outbox and queue, and overdue",
            description="Ages; overdue is how far the latest turn is past its deadline.",
            unit="s",
            queries=(
                Query("max(parley_conversation_outbox_oldest_age_seconds)", "outbox"),
                Query("max(parley_conversation_queue_oldest_age_seconds)", "queue"),
                Query("max(parley_conversation_turns_overdue_seconds)", "overdue"),
            ),
        ),
        Panel(
            title="Length of an attempt",
            description="From claim to end.",
            unit="s",
            queries=quantiles("parley_conversation_turn_seconds"),
        ),
        Panel(
            title="Repairs",
            description="Turns per second: published again, taken over, left by a worker, or closed without one.",
            unit="ops",
            queries=(
                *rates("parley_conversation_turns_republished_total", "cause"),
                Query("sum(rate(parley_conversation_recoveries_total[$__rate_interval]))", "taken over"),
                Query(
                    "sum by (cause) (rate(parley_conversation_turns_left_total[$__rate_interval]))", "left: {{cause}}"
                ),
                Query(
                    "sum by (cause) (rate(parley_conversation_turns_closed_total[$__rate_interval]))",
                    "closed: {{cause}}",
                ),
            ),
            is_quiet=True,
        ),
        Panel(
            title="Watchers and feeds",
            description="Open streams of turn events, and the turns whose journals are followed for them.",
            unit="short",
            queries=(
                Query("sum(parley_conversation_watchers_count)", "watchers"),
                Query("sum(parley_conversation_feeds_count)", "feeds"),
            ),
        ),
    ),
)

SLO: Final = Board(
    name="slo",
    title="Objectives",
    description="What is promised over 28 days, and how fast it is being used up.",
    panels=(
        Panel(
            title="Error budget left",
            description="Of 28 days: 100 % is untouched, 0 is spent, and below it more than that.",
            unit="percentunit",
            is_signed=True,
            queries=one(f"1 - {RATIO}{PERIOD} / on (slo, namespace) (1 - {OBJECTIVE})", "{{slo}}"),
        ),
        Panel(
            title="Burn rate of the last hour",
            description="1 spends the budget in exactly 28 days; 14.4 wakes somebody.",
            unit="short",
            queries=one(f"{RATIO}1h / on (slo, namespace) (1 - {OBJECTIVE})", "{{slo}}"),
        ),
        Panel(
            title="Burn rate of the last six hours",
            description="6 wakes somebody.",
            unit="short",
            queries=one(f"{RATIO}6h / on (slo, namespace) (1 - {OBJECTIVE})", "{{slo}}"),
        ),
        Panel(
            title="Share of bad events",
            description="Of the last five minutes.",
            unit="percentunit",
            queries=one(f"{RATIO}5m", "{{slo}}"),
        ),
        Panel(
            title="Objectives",
            description="The share of events that has to be good.",
            unit="percentunit",
            queries=one(OBJECTIVE, "{{slo}}"),
        ),
        Panel(
            title="Alerts that fire",
            description="By severity; the watchdog always does.",
            unit="short",
            queries=one('count by (alertname, severity) (ALERTS{alertstate="firing"})', "{{severity}} {{alertname}}"),
        ),
    ),
)

BOARDS: Final = (EDGE, GRPC, TURNS, PROVIDERS, POSTGRESQL, VALKEY, PROCESSES, SLO)
