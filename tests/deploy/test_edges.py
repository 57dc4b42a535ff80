"""Holds the network of the committed renders together: who calls whom, on which port, and that both sides allow it."""

from typing import Final

import pytest

from tests.deploy.renders import NAMESPACE, RELEASE, SETS, Manifest, containers, environment, golden, pods

COMPONENT: Final = "app.kubernetes.io/component"
_PORT_OF_STORE: Final = {"PARLEY_DATABASE_URL": 5432, "PARLEY_VALKEY_URL": 6379}

every_set = pytest.mark.parametrize("values", SETS)


def of_kind(values: str, kind: str) -> list[Manifest]:
    return [each for each in golden(values) if each["kind"] == kind]


def labels_of_pods(values: str) -> dict[str, dict[str, str]]:
    return {name: pod["metadata"]["labels"] for name, pod in pods(golden(values))}


def policies(values: str) -> dict[str, Manifest]:
    """The policy of each component."""
    return {
        each["spec"]["podSelector"]["matchLabels"].get(COMPONENT, ""): each for each in of_kind(values, "NetworkPolicy")
    }


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def allowed(rules: list[Manifest], side: str, labels: dict[str, str], port: int) -> bool:
    """Whether one of the rules names pods with these labels at this port."""
    return any(
        matches(peer["podSelector"]["matchLabels"], labels)
        for rule in rules
        for peer in rule[side]
        if "podSelector" in peer
        and "namespaceSelector" not in peer
        and port in {each["port"] for each in rule["ports"]}
    )


@every_set
def test_everything_is_denied_that_no_policy_names(values: str) -> None:
    everybody = policies(values)[""]["spec"]
    assert everybody["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & everybody.keys()
    assert all(matches(everybody["podSelector"]["matchLabels"], labels) for labels in labels_of_pods(values).values())


@every_set
def test_every_pod_has_a_policy_of_its_own(values: str) -> None:
    assert {labels[COMPONENT] for labels in labels_of_pods(values).values()} == policies(values).keys() - {""}


@every_set
def test_every_call_is_allowed_on_both_sides(values: str) -> None:
    labels, found = labels_of_pods(values), policies(values)
    checked = 0
    for name, pod in pods(golden(values)):
        if pod["metadata"]["labels"][COMPONENT] == "migrations":
            continue
        for container in containers(pod):
            for variable, value in environment(container).items():
                if not variable.endswith("_TARGET"):
                    continue
                host, _, port = str(value).rpartition(":")
                service = host.partition(".")[0]
                assert host == f"{service}.{NAMESPACE}.svc.cluster.local"
                caller, callee = labels[name], labels[service]
                assert allowed(found[caller[COMPONENT]]["spec"]["egress"], "to", callee, int(port)), (name, variable)
                assert allowed(found[callee[COMPONENT]]["spec"]["ingress"], "from", caller, int(port)), (name, variable)
                checked += 1
    assert checked > 0


@every_set
def test_every_port_of_a_pod_is_in_an_edge(values: str) -> None:
    found = policies(values)
    for name, pod in pods(golden(values)):
        rules = found[pod["metadata"]["labels"][COMPONENT]]["spec"].get("ingress", [])
        reachable = {each["port"] for rule in rules for each in rule["ports"]}
        ports = [port for each in containers(pod) for port in each.get("ports", [])]
        # Health in the clear is for the kubelet alone, whom policies do not concern.
        assert reachable == {port["containerPort"] for port in ports if port["name"] != "health"}, name


@every_set
def test_stores_can_be_reached_by_those_that_have_their_addresses_and_by_nobody_else(values: str) -> None:
    found = policies(values)
    for name, pod in pods(golden(values)):
        labels = pod["metadata"]["labels"]
        open_ports = {each["port"] for rule in found[labels[COMPONENT]]["spec"]["egress"] for each in rule["ports"]}
        known = {variable for each in containers(pod) for variable in environment(each)}
        wanted = {port for variable, port in _PORT_OF_STORE.items() if variable in known}
        if labels[COMPONENT] == "migrations":  # retrieval reads the whole of its settings there, and calls nobody
            wanted = {5432}
        assert open_ports & set(_PORT_OF_STORE.values()) == wanted, name


@every_set
def test_only_inference_may_leave_for_providers(values: str) -> None:
    leaving = {
        component
        for component, policy in policies(values).items()
        if any({443, 8000} & {each["port"] for each in rule["ports"]} for rule in policy["spec"].get("egress", []))
    }
    assert leaving == {"inference"}


@every_set
def test_services_find_pods_and_name_ports_that_these_have(values: str) -> None:
    ports_of = {
        name: {port["name"] for each in containers(pod) for port in each.get("ports", [])}
        for name, pod in pods(golden(values))
    }
    labels = labels_of_pods(values)
    for service in of_kind(values, "Service"):
        found = [name for name, each in labels.items() if matches(service["spec"]["selector"], each)]
        assert len(found) == 1, service["metadata"]["name"]
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports_of[found[0]]
        assert all(port["appProtocol"] for port in service["spec"]["ports"])
        is_for_grpc = "grpc" in ports_of[found[0]]
        assert not is_for_grpc or service["spec"]["clusterIP"] == "None"


@every_set
def test_what_is_scaled_says_no_number_of_its_own_and_is_scaled_once(values: str) -> None:
    scaled = [
        each["spec"]["scaleTargetRef"]["name"]
        for kind in ("HorizontalPodAutoscaler", "ScaledObject")
        for each in of_kind(values, kind)
    ]
    assert len(scaled) == len(set(scaled))
    for deployment in of_kind(values, "Deployment"):
        assert ("replicas" in deployment["spec"]) == (deployment["metadata"]["name"] not in scaled)


@every_set
def test_a_deployment_loses_no_pod_before_it_has_another_and_one_at_a_time_to_evictions(values: str) -> None:
    guarded = [each["spec"]["selector"]["matchLabels"] for each in of_kind(values, "PodDisruptionBudget")]
    for deployment in of_kind(values, "Deployment"):
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert sum(matches(selector, labels) for selector in guarded) == 1


@every_set
def test_names_fit(values: str) -> None:
    for each in golden(values):
        assert each["metadata"]["name"].startswith(RELEASE)
        assert len(each["metadata"]["name"]) <= 63
        assert each["metadata"]["namespace"] == NAMESPACE
