"""Logs, metrics and traces of a process: one canonical line per call, metrics by one naming rule, spans by OTLP.

Loggers and metrics are module-level constants of whoever emits them; only the outlet is configured, once, at start.
"""

import logging
import re
import sys
from collections.abc import MutableMapping, Sequence
from typing import Any, ClassVar, Final, cast

import orjson
import structlog
from opentelemetry import trace
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from structlog.typing import FilteringBoundLogger

from services.mesh import context
from services.mesh.settings import MASK

REGISTRY: Final = CollectorRegistry(auto_describe=True)
"""What /metrics shows. Not the library's default one, so that nothing registers itself unnamed."""
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

LATENCY_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LOG_TEXT_MAX: Final = 4_096

# What these tell below the level is told better by our own canonical lines, or is noise of a single task switch.
_QUIETER: Final = {
    "alembic": logging.WARNING,
    "asyncio": logging.INFO,
    "grpc": logging.INFO,
    "httpx": logging.WARNING,
    "httpx2": logging.WARNING,
}
_METRIC_NAME: Final = re.compile(r"parley_[a-z]+(_[a-z0-9]+)+")
_SECRET_KEYS: Final = frozenset({"authorization", "password", "secret", "token", "api_key", "cookie"})


def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
    """A counter `parley_<service>_<noun>_<unit>`; the library appends `_total`. Labels come from closed sets."""
    return Counter(_checked(name), text, labels, registry=REGISTRY)


def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
    """A gauge `parley_<service>_<noun>_<unit>`."""
    return Gauge(_checked(name), text, labels, registry=REGISTRY)


def histogram(
    name: str, text: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = LATENCY_BUCKETS_S
) -> Histogram:
    """A histogram `parley_<service>_<noun>_<unit>`; buckets are in that unit."""
    return Histogram(_checked(name), text, labels, registry=REGISTRY, buckets=buckets)


def logger(name: str) -> FilteringBoundLogger:
    """The logger of a module; event names are constants, everything else is a keyword."""
    return cast("FilteringBoundLogger", _Logger(f"parley.{name}"))  # it has what that has


def configure_logging(service: str, *, level: str, form: str) -> None:
    """Sends all logs, our own and the libraries', to stderr in one form.

    Our own do not pass through the standard library's logging, which would triple the price of a line.

    Args:
        service: name that every line carries.
        level: least severe level.
        form: `json` or `text`.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _Ids(service),
    ]
    last: list[structlog.typing.Processor] = [_mask_and_bound]
    if form == "json":
        last = [structlog.processors.format_exc_info, *last, structlog.processors.JSONRenderer(serializer=_json)]
    else:
        last.append(
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                exception_formatter=structlog.dev.plain_traceback,  # the default shows local variables, secrets too
            )
        )
    least = logging.getLevelNamesMapping()[level]
    _Logger.outlet = [*shared, *last]
    structlog.configure(
        processors=_Logger.outlet,
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(least),
        cache_logger_on_first_use=False,  # a test that captures logs must still find them
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _name_source],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(least)
    for name, quieter in _QUIETER.items():
        logging.getLogger(name).setLevel(max(quieter, least))


class _Logger:
    """A module's logger, bound to the outlet of the moment.

    structlog's own binds anew for each line, which costs more than to judge that it is not written; and once it is told
    to bind for good, it does so to whatever outlet there is, even before one is configured.

    Attributes:
        outlet: what was configured last.
    """

    outlet: ClassVar[list[structlog.typing.Processor] | None] = None

    def __init__(self, source: str) -> None:
        self._unbound = structlog.get_logger(source=source)
        self._bound: object = None
        self._bound_to: list[structlog.typing.Processor] | None = None

    def __getattr__(self, name: str) -> object:
        if self.outlet is None:
            return getattr(self._unbound, name)
        if self._bound_to is not self.outlet:
            self._bound, self._bound_to = self._unbound.bind(), self.outlet
        return getattr(self._bound, name)


def _json(event: object, **_options: object) -> str:
    return orjson.dumps(event, default=str).decode()


def _name_source(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Names the library behind a line, under the key that our own lines use."""
    event["source"] = event["_record"].name
    return event


class _Ids:
    """Adds the ids by which lines of different processes are joined."""

    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(
        self, _logger: object, _name: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:  # Any: structlog's own event type
        event["service"] = self._service
        request_id = context.request_id()
        if request_id:
            event.setdefault("request_id", request_id)
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            event.setdefault("trace_id", f"{span.trace_id:032x}")
        return event


def _mask_and_bound(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The last line of defence: a secret that slipped into a keyword is masked, and no value floods the log."""
    for key, value in event.items():
        if key in _SECRET_KEYS:
            event[key] = MASK
        elif isinstance(value, str) and len(value) > LOG_TEXT_MAX and key != "exception":
            event[key] = value[:LOG_TEXT_MAX] + "…"
    return event


def _checked(name: str) -> str:
    if _METRIC_NAME.fullmatch(name) is None:
        raise ValueError(f"metric {name!r} is not parley_<service>_<noun>_<unit>")
    return name
