"""`python -m tests.chaos.up`: the dev stack with a second API and a second worker, its connections led over proxies.

It runs in the tree under test, which may be a mutated copy. `CHAOS_QUEUE=kafka` adds a broker. `CHAOS_LINKS` maps each
link to the port of its proxy; the port behind each is written to `links.json` in the stack's folder.
"""

import asyncio
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from dev import kafka, up
from dev.home import Home
from dev.ports import LOOPBACK, free_ports
from dev.process import Process
from dev.table import Plan, _http_ready, _inherited, plan
from tests.chaos.links import LINKS

REPLICATED = ("conversation", "conversation-worker")
_PAUSE = "PARLEY_NOT_SERVING_PAUSE_S"
_SERVED = ("grpc", "http", "postgres", "valkey")


def main() -> None:
    """Run it until Ctrl-C."""
    home = Home.from_environment()
    home.lock()
    started = altered(plan(home, port=next(free_ports(os.getpid()))), json.loads(os.environ["CHAOS_LINKS"]), home)
    asyncio.run(up._run(home, started))


def altered(planned: Plan, proxies: Mapping[str, int], home: Home) -> Plan:
    """The plan with replicas, and with proxies on every link."""
    table = _replicated(planned.table)
    if os.environ.get("CHAOS_QUEUE") == "kafka":
        table = _with_kafka(table, home)
    port_of = {process.name: port for process in table for kind, port in process.ports.items() if kind in _SERVED}
    upstream = {str(link): port_of[link.called] for link in LINKS}
    (home.folder / "links.json").write_text(json.dumps(upstream), encoding="utf-8")
    return replace(planned, table=[_led_over(process, proxies, port_of) for process in table])


def _replicated(table: list[Process]) -> list[Process]:
    table = [_patient(process) if process.name in REPLICATED else process for process in table]
    taken = {port for process in table for port in process.ports.values()}
    ports = (port for port in free_ports(max(taken)) if port not in taken)
    copies = {process.name: _copy(process, ports) for process in table if process.name in REPLICATED}
    first = next(process for process in table if process.name == "conversation").ports["grpc"]
    both = f"{LOOPBACK}:{first},{LOOPBACK}:{copies['conversation'].ports['grpc']}"
    known = [_with(process, PARLEY_CONVERSATION_TARGET=both) for process in table]
    return [*known, *copies.values()]


def _patient(process: Process) -> Process:
    """With the shipped pause for clients to leave. Others leave at once, as dev has it: nobody could go elsewhere."""
    environment = {name: value for name, value in process.environment.items() if name != _PAUSE}
    return replace(process, environment=environment)


def _with_kafka(table: list[Process], home: Home) -> list[Process]:
    """The table with a broker that the queue is on."""
    taken = {port for process in table for port in process.ports.values()}
    free = (port for port in free_ports(min(taken)) if port not in taken)
    port, controller = next(free), next(free)
    broker = kafka.Broker(home.folder / "kafka")
    server = Process(
        "kafka",
        lambda: broker.prepare(port, controller),
        is_ready=lambda _: broker.is_ready(port),
        environment=_inherited(os.environ, "kafka"),
        ports={"kafka": port},
        stop_signal=kafka.STOP_SIGNAL,
        start_s_max=120.0,
    )
    settings = {"PARLEY_QUEUE": "kafka", "PARLEY_KAFKA_BOOTSTRAP": f"{LOOPBACK}:{port}"}
    users = [
        replace(process, after=(*process.after, "kafka"), environment={**process.environment, **settings})
        if process.name.startswith(REPLICATED)
        else process
        for process in table
    ]
    return [server, *users]


def _copy(process: Process, ports: Iterator[int]) -> Process:
    own = {kind: next(ports) for kind in process.ports}
    listens = {f"PARLEY_{kind.upper()}_LISTEN": f"{LOOPBACK}:{port}" for kind, port in own.items()}
    copied = replace(process, name=f"{process.name}-2", ports=own, is_ready=_http_ready(own["debug"]))
    return _with(copied, **listens)


def _with(process: Process, **environment: str) -> Process:
    """The process with other values of variables that it is given already."""
    changed = {name: value for name, value in environment.items() if name in process.environment}
    return replace(process, environment={**process.environment, **changed})


def _led_over(process: Process, proxies: Mapping[str, int], port_of: Mapping[str, int]) -> Process:
    lead = {
        port: proxies[str(link)] for link in LINKS if link.caller == process.name and (port := port_of[link.called])
    }
    environment = dict(process.environment)
    for name, value in environment.items():
        if name.endswith(("_URL", "_TARGET")) and name.startswith("PARLEY_"):
            environment[name] = re.sub(rf"(?<={LOOPBACK}:)\d+", lambda at: str(lead.get(int(at[0]), int(at[0]))), value)
    return replace(process, environment=environment)


if __name__ == "__main__":
    main()
