"""Asks a process what the kubelet would ask it, by the probes of its container."""

import http.client
from collections.abc import Mapping
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dev.ports import LOOPBACK

PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")
_OK: Final = range(200, 400)
"""What the kubelet takes for a yes."""


def passes(probe: Mapping[str, Any], ports: Mapping[str, int]) -> bool:  # Any: a probe as Kubernetes has it
    """Whether the probe passes for a process on this machine.

    Args:
        probe: of the container.
        ports: on which the process listens, by the names that they have in the container.
    """
    timeout_s = float(probe["timeoutSeconds"])
    if "grpc" in probe:
        return _serves(ports["health"], timeout_s)
    return _answers(ports[probe["httpGet"]["port"]], probe["httpGet"]["path"], timeout_s)


def _serves(port: int, timeout_s: float) -> bool:
    with grpc.insecure_channel(f"{LOOPBACK}:{port}") as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _answers(port: int, path: str, timeout_s: float) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status in _OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
