"""Values that Helm has to refuse, each with a message that tells an operator what to change."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.deploy.renders import KUBERNETES, NAMESPACE, RELEASE, helm
from tests.deploy.schema import CHART, GRPC_SERVICES, REMEDY, SCHEMA, grpc_services_text, schema_text

SCALED_TWICE: Final = {
    "queueScaling": {"kind": "keda", "prometheusUrl": "http://prometheus:9090"},
    "autoscaling": {"enabled": True},
}
REFUSED: Final[dict[str, tuple[dict[str, Any], tuple[str, ...]]]] = {  # Any: values are whatever somebody writes
    "unknown value": ({"replicaCount": 2}, ("additional properties 'replicaCount' not allowed",)),
    "unknown component": ({"components": {"gateway": {}}}, ("/components", "'gateway' not allowed")),
    "unknown value of a component": ({"components": {"edge": {"replica": 2}}}, ("/components/edge", "'replica' not")),
    "setting that nothing reads": (
        {"settings": {"edge": {"PARLEY_EDGE_STREAM_MAX": 5}}},
        ("/settings/edge", "'PARLEY_EDGE_STREAM_MAX' not allowed"),
    ),
    "setting of another service": (
        {"settings": {"auth": {"PARLEY_EDGE_STREAMS_MAX": 5}}},
        ("/settings/auth", "'PARLEY_EDGE_STREAMS_MAX' not allowed"),
    ),
    "secret in the values": (
        {"settings": {"auth": {"PARLEY_DATABASE_URL": "postgresql://parley:secret@db/parley"}}},
        ("/settings/auth", "'PARLEY_DATABASE_URL' not allowed"),
    ),
    "setting out of its bounds": (
        {"settings": {"conversation": {"PARLEY_CONVERSATION_CONCURRENCY": 0}}},
        ("/settings/conversation/PARLEY_CONVERSATION_CONCURRENCY", "minimum"),
    ),
    "setting that is no number": (
        {"settings": {"common": {"PARLEY_DRAIN_S": "long"}}},
        ("/settings/common/PARLEY_DRAIN_S", "got string, want number"),
    ),
    "setting without which grace is unknown": (
        {"settings": {"common": {"PARLEY_DRAIN_S": None}}},
        ("/settings/common", "missing property 'PARLEY_DRAIN_S'"),
    ),
    "log level that is none": (
        {"settings": {"common": {"PARLEY_LOG_LEVEL": "LOUD"}}},
        ("/settings/common/PARLEY_LOG_LEVEL", "'DEBUG'"),
    ),
    "no name of the database's secret": ({"secrets": {"database": {"name": ""}}}, ("/secrets/database/name",)),
    "digest that is none": ({"image": {"digest": "latest"}}, ("/image/digest", "does not match pattern")),
    "root": ({"pod": {"runAsUser": 0}}, ("/pod/runAsUser", "minimum")),
    "memory that is none": (
        {"components": {"auth": {"resources": {"limits": {"memory": "lots"}}}}},
        ("/components/auth/resources/limits/memory", "does not match pattern"),
    ),
    "queue that is none": ({"queue": {"kind": "rabbitmq"}}, ("/queue/kind", "'valkey', 'kafka'")),
    "Kafka without its address": ({"queue": {"kind": "kafka"}}, ("kind kafka needs kafka.bootstrap", "such as")),
    "Kafka's address without a port": (
        {"queue": {"kind": "kafka", "kafka": {"bootstrap": "kafka"}}},
        ("/queue/kafka/bootstrap", "does not match pattern"),
    ),
    "workers scaled twice": (
        {"components": {"conversation-worker": SCALED_TWICE}},
        ("/components/conversation-worker", "'autoscaling' not allowed"),
    ),
    "workers scaled by both": (
        {"components": {"conversation-worker": {"queueScaling": {"kind": "keda,external-metric"}}}},
        ("/components/conversation-worker/queueScaling/kind", "'none', 'keda', 'external-metric'"),
    ),
    "KEDA that has nobody to ask": (
        {"components": {"conversation-worker": {"queueScaling": {"kind": "keda"}}}},
        ("kind keda needs prometheusUrl", "such as"),
    ),
    "KEDA that has nobody to ask about documents": (
        {"components": {"retrieval-worker": {"queueScaling": {"kind": "keda"}}}},
        ("components.retrieval-worker.queueScaling: kind keda needs prometheusUrl", "such as"),
    ),
    "workers scaled by a processor that is always busy": (
        {"components": {"retrieval-worker": {"autoscaling": {"enabled": True}}}},
        ("/components/retrieval-worker", "'autoscaling' not allowed"),
    ),
    "fewer than the fewest": (
        {"components": {"edge": {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 3}}}},
        ("components.edge: minReplicas (5) is more than maxReplicas (3)",),
    ),
    "consumer that calls itself the edge": (
        {"mtls": {"consumers": {"spiffe://cluster.local/ns/reports/reports": "edge"}}},
        ("mtls.consumers", "may not be called edge"),
    ),
    "consumer without a SPIFFE id": (
        {"mtls": {"consumers": {"reports.example.org": "reports"}}},
        ("/mtls/consumers", "'reports.example.org' not allowed"),
    ),
    "life of a certificate that cert-manager cannot read": (
        {"mtls": {"certManager": {"duration": "30d"}}},
        ("/mtls/certManager/duration", "does not match pattern"),
    ),
    "ingress for every host": ({"ingress": {"enabled": True}}, ("ingress.enabled needs ingress.hostnames",)),
    "host with a scheme": (
        {"ingress": {"enabled": True, "hostnames": ["https://parley.example.org"]}},
        ("/ingress/hostnames/0", "does not match pattern"),
    ),
    "HTTPRoute without a Gateway": ({"httpRoute": {"enabled": True}}, ("needs httpRoute.parentRefs",)),
    "GRPCRoute that policies drop": (
        {"grpcRoute": {"enabled": True, "parentRefs": [{"name": "internal"}]}},
        ("grpcRoute.enabled needs networkPolicy.grpcClients",),
    ),
    "peer that is misspelt": (
        {"networkPolicy": {"scrapers": [{"namespaceselector": {}}]}},
        ("/networkPolicy/scrapers/0", "'namespaceselector' not allowed"),
    ),
    "keys that no file names": ({"providers": {"keysSecret": "keys"}}, ("needs providers.configMap",)),
    "restore without the job that tells of it": (
        {"migrations": {"enabled": False, "afterRestore": True}},
        ("migrations.afterRestore needs migrations.enabled",),
    ),
    "label that is no text": ({"commonLabels": {"team": 7}}, ("/commonLabels/team", "got number, want string")),
}


def test_schema_is_what_the_product_makes_of_it() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), REMEDY


def test_every_grpc_service_has_a_route() -> None:
    assert GRPC_SERVICES.read_text(encoding="utf-8") == grpc_services_text(), REMEDY


def refusal(*arguments: str) -> str:
    made = helm("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *arguments)
    assert made.returncode != 0, "it was taken"
    return made.stderr


@pytest.mark.parametrize("case", REFUSED)
def test_values_are_refused_with_their_place_and_what_is_wrong(case: str, tmp_path: Path) -> None:
    values, told = REFUSED[case]
    path = tmp_path / "values.yaml"
    path.write_text(json.dumps(values))
    message = refusal("--kube-version", KUBERNETES, "--values", str(path))
    assert [part for part in told if part not in message] == [], message


def test_a_cluster_that_is_too_old_is_refused() -> None:
    assert "requires kubeVersion: >=1.31.0-0" in refusal("--kube-version", "1.30.0")
