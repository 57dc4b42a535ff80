"""What is measured: the bare pass-through, and whole stacks of this checkout and of another revision."""

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from tests.load.client import Endpoint
from tests.load.double import MODEL
from tests.load.serving import Served, served
from tests.support.stack import Stack

ROOT: Final = Path(__file__).parents[2]
_UP: Final = Path(__file__).with_name("up.py")
ROLES: Final = ("edge", "inference", "auth", "postgres", "valkey")
"""Processes of a stack that a stateless call may touch."""
# Far above what is asked, so that every limit is looked at and none refuses.
_LIMITS: Final = {
    "requests_per_minute": 10_000_000,
    "tokens_per_minute": 1_000_000_000,
    "cost_nanos_per_day": 10**15,
    "cost_nanos_per_month": 10**15,
}
_TIMEOUT_S: Final = 30.0
_CACHED: Final = "cached"
_ROUTES: Final = f"""
[[route]]
name = "{_CACHED}"
targets = [{{ model = "openai/{MODEL}" }}]
cache = {{ exact_s = 3600 }}
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that answers.

    Attributes:
        name: in the tables.
        endpoint: where it is asked.
        pids: its processes by role.
    """

    name: str
    endpoint: Endpoint
    pids: Mapping[str, int]


@contextmanager
def bare(provider: Served) -> Iterator[Subject]:
    """The pass-through."""
    with served("tests.load.bare", "--upstream", provider.url) as proxy:
        endpoint = Endpoint(proxy.port, "none", MODEL, cached_model=MODEL, has_messages=True)
        yield Subject("bare", endpoint, {"proxy": proxy.pid})


@contextmanager
def stack(name: str, tree: Path, folder: Path, provider: Served) -> Iterator[Subject]:
    """A stack of the checkout in `tree` with everything on: key check, budgets of all kinds, ledger, metrics, logs."""
    environment = {
        "OPENAI_API_KEY": "sk-load",
        "OPENAI_BASE_URL": f"{provider.url}/v1",
        "PARLEY_LOG_FORMAT": "json",
        "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'generated'}",
    }
    # What an older checkout lacks is not asked of it.
    has_cache, has_messages = (tree / "services/inference/cache").exists(), (tree / "edge/compat/anthropic").exists()
    if has_cache:
        routes = folder.with_suffix(".toml")
        routes.write_text(_ROUTES, encoding="utf-8")
        environment["PARLEY_INFERENCE_PROVIDERS_FILE"] = str(routes)
    running = Stack(folder, environment, tree=tree, command=("-P", str(_UP)))
    try:
        running.start()
        limit(running.url, running.api_key)
        port = int(running.url.rpartition(":")[2])
        cached_model = _CACHED if has_cache else ""
        endpoint = Endpoint(
            port, running.api_key, f"openai/{MODEL}", cached_model=cached_model, has_messages=has_messages
        )
        yield Subject(name, endpoint, {role: running.pid(role) for role in ROLES})
    finally:
        running.stop()


def limit(url: str, key: str) -> None:
    """Gives the organization, the user and the key budgets, where the stack knows budgets."""
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=_TIMEOUT_S) as http:
        if http.get("/api/v1/budgets").status_code == httpx.codes.NOT_FOUND:
            return
        me = _read(http, "/api/v1/users/me")
        keys = _read(http, "/api/v1/api_keys")["api_keys"]
        for subject in (me["organization_id"], me["id"], *(one["id"] for one in keys)):
            http.put(f"/api/v1/budgets/{subject}", json=_LIMITS).raise_for_status()


@contextmanager
def checkout(revision: str, folder: Path) -> Iterator[Path]:
    """The tree of a revision in `folder`."""
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", revision], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        packed.extractall(folder, filter="data")
    yield folder


def _read(http: httpx.Client, path: str) -> Any:  # Any: JSON of the contract
    return http.get(path).raise_for_status().json()
