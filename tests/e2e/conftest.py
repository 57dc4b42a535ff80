"""The running stack that end-to-end tests share."""

import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.collector import Collector, collecting
from tests.support.stack import Stack, running_stack

_HERE: Final = Path(__file__).parent
_TIMEOUT_S: Final = 300

HALF: Final = "The lighthouse was built "
REST: Final = "by Alan Stevenson."
SCRIPTS: Final = {
    "quick": {"deltas": ["Hello ", "world."], "input_tokens": 5, "output_tokens": 2},
    # Four seconds: time enough to kill something in the middle.
    "slow": {"tokens": 160, "delay_ms": 25},
    # Fifteen seconds: time enough to kill one thing after another.
    "long": {"tokens": 600, "delay_ms": 25},
    # Summarises histories that are longer than those of any test that does not ask for it.
    "memory": {"deltas": ["They greeted ", "each other."], "input_tokens": 900, "output_tokens": 6},
    "broken": {"deltas": ["One. "], "fail_after": 1},
    "half": {"deltas": [HALF], "cut_after": 1},
    "rest": {"deltas": [REST], "input_tokens": 9, "output_tokens": 4},
}
"""Models `scripted/<name>` of the shared stack, beside the extractive one."""
MENDED: Final = "mended"
"""A route whose first target breaks off, and whose second goes on."""
RECALLED: Final = "recalled"
"""A route that answers questions of the same meaning from its cache."""
ROUTES: Final = f"""\
[[route]]
name = "{MENDED}"
targets = [{{ model = "scripted/half" }}, {{ model = "scripted/rest", assistant_prefix = true }}]

[[route]]
name = "{RECALLED}"
targets = [{{ model = "extractive" }}]
cache = {{ exact_s = 3600, semantic = {{}} }}
"""


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """What the shared stack sends its spans to."""
    with collecting() as listening:
        yield listening


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Stack]:
    """One whole stack per test process. Tests may kill its processes (they come back), not change its settings."""
    # Open registration, because tenancy can only be tested with several organizations.
    routes = tmp_path_factory.mktemp("routes") / "providers.toml"
    routes.write_text(ROUTES)
    settings = {
        "PARLEY_INFERENCE_SCRIPTED": json.dumps(SCRIPTS),
        "PARLEY_INFERENCE_PROVIDERS_FILE": str(routes),
        "PARLEY_AUTH_REGISTRATION": "open",
        "PARLEY_CONVERSATION_SUMMARY_MODEL": "scripted/memory",
        "PARLEY_OTLP_ENDPOINT": collector.url,
    }
    with running_stack(settings) as started:
        yield started


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this folder time to start a stack: on a busy machine that is half a minute for each."""
    for item in items:
        if item.path.is_relative_to(_HERE) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the stack printed last beside the failure of a test that used it."""
    report = yield
    found = getattr(item, "funcargs", {}).get("stack")
    if report.failed and isinstance(found, Stack):
        report.sections.append(("the stack's last words", found.report()))
    return report
