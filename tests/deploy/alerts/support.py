"""Runs promtool on rules, and makes series of selectors."""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pytest

from dev.observe.promql import Matcher, Selector, selectors
from dev.observe.written import CHART

PROMTOOL: Final = shutil.which("promtool")
needs_promtool: Final = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not on the PATH: `apt-get install prometheus` brings it"
)
RULES: Final = sorted(str(path) for path in (CHART / "alerts").glob("*.yaml"))

Series = Mapping[str, str]
"""Values by series, both as promtool writes them: `0+5x60` is a counter that grows by 5 each minute."""

_EXAMPLES: Final = {"route": "parley.conversation.v1.ConversationService.ListConversations"}


def firing(name: str, series: Series, *, at: str) -> bool:
    """Whether the alert fires at that time."""
    test = {
        "interval": "1m",
        "input_series": [{"series": key, "values": _spelt(values)} for key, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) > bool 0',
                "eval_time": at,
                "exp_samples": [{"labels": "{}", "value": 1}],
            }
        ],
    }
    content = {"rule_files": RULES, "tests": [test], "evaluation_interval": "1m"}
    status, output = promtool("test", "rules", content=content)
    assert status == 0 or re.search(r"got:\s*nil", output), output
    return status == 0


def _spelt(values: str) -> str:
    """`1x5`, a figure that stays, in the words that older promtools know too."""
    return re.sub(r"(?<![\d.+_-])([\d.]+)x", r"\1+0x", values)


def promtool(*arguments: str, content: Mapping[str, Any]) -> tuple[int, str]:  # Any: JSON, which is YAML
    """Status and output of promtool, run on a file with this content."""
    assert PROMTOOL is not None
    command = [PROMTOOL, *arguments, "/dev/stdin"]
    done = subprocess.run(command, input=json.dumps(content), capture_output=True, text=True, timeout=100, check=False)
    return done.returncode, done.stdout + done.stderr


def checked(paths: Sequence[str]) -> tuple[int, str]:
    """What promtool says of files of rules."""
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, "check", "rules", *paths], capture_output=True, text=True, timeout=100, check=False
    )
    return done.returncode, done.stdout + done.stderr


def example(text: str) -> str:
    """A series that the selector selects."""
    (selector,) = selectors(text)
    labels = {matcher.label: _value(matcher, selector) for matcher in selector.matchers}
    assert selector.fits(selector.name, labels), text
    return selector.name + "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def _value(matcher: Matcher, selector: Selector) -> str:
    if matcher.sign == "=":
        return matcher.value
    first = matcher.value.partition("|")[0]
    candidates = ("200", _EXAMPLES.get(matcher.label, "x"), first, first.replace(".", "0"))
    same = [other for other in selector.matchers if other.label == matcher.label]
    return next(value for value in candidates if all(other.fits(value) for other in same))
