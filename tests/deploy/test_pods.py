"""Holds every pod of the committed renders to the restricted profile and to what its processes understand."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from math import ceil
from typing import Final

import pytest

from services.mesh.settings import load
from tests.deploy.known import DEPLOYABLES, SETTINGS, required_variables, variables
from tests.deploy.renders import SETS, Manifest, containers, environment, golden, pods

SECRETS: Final = {
    "PARLEY_DATABASE_URL": "postgresql://parley:password@postgres:5432/parley",
    "PARLEY_DATABASE_SHARDS": json.dumps({"b": "postgresql://parley:password@postgres-b:5432/parley"}),
    "PARLEY_DATABASE_REPLICAS": json.dumps({"main": ["postgresql://parley:password@postgres-replica:5432/parley"]}),
    "PARLEY_VALKEY_URL": "redis://valkey:6379",
    "PARLEY_WORKLOAD_SECRET": "a secret of twenty-nine letters",
    "PARLEY_AUTH_KEY_ENCRYPTION_SECRET": "a secret that has more than thirty-two letters",
    "PARLEY_AUTH_WORKLOADS": json.dumps({"edge": sha256(b"secret").hexdigest()}),
    "PARLEY_KAFKA_OPTIONS": "{}",
    "OPENAI_API_KEY": "key",
    "ANTHROPIC_API_KEY": "key",
}
"""Contents for everything that a render takes from a Secret."""
SPARE_S: Final = 5
_TEST: Final = "parley-test"
"""The pod of `helm test`: no process of Parley."""


@dataclass(frozen=True, slots=True)
class Ran:
    """One container that runs a command of a deployable."""

    where: str
    package: str
    command: str
    environment: dict[str, str | None]
    container: Manifest
    pod: Manifest


def ran() -> Iterator[Ran]:
    for values in SETS:
        for name, pod in pods(golden(values)):
            if name == _TEST:
                continue
            for container in containers(pod):
                python, module, package = container["command"]
                assert (python, module) == ("python", "-m")
                where = f"{values}/{name}/{container['name']}"
                yield Ran(where, package, container["args"][0], environment(container), container, pod)


RAN: Final = list(ran())
PODS: Final = [pytest.param(pod, id=f"{values}/{name}") for values in SETS for name, pod in pods(golden(values))]


@pytest.mark.parametrize("pod", PODS)
def test_pod_is_allowed_by_the_restricted_profile(pod: Manifest) -> None:
    spec = pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["securityContext"].get("runAsUser") != 0
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostAliases", "shareProcessNamespace"} & spec.keys()
    assert all(volume.keys() - {"name"} <= {"emptyDir", "configMap", "secret"} for volume in spec["volumes"])
    for container in containers(pod):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not any("hostPort" in port for port in container.get("ports", []))


@pytest.mark.parametrize("pod", PODS)
def test_pod_holds_no_token_of_the_cluster(pod: Manifest) -> None:
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("pod", PODS)
def test_pod_can_write_to_bounded_memory_and_disk_only(pod: Manifest) -> None:
    for container in containers(pod):
        assert {"cpu", "memory", "ephemeral-storage"} <= container["resources"]["requests"].keys()
        assert {"memory", "ephemeral-storage"} <= container["resources"]["limits"].keys()
    for volume in pod["spec"]["volumes"]:
        assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"]


@pytest.mark.parametrize("each", RAN, ids=lambda each: each.where)
def test_every_variable_is_one_that_the_deployable_reads(each: Ran) -> None:
    known = variables(DEPLOYABLES[each.package.removeprefix("services.")])
    assert each.environment.keys() <= known


@pytest.mark.parametrize("each", RAN, ids=lambda each: each.where)
def test_nothing_that_the_command_requires_is_missing(each: Ran) -> None:
    assert required_variables(SETTINGS[each.package, each.command]) <= each.environment.keys()


@pytest.mark.parametrize("each", RAN, ids=lambda each: each.where)
def test_the_command_accepts_its_environment(each: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("PARLEY_", "OPENAI_", "ANTHROPIC_"))]:
        monkeypatch.delenv(name)
    for name, value in each.environment.items():
        monkeypatch.setenv(name, SECRETS[name] if value is None else value)
    load(SETTINGS[each.package, each.command])


@pytest.mark.parametrize("each", RAN, ids=lambda each: each.where)
def test_secrets_come_from_secrets_and_nothing_else_does(each: Ran) -> None:
    referenced = {name for name, value in each.environment.items() if value is None}
    assert referenced == each.environment.keys() & SECRETS.keys()


@pytest.mark.parametrize("each", [each for each in RAN if each.command != "migrate"], ids=lambda each: each.where)
def test_the_process_can_drain_before_it_is_killed(each: Ran) -> None:
    drain_s = float(each.environment["PARLEY_DRAIN_S"] or 0)
    pause_s = float(each.environment["PARLEY_NOT_SERVING_PAUSE_S"] or 0)
    if "PARLEY_GRPC_LISTEN" in each.environment:  # two pauses, then calls, then loops: `services.mesh.server.serve`
        needed_s = 2 * pause_s + 2 * drain_s
    elif "PARLEY_HTTP_LISTEN" in each.environment:
        needed_s = pause_s + drain_s
    else:
        needed_s = drain_s
    assert each.pod["spec"]["terminationGracePeriodSeconds"] >= ceil(needed_s) + SPARE_S


@pytest.mark.parametrize("each", [each for each in RAN if each.command != "migrate"], ids=lambda each: each.where)
def test_probes_ask_ports_that_the_process_listens_on(each: Ran) -> None:
    ports = {port["name"]: port["containerPort"] for port in each.container["ports"]}
    listens = {
        name.removeprefix("PARLEY_").removesuffix("_LISTEN").lower(): int(str(value).rpartition(":")[2])
        for name, value in each.environment.items()
        if name.endswith("_LISTEN")
    }
    assert ports == listens
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = each.container[probe]
        if "grpc" in ports:
            assert asked["grpc"]["port"] == ports["health"]  # a kubelet has no certificate
        else:
            assert asked["httpGet"]["port"] == "debug"


def test_every_process_of_the_product_is_deployed() -> None:
    serving = {(each.package, each.command) for each in RAN}
    assert serving == SETTINGS.keys()


def test_schemas_are_changed_one_after_the_other_before_any_pod() -> None:
    (job,) = [each for each in golden("ha") if each["kind"] == "Job"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    order = [container["name"] for container in containers(job["spec"]["template"])]
    assert order == ["auth", "conversation", "retrieval", "inference"]


@pytest.mark.parametrize("values", sorted(set(SETS) - {"minimal"}))
def test_images_are_named_by_digest(values: str) -> None:
    images = {container["image"] for _, pod in pods(golden(values)) for container in containers(pod)}
    assert len(images) == 1
    assert all("@sha256:" in image for image in images)
