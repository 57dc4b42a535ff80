import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.mesh import telemetry

ROOT = Path(__file__).parents[3]

SCRIPT = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "generated")!r}]
import logging
from services.mesh import context, telemetry
telemetry.configure_logging("echo", level="INFO", form=sys.argv[1])
log = telemetry.logger("test")
with context.request("req_1"):
    log.info("noted", size=3, password="hunter2", text="x" * 5000)
    log.debug("not noted")
logging.getLogger("some.library").warning("a library's %s", "words")
logging.getLogger("httpx").info("not noted")
try:
    raise ValueError("why")
except ValueError:
    log.exception("failed")
"""


def logged(form: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, form], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout == ""
    return done.stderr


def test_json_lines_are_json_and_carry_service_and_request() -> None:
    lines = [json.loads(line) for line in logged("json").splitlines()]
    assert [line["event"] for line in lines] == ["noted", "a library's words", "failed"]
    assert {line["service"] for line in lines} == {"echo"}
    assert [line["source"] for line in lines] == ["parley.test", "some.library", "parley.test"]
    assert (lines[0]["request_id"], lines[0]["size"], lines[0]["level"]) == ("req_1", 3, "info")
    assert "request_id" not in lines[1]
    assert "ValueError: why" in lines[2]["exception"]


@pytest.mark.parametrize("form", ["json", "text"])
def test_secrets_are_masked_and_long_values_are_cut(form: str) -> None:
    text = logged(form)
    assert "hunter2" not in text
    assert "x" * (telemetry.LOG_TEXT_MAX + 1) not in text
    assert "not noted" not in text


def test_text_lines_are_for_people() -> None:
    assert "\nTraceback" in logged("text")


@pytest.mark.parametrize(
    "name", ["requests_total", "parley_requests", "parley_Echo_words_count", "Parley_echo_words_count"]
)
def test_metric_must_follow_the_naming_rule(name: str) -> None:
    with pytest.raises(ValueError, match="parley_<service>_<noun>_<unit>"):
        telemetry.counter(name, "A test.")


def test_loggers_can_be_captured() -> None:
    with capture_logs() as lines:
        telemetry.logger("test").warning("heard", count=1)
    assert lines == [{"event": "heard", "count": 1, "source": "parley.test", "log_level": "warning"}]
