"""`python -m tests.deploy.up`: the local stack with the processes of the chart's `ha` render, each of them twice.

Command, arguments, environment, ports, probes and grace are those of the containers. Only what names the world outside
of them is of this machine: addresses, ports, contents of Secrets and ConfigMaps, and no collector of spans.
"""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from dev import up
from dev.certificates import LEAF_LIFE, Authority, write
from dev.home import Home
from dev.ports import LOOPBACK, free_ports
from dev.process import Process
from dev.spawning import launched
from dev.table import plan
from tests.deploy.probes import passes
from tests.deploy.renders import Manifest, containers, environment, golden, pods

RENDER: Final = "ha"
SCRIPTED: Final = "PARLEY_INFERENCE_SCRIPTED"
"""The one setting that the test writes itself: answers long enough to be interrupted."""
CONSUMER: Final = "reports"
"""Whom the set knows beside the processes of the chart."""
_MIGRATE: Final = "migrate-"
_OF_THE_RENDER: Final = ("PARLEY_", "OPENAI_", "ANTHROPIC_")


def main() -> None:
    """Run it until Ctrl-C."""
    home = Home.from_environment()
    home.lock()
    ports = free_ports(os.getpid())
    planned = plan(home, port=next(ports))
    (home.folder / "providers.toml").write_text("", encoding="utf-8")
    authority = Authority.kept(home.certificates)
    issue(home.certificates, authority, bundle=authority.pem)
    taken = {port for process in planned.table for port in process.ports.values()}
    free = (port for port in ports if port not in taken)
    table = [_as_rendered(process, home, health_port=next(free)) for process in planned.table]
    asyncio.run(up._run(home, replace(planned, table=table)))


def rendered(name: str) -> tuple[Manifest, Manifest] | None:
    """Container and pod of a process of the stack; None for what the chart does not run."""
    found = dict(pods(golden(RENDER)))
    if name.startswith(_MIGRATE):
        pod = found["parley-migrations"]
        return next(each for each in containers(pod) if each["name"] == name.removeprefix(_MIGRATE)), pod
    pod = found.get(f"parley-{name.removesuffix('-2')}", {})
    return (containers(pod)[0], pod) if pod else None


def issue(folder: Path, authority: Authority, *, bundle: str, life: timedelta = LEAF_LIFE) -> None:
    """Write what cert-manager would write: a certificate of each component, and one of a consumer."""
    ends = datetime.now(UTC) + life
    for each in golden(RENDER):
        if each["kind"] == "Certificate" and not each["spec"].get("isCA"):
            spec = each["spec"]
            issued = authority.issue(spec["uris"], names=[*spec.get("dnsNames", []), LOOPBACK], ends=ends)
            write(folder / each["metadata"]["name"], *issued, bundle=bundle)
    write(folder / CONSUMER, *authority.issue([_consumer()], ends=ends), bundle=bundle)


def _consumer() -> str:
    """SPIFFE id of the one consumer that the render knows."""
    found = rendered("auth")
    assert found is not None
    peers: dict[str, str] = json.loads(str(environment(found[0])["PARLEY_MESH_TLS_PEERS"]))
    return next(spiffe_id for spiffe_id, name in peers.items() if name == CONSUMER)


def _as_rendered(process: Process, home: Home, *, health_port: int) -> Process:
    of_the_chart = rendered(process.name)
    if of_the_chart is None:
        return process
    container, pod = of_the_chart
    if "grpc" in process.ports:
        process = replace(process, ports={**process.ports, "health": health_port})
    words: list[str] = container["command"] + container["args"]
    assert words[0] == "python"
    made = replace(
        process,
        command=partial(launched, [sys.executable, *words[1:]]),
        environment=_environment(process, environment(container), home),
    )
    if process.one_shot:
        return made
    return replace(
        made,
        is_ready=lambda _: passes(container["readinessProbe"], process.ports),
        stop_s_max=float(pod["spec"]["terminationGracePeriodSeconds"]),
    )


def _environment(process: Process, given: Mapping[str, str | None], home: Home) -> dict[str, str]:
    own = {name: value for name, value in process.environment.items() if not name.startswith(_OF_THE_RENDER)}
    for name, value in given.items():
        if name.endswith("_LISTEN"):
            own[name] = f"{LOOPBACK}:{process.ports[name.removeprefix('PARLEY_').removesuffix('_LISTEN').lower()]}"
        elif name.endswith("_TARGET"):
            own[name] = process.environment[name]
        elif value is None:
            own[name] = process.environment.get(name, "")
        else:
            own[name] = value
    here = {
        "PARLEY_OTLP_ENDPOINT": "",
        "PARLEY_INFERENCE_PROVIDERS_FILE": str(home.folder / "providers.toml"),
        "PARLEY_MESH_TLS_FOLDER": str(home.certificates / f"parley-{process.name.removesuffix('-2')}"),
    }
    here |= {SCRIPTED: os.environ[SCRIPTED]} if SCRIPTED in os.environ else {}
    return own | {name: value for name, value in here.items() if name in own}


if __name__ == "__main__":
    main()
