"""Workflows, read by the linter that knows the forge's own grammar, expressions and inputs of actions."""

import subprocess
from typing import Final

from dev.tools.deploy import HOME
from dev.tools.environment import ROOT

LINTER: Final = HOME / "bin" / "actionlint"
_LINT_S_MAX: Final = 60.0


def test_linter_of_workflows_finds_nothing() -> None:
    done = subprocess.run(
        # No shell stands in a workflow, so the linters of shell and Python that it would look for have nothing to say.
        [LINTER, "-no-color", "-shellcheck=", "-pyflakes="],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_LINT_S_MAX,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
