"""What the Dockerfile installs, started outside the checkout: every deployable, as the image's own user."""

import os
import re
import subprocess
import zipfile
from collections.abc import Iterator
from typing import Final
from urllib.request import urlopen

import pytest

from dev import valkey
from dev.client import Client
from dev.home import ROOT, Home, shell_values
from dev.ports import LOOPBACK, free_ports
from dev.table import SERVICES, plan
from tests.support.deployment import READY_S_MAX, Deployment, Running, deployed, is_ready
from tests.support.postgres import Databases
from tests.support.valkey import emptied
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(400)

FACT: Final = "The lighthouse of Skerryvore was built by Alan Stevenson between 1838 and 1844."
QUESTION: Final = "Who built the lighthouse of Skerryvore?"
ONCE: Final = (*(f"migrate-{service}" for service in SERVICES), "bootstrap")
SERVING: Final = (*SERVICES, "conversation-worker", "retrieval-worker", "edge")
_APART: Final = 23
"""Keeps the ports tried here away from those of the servers of this test process."""
_PACKAGES: Final = {"services": "services", "edge": "edge", "generated/parley": "parley"}
"""Folders of the checkout, and what they are called in the wheel."""


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    with deployed() as installed:
        yield installed


@pytest.fixture(scope="module")
def running(deployment: Deployment, postgres: Databases, valkey_server: valkey.Server) -> Iterator[Running]:
    database_url = postgres.create()
    home = Home(deployment.temporary / "stack")
    with pytest.MonkeyPatch.context() as given:
        given.setenv("PARLEY_DATABASE_URL", database_url)
        given.setenv("PARLEY_VALKEY_URL", emptied(valkey_server))
        table = plan(home, port=next(free_ports(os.getpid() + _APART))).table
    home.folder.chmod(0o1777)
    stack = Running(deployment, home, {process.name: process for process in table}, before=deployment.files())
    try:
        for name in ONCE:
            done = deployment.run(stack.processes[name])
            assert done.returncode == 0, f"{name}:\n{done.stdout}\n{done.stderr}"
        for name in SERVING:
            stack.start(name)
        for name in SERVING:
            stack.await_ready(name)
        yield stack
    finally:
        stack.kill()
        postgres.drop(database_url)


def tracked(folder: str) -> Iterator[str]:
    """Files below a folder that are committed, or would be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return (name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file())


def test_the_wheel_holds_every_file_of_the_deployables_and_no_other(deployment: Deployment) -> None:
    held = {name for name in zipfile.ZipFile(deployment.wheel).namelist() if ".dist-info/" not in name}
    meant = {within + name.removeprefix(folder) for folder, within in _PACKAGES.items() for name in tracked(folder)}
    assert held == meant


def test_what_the_wheel_asks_for_is_installed(deployment: Deployment) -> None:
    listing = (
        "from importlib.metadata import requires, version\n"
        "import re\n"
        "names = [re.split(r'[^\\w.-]', line)[0] for line in requires('parley') if 'extra ==' not in line]\n"
        "print(len(names), *(f'{name}=={version(name)}' for name in names), sep='\\n')"
    )
    python = deployment.home / "bin" / "python"
    done = subprocess.run([python, "-I", "-c", listing], capture_output=True, text=True, check=True)
    count, *installed = done.stdout.split()
    pinned = set(re.findall(r"^([\w.-]+==\S+)", (ROOT / "requirements/image.lock").read_text(), flags=re.MULTILINE))
    assert int(count) == len(installed)
    assert set(installed) <= pinned


def test_everything_is_compiled_because_nothing_can_be_later(deployment: Deployment) -> None:
    assert (deployment.home / "bin" / "python").exists()
    sources = [path for path in deployment.home.rglob("services/*/*.py") if "site-packages" in path.parts]
    compiled = {path.name.partition(".")[0] for path in deployment.home.rglob("services/*/__pycache__/*.pyc")}
    assert sources
    assert {path.stem for path in sources} <= compiled


def test_every_process_of_the_platform_is_ready_by_its_own_probe(running: Running) -> None:
    assert {*ONCE, *SERVING} == running.processes.keys()
    assert all(is_ready(running.processes[name]) for name in SERVING)


@pytest.mark.parametrize("name", [*SERVICES, "edge"])
def test_config_shows_the_settings_of_each_deployable(running: Running, name: str) -> None:
    done = running.deployment.run(running.processes[name], "config")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^PARLEY_LOG_LEVEL=INFO  # default\.", done.stdout, flags=re.MULTILINE)


def test_a_document_is_read_and_a_question_answered_from_it(running: Running) -> None:
    client = Client(_url(running), shell_values(running.home.bootstrap)["PARLEY_API_KEY"])
    file = running.deployment.folder / "lighthouse.md"
    file.write_text(f"# Skerryvore\n\n{FACT}\n", encoding="utf-8")
    base = client.post("/api/v1/knowledge_bases", {"display_name": "Lighthouses"})["id"]
    document = client.upload(f"/api/v1/knowledge_bases/{base}/documents", file)["id"]
    wait_until(lambda: client.get(f"/api/v1/documents/{document}")["state"] == "ready", within_s=READY_S_MAX)
    conversation = client.post("/api/v1/conversations", {"knowledge_base_id": base})["id"]
    asked = client.stream(f"/api/v1/conversations/{conversation}/turns", {"new": {"text": QUESTION}})
    finished = [event for event in asked if event.kind == "turn_finished"][-1].data["turn_finished"]
    assert finished["state"] == "completed"
    assert [citation["document_name"] for citation in finished["message"]["citations"]] == ["lighthouse.md"]


@pytest.mark.parametrize(("path", "holds"), [("/", b"<title>"), ("/docs", b"<html"), ("/openapi.json", b'"paths"')])
def test_the_edge_has_its_page_and_its_documents(running: Running, path: str, holds: bytes) -> None:
    with urlopen(_url(running) + path, timeout=30) as answer:  # noqa: S310 - an address of this test
        assert holds in answer.read()


def test_no_process_writes_outside_its_temporary_folder(running: Running) -> None:
    assert running.deployment.files() == running.before


def test_all_of_them_leave_with_status_0_when_asked(running: Running) -> None:
    assert running.stop(within_s=READY_S_MAX) == dict.fromkeys(running.children, 0)


def _url(running: Running) -> str:
    return f"http://{LOOPBACK}:{running.processes['edge'].ports['http']}"
