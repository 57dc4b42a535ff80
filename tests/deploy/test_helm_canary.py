"""The canary as the chart makes it: a second release, which takes part in the route of the first and has none."""

from typing import Final

import pytest
import yaml

from dev.tools.canary import CANARY_VALUES, edge_of
from tests.deploy.renders import KUBERNETES, NAMESPACE, Manifest, helm
from tests.deploy.schema import CHART

ROUTES: Final = {"Ingress", "HTTPRoute", "GRPCRoute"}
ROUTED: Final = ("--set", "ingress.enabled=false,httpRoute.enabled=true,httpRoute.parentRefs[0].name=web")
SCALERS: Final = {"HorizontalPodAutoscaler", "ScaledObject"}

every_release = pytest.mark.parametrize("release", ["parley", "chat"])


def rendered(release: str, *arguments: str) -> list[Manifest]:
    values = ["--kube-version", KUBERNETES, "--values", str(CHART / "ci" / "ha.yaml")]
    made = helm("template", release, str(CHART), "--namespace", NAMESPACE, *values, *ROUTED, *arguments)
    assert made.returncode == 0, made.stderr
    return [found for found in yaml.safe_load_all(made.stdout) if found]


def canary(release: str) -> list[Manifest]:
    given = [word for name, value in CANARY_VALUES.items() for word in ("--set", f"{name}={value}")]
    return rendered(f"{release}-canary", *given)


def named(manifests: list[Manifest]) -> set[tuple[str, str]]:
    return {(each["kind"], each["metadata"]["name"]) for each in manifests}


@every_release
def test_route_and_service_of_the_present_release_are_called_as_they_are_looked_for(release: str) -> None:
    edge = edge_of(release)
    assert {("HTTPRoute", edge), ("Service", edge), ("Deployment", edge)} <= named(rendered(release))


@every_release
def test_canary_has_the_service_that_the_route_is_led_to(release: str) -> None:
    edge = edge_of(f"{release}-canary")
    assert {("Service", edge), ("Deployment", edge)} <= named(canary(release))


def test_canary_has_no_route_one_pod_of_each_kind_and_does_not_grow() -> None:
    manifests = canary("parley")
    assert not {each["kind"] for each in manifests} & (ROUTES | SCALERS | {"PrometheusRule"})
    assert {each["spec"]["replicas"] for each in manifests if each["kind"] == "Deployment"} == {1}


def test_canary_shares_no_object_with_the_present_release() -> None:
    assert not named(canary("parley")) & named(rendered("parley"))
