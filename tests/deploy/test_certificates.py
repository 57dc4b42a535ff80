"""Holds the certificates of the committed renders together: each process has one, and is known to those it calls."""

import json
from typing import Final

import pytest

from tests.deploy.renders import SETS, Manifest, containers, environment, golden, pods

FOLDER: Final = "PARLEY_MESH_TLS_FOLDER"
ISSUED: Final = sorted(set(SETS) - {"airgap"})
"""The sets in which cert-manager issues; in the other one, Secrets are the site's own."""

every_set = pytest.mark.parametrize("values", SETS)
every_issued_set = pytest.mark.parametrize("values", ISSUED)


def processes(values: str) -> dict[str, Manifest]:
    """Pods of processes that call or are called, by name."""
    found = {name: pod for name, pod in pods(golden(values)) if FOLDER in environment(containers(pod)[-1])}
    assert len(found) == 7
    return found


def certificates(values: str) -> dict[str, Manifest]:
    """By the Secret that they are written to."""
    return {each["spec"]["secretName"]: each["spec"] for each in golden(values) if each["kind"] == "Certificate"}


def secret_of(pod: Manifest) -> str:
    """Where the files of its certificate come from."""
    (container,) = containers(pod)
    folder = environment(container)[FOLDER]
    (mount,) = [each for each in container["volumeMounts"] if each["mountPath"] == folder]
    assert mount["readOnly"] is True
    assert "subPath" not in mount  # with it, a renewed Secret would never arrive
    (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == mount["name"]]
    return str(volume["secret"]["secretName"])


@every_set
def test_every_process_has_a_certificate_of_its_own(values: str) -> None:
    secrets = {name: secret_of(pod) for name, pod in processes(values).items()}
    assert secrets == {name: f"{name}-tls" for name in secrets}


@every_issued_set
def test_every_certificate_is_issued_and_names_one_workload(values: str) -> None:
    found = certificates(values)
    for pod in processes(values).values():
        spec = found[secret_of(pod)]
        (uri,) = spec["uris"]
        workload = str(containers(pod)[0]["command"][2]).removeprefix("services.")
        assert uri == f"spiffe://cluster.local/ns/parley/parley/{workload}"
        assert {"server auth", "client auth"} <= set(spec["usages"])
        assert spec["privateKey"]["rotationPolicy"] == "Always"
    issuers = {json.dumps(spec["issuerRef"], sort_keys=True) for spec in found.values() if not spec.get("isCA")}
    assert len(issuers) == 1


@every_issued_set
def test_every_address_that_is_called_is_in_the_certificate_of_its_service(values: str) -> None:
    found = certificates(values)
    called = [
        str(value).rpartition(":")[0]
        for pod in processes(values).values()
        for variable, value in environment(containers(pod)[0]).items()
        if variable.endswith("_TARGET")
    ]
    assert called
    for host in called:
        assert host in found[f"{host.partition('.')[0]}-tls"]["dnsNames"]


@every_set
def test_exactly_those_are_known_to_a_service_that_call_it_and_the_consumers(values: str) -> None:
    consumers = {"ha": {"reports"}, "kafka": {"gateway"}}.get(values, set())
    callers: dict[str, set[str]] = {}
    for pod in processes(values).values():
        for variable in environment(containers(pod)[0]):
            if variable.endswith("_TARGET"):
                called = f"parley-{variable.removeprefix('PARLEY_').removesuffix('_TARGET').lower()}"
                caller = str(containers(pod)[0]["command"][2]).removeprefix("services.")
                callers.setdefault(called, set()).add(caller)
    for name, pod in processes(values).items():
        text = environment(containers(pod)[0]).get("PARLEY_MESH_TLS_PEERS")
        assert (text is not None) == (name in callers), name
        if text is not None:
            peers: dict[str, str] = json.loads(text)
            assert set(peers.values()) == callers[name] | consumers
            for spiffe_id, workload in peers.items():
                assert workload in consumers or spiffe_id.endswith(f"/ns/parley/parley/{workload}")


def test_own_issuer_and_bundle_take_the_place_of_the_release() -> None:
    kinds = {each["kind"] for each in golden("kafka")}
    assert "Issuer" not in kinds
    for spec in certificates("kafka").values():
        assert spec["issuerRef"] == {"name": "internal", "kind": "ClusterIssuer", "group": "cert-manager.io"}
    for pod in processes("kafka").values():
        (container,) = containers(pod)
        bundle = str(environment(container)["PARLEY_MESH_TLS_BUNDLE"])
        (mount,) = [each for each in container["volumeMounts"] if bundle.startswith(each["mountPath"] + "/")]
        (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == mount["name"]]
        assert volume["configMap"] == {"name": "internal-ca"}


def test_a_site_without_cert_manager_is_asked_for_no_object_of_it() -> None:
    assert not {each["kind"] for each in golden("airgap")} & {"Certificate", "Issuer", "ClusterIssuer"}


def test_ca_of_the_release_keeps_its_key_when_it_is_renewed() -> None:
    (authority,) = [spec for spec in certificates("ha").values() if spec.get("isCA")]
    assert authority["privateKey"]["rotationPolicy"] == "Never"
