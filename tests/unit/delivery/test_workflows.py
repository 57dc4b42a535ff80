"""Workflows call make, ask for the least, and run nothing that can be moved from under them."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.home import ROOT

FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.y*ml"))
TARGETS = set(re.findall(r"^\.PHONY: ([a-z-]+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))

# Beyond reading the repository: which job of which workflow may do what else.
PERMISSIONS = {
    ("release", "image"): {"contents": "read", "packages": "write", "id-token": "write"},
    ("release", "chart"): {"contents": "read", "packages": "write", "id-token": "write"},
    ("release", "staging"): {"contents": "read", "packages": "read"},
    ("release", "production"): {"contents": "read", "packages": "read"},
}

Job = dict[str, Any]  # YAML of a workflow, whose shape is the forge's.


def workflow(path: Path) -> Job:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def jobs() -> Iterator[tuple[Path, str, Job]]:
    for path in FILES:
        for name, job in workflow(path)["jobs"].items():
            yield path, name, job


def steps() -> Iterator[tuple[str, Job]]:
    for path, name, job in jobs():
        for number, step in enumerate(job.get("steps", [])):
            yield f"{path.stem}.{name}[{number}]", step


RUNS = [pytest.param(step["run"], id=where) for where, step in steps() if "run" in step]
JOBS = [pytest.param(job, id=f"{path.stem}.{name}") for path, name, job in jobs()]
CHECKOUTS = [
    pytest.param(step, id=where) for where, step in steps() if step.get("uses", "").startswith("actions/checkout@")
]
ON_FILES = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def test_there_is_a_workflow_for_changes_nights_and_releases() -> None:
    assert {path.stem for path in FILES} == {"check", "nightly", "release"}


@pytest.mark.parametrize("run", RUNS)
def test_a_step_runs_one_target_of_make_and_no_shell_of_its_own(run: str) -> None:
    found = re.fullmatch(r"make ([a-z-]+)", run)
    assert found, f"{run!r} is no call of make"
    assert found[1] in TARGETS


@ON_FILES
def test_a_workflow_reads_the_repository_and_a_job_asks_for_what_it_needs(path: Path) -> None:
    assert workflow(path)["permissions"] == {"contents": "read"}
    asked = {
        (path.stem, name): job["permissions"] for name, job in workflow(path)["jobs"].items() if "permissions" in job
    }
    assert asked == {key: value for key, value in PERMISSIONS.items() if key[0] == path.stem}


@ON_FILES
def test_no_foreign_change_runs_with_our_secrets(path: Path) -> None:
    # YAML reads the word `on` as a truth.
    triggers = set(yaml.safe_load(path.read_text(encoding="utf-8"))[True])
    assert triggers <= {"pull_request", "push", "schedule", "workflow_call", "workflow_dispatch"}
    if "pull_request" in triggers:
        assert "secrets." not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("job", JOBS)
def test_a_job_ends_by_itself(job: Job) -> None:
    assert "uses" in job or 0 < job["timeout-minutes"] <= 360


@ON_FILES
def test_actions_are_pinned_by_commit_with_their_version_beside(path: Path) -> None:
    uses = re.findall(r"uses: (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert uses
    pinned = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    assert not [use for use in uses if not use.startswith("./") and not pinned.fullmatch(use)]


def test_one_action_has_one_commit_everywhere() -> None:
    uses = {use for path in FILES for use in re.findall(r"uses: ([^.].+)$", path.read_text(), flags=re.MULTILINE)}
    assert len({use.partition("@")[0] for use in uses}) == len(uses)


@pytest.mark.parametrize("step", CHECKOUTS)
def test_the_checkout_leaves_no_credentials_to_later_steps(step: Job) -> None:
    assert step["with"]["persist-credentials"] is False


def test_production_waits_for_staging_and_for_whoever_guards_it() -> None:
    release = workflow(FOLDER / "release.yaml")["jobs"]
    assert "staging" in release["production"]["needs"]
    assert {release[name]["environment"] for name in ("staging", "production")} == {"staging", "production"}
    for name in ("staging", "production"):
        runs = [step["run"] for step in release[name]["steps"] if "run" in step]
        assert runs[0] == "make image-verify"
        assert runs[-1] == "make smoke"


def test_an_auditor_of_workflows_finds_nothing() -> None:
    auditor = Path(sys.executable).with_name("zizmor")
    done = subprocess.run(
        [auditor, "--offline", "--no-progress", "--persona=pedantic", ".github"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
