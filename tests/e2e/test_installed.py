"""Runs what `helm test` runs in a cluster against the stack of this machine."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.support.stack import Stack

SCRIPT: Final = Path(__file__).parents[2] / "helm" / "parley" / "files" / "turn.py"
_RUN_S_MAX: Final = 200.0


def ran(stack: Stack, *, key: str, model: str) -> "subprocess.CompletedProcess[str]":
    given = {"PARLEY_URL": stack.url, "PARLEY_API_KEY": key, "PARLEY_MODEL": model}
    return subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={"PATH": os.environ["PATH"], **given},
        capture_output=True,
        text=True,
        timeout=_RUN_S_MAX,
        check=False,
    )


def test_test_of_the_chart_passes_where_the_installation_answers(stack: Stack) -> None:
    done = ran(stack, key=stack.api_key, model="scripted/quick")
    assert (done.returncode, done.stdout) == (0, "scripted/quick answered 12 characters\n"), done.stderr


def test_test_of_the_chart_fails_where_the_answer_breaks_off(stack: Stack) -> None:
    done = ran(stack, key=stack.api_key, model="scripted/unknown")
    assert done.returncode == 1
    assert done.stderr


def test_test_of_the_chart_tells_why_it_was_refused(stack: Stack) -> None:
    done = ran(stack, key="pk_wrong", model="scripted/quick")
    assert done.returncode == 1
    assert "answered 401" in done.stderr
