"""No dead panel: whatever dashboards, alerts and runbooks ask for, the processes of a running stack have."""

import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dev.observe.boards import BOARDS
from dev.observe.objectives import alert_groups, burn_groups, ratio_groups, read
from dev.observe.promql import Selector, selectors
from tests.support.rest import Rest
from tests.support.runbooks import Kind, of
from tests.support.stack import Stack
from tests.support.tenants import QUESTION, Tenant, registered_tenant
from tests.support.waiting import wait_until

_OBJECTIVES, _ALERTS = read()
_GROUPS: Final = (*ratio_groups(_OBJECTIVES), *burn_groups(_OBJECTIVES), *alert_groups(_ALERTS))
_RULES: Final = [rule for _, _, rules in _GROUPS for rule in rules]
_RECORDED: Final = {str(rule["record"]) for rule in _RULES if "record" in rule}
_OF_PROMETHEUS: Final = {"up", "ALERTS", "prometheus_rule_evaluation_failures_total"}
_ELSEWHERE: Final = {"parley_conversation_queue_partitions_count": "registered where Kafka is the queue"}

Sample = tuple[str, dict[str, str]]


class Scrape:
    """What all processes of a stack show of themselves."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.names: set[str] = set()
        self.samples: list[Sample] = []

    def is_filled(self, wanted: Sequence[Selector]) -> bool:
        """Whether each selector selects something in a scrape of now."""
        self._take()
        return not self.lacks(wanted)

    def _take(self) -> None:
        self.names.clear()
        self.samples.clear()
        for process in self._stack.names:
            port = self._stack.ports(process).get("debug")
            if port is not None:
                self._read(process, port)

    def lacks(self, wanted: Sequence[Selector]) -> list[Selector]:
        """Selectors that select nothing."""
        return [each for each in wanted if not any(each.fits(name, labels) for name, labels in self.samples)]

    def _read(self, process: str, port: int) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
            text = response.read().decode()
        target = {"job": process, "instance": f"127.0.0.1:{port}"}
        for family in text_string_to_metric_families(text):
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
            self.names |= {family.name + suffix for suffix in suffixes}
            self.samples += [(sample.name, {**sample.labels, **target}) for sample in family.samples]


@pytest.fixture(scope="module")
def tenant(stack: Stack) -> Iterator[Tenant]:
    with registered_tenant(stack, "watched") as made:
        yield made


@pytest.fixture(scope="module")
def scrape(stack: Stack, tenant: Tenant) -> Scrape:
    """A scrape after some work of every kind."""
    with Rest(tenant.url, tenant.api_key) as rest:
        for model in ("scripted/quick", "extractive"):
            settings = {"model": model, "knowledge_base_id": tenant.ids["knowledge_base_id"]}
            conversation = rest.post("/api/v1/conversations", settings)
            rest.ask(conversation["id"], QUESTION)
            rest.ask(conversation["id"], QUESTION)
        rest.get("/api/v1/conversations")
    taken = Scrape(stack)
    # Some gauges are set every few seconds only.
    with suppress(AssertionError):  # what is missing is told by the test
        wait_until(lambda: taken.is_filled(_drawn()), within_s=60)
    return taken


def _drawn() -> list[Selector]:
    """What panels ask for that are never empty, and objectives of all events."""
    queries = [
        query.expr for board in BOARDS for panel in board.panels if not panel.is_quiet for query in panel.queries
    ]
    found = [each for query in queries for each in selectors(query)]
    for objective in _OBJECTIVES:
        ratio = objective.ratio("5m") if objective.latency else ""
        found += selectors(ratio)
    return [each for each in found if each.name not in _RECORDED | _OF_PROMETHEUS]


def test_panels_that_are_never_empty_show_something(scrape: Scrape) -> None:
    assert scrape.lacks(_drawn()) == []


@pytest.mark.parametrize(
    ("where", "expression"),
    [
        (f"{board.name}: {panel.title}", query.expr)
        for board in BOARDS
        for panel in board.panels
        for query in panel.queries
    ]
    + [(str(rule.get("alert") or rule["record"]), str(rule["expr"])) for rule in _RULES]
    + [(each.page, each.text) for each in of(Kind.QUERY)],
)
def test_every_metric_that_is_asked_for_is_there(scrape: Scrape, where: str, expression: str) -> None:
    asked = {each.name for each in selectors(expression)} - _RECORDED - _OF_PROMETHEUS - _ELSEWHERE.keys()
    assert asked <= scrape.names, where
