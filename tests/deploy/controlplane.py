"""A Kubernetes control plane on loopback, with two nodes that kwok plays: everything is real but the containers."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dev.ports import LOOPBACK, free_ports
from dev.spawning import launched
from tests.deploy.kubernetes import TOOLS, custom_resources
from tests.deploy.renders import ROOT, Manifest
from tests.support.waiting import wait_until

BIN: Final = TOOLS / "bin"
API_SERVER: Final = BIN / "kube-apiserver"
FAILS: Final = "kwok-fails"
"""Label of a job's pods that makes them fail."""
START_S_MAX: Final = 120.0
_COMMAND_S_MAX: Final = 300.0
_TOKEN: Final = "of-this-test-alone"
_NODES: Final = ("z1", "z2")
"""Zones, each with one node."""
_PRIORITY: Final[Manifest] = {
    "apiVersion": "scheduling.k8s.io/v1",
    "kind": "PriorityClass",
    "metadata": {"name": "parley"},
    "value": 1000,
}
"""What one of the sets asks of a cluster."""
_STAGES: Final = ("node/fast/node-*.yaml", "node/heartbeat/node-*.yaml", "pod/fast/pod-*.yaml")


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """A running one.

    Attributes:
        folder: state, logs and `kubeconfig`.
    """

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """In which kubectl and helm speak to it, and keep nothing elsewhere."""
        home = {
            name: str(self.folder / name.lower()) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
        }
        own = {"KUBECONFIG": str(self.folder / "kubeconfig"), "PATH": f"{BIN}:{os.environ['PATH']}"}
        return {**os.environ, **home, **own, "NO_PROXY": LOOPBACK, "no_proxy": LOOPBACK}

    def run(self, *command: str, given: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run helm, kubectl or what calls them, whatever the exit status."""
        return subprocess.run(
            command,
            env=self.environment,
            input=given,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=_COMMAND_S_MAX,
            check=False,
        )

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What kubectl prints; an AssertionError shows why it refuses."""
        done = self.run("kubectl", *arguments, given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def create(self, *manifests: Manifest) -> None:
        """Create objects."""
        self.kubectl("create", "-f", "-", given=yaml.safe_dump_all(manifests))

    def objects(self, kind: str, namespace: str, *arguments: str) -> list[Manifest]:
        """All objects of the kind in the namespace."""
        found: list[Manifest] = json.loads(self.kubectl("-n", namespace, "get", kind, "-o", "json", *arguments))[
            "items"
        ]
        return found

    def left(self, namespace: str) -> set[str]:
        """Names of everything in the namespace, with its kind; without what tells of the past."""
        listed = self.kubectl("api-resources", "--verbs=list", "--namespaced", "-o", "name").split()
        kinds = ",".join(kind for kind in listed if not kind.startswith("events"))
        return set(self.kubectl("-n", namespace, "get", kinds, "-o", "name", "--ignore-not-found").split())

    def left_beside(self, labels: str) -> set[str]:
        """Names of everything with these labels that is in no namespace."""
        listed = self.kubectl("api-resources", "--verbs=list", "--namespaced=false", "-o", "name").split()
        kinds = ",".join(kind for kind in listed if not kind.startswith("componentstatuses"))
        return set(self.kubectl("get", kinds, "-l", labels, "-o", "name", "--ignore-not-found").split())


@contextmanager
def running(folder: Path) -> Iterator[ControlPlane]:
    """Start a control plane in the folder; gone afterwards."""
    ports = free_ports(os.getpid())
    etcd, peers, api = (next(ports) for _ in range(3))
    _write_keys(folder)
    _write_kubeconfig(folder, api)
    plane = ControlPlane(folder)
    started: list[subprocess.Popen[bytes]] = []
    try:
        for program, words in _servers(etcd, peers, api).items():
            started.append(_start(folder, program, words))
        _await(plane, started, "get", "--raw", "/readyz")
        for program, words in _clients().items():
            started.append(_start(folder, program, words))
        plane.create(*custom_resources(), _PRIORITY, *(_node(zone) for zone in _NODES))
        started.append(_start(folder, "kwok", ["--kubeconfig=kubeconfig", "--manage-all-nodes=true", *_stages(folder)]))
        _await(plane, started, "wait", "--for=condition=Ready", "node", "--all", "--timeout=1s")
        _await(plane, started, "-n", "default", "get", "serviceaccount", "default")
        yield plane
    finally:
        for process in reversed(started):
            process.terminate()
        for process in reversed(started):
            _end(process)


def restricted(name: str) -> Manifest:
    """A namespace that enforces the restricted profile of pod security."""
    modes = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": modes}}


def _servers(etcd: int, peers: int, api: int) -> Mapping[str, Sequence[str]]:
    clients, others = f"http://{LOOPBACK}:{etcd}", f"http://{LOOPBACK}:{peers}"
    return {
        "etcd": [
            *("--data-dir=etcd", f"--listen-client-urls={clients}", f"--advertise-client-urls={clients}"),
            *(f"--listen-peer-urls={others}", f"--initial-advertise-peer-urls={others}"),
            *(f"--initial-cluster=default={others}", "--unsafe-no-fsync"),
        ],
        "kube-apiserver": [
            *(f"--etcd-servers={clients}", "--cert-dir=certs", f"--secure-port={api}", f"--bind-address={LOOPBACK}"),
            *("--service-account-key-file=accounts.key", "--service-account-signing-key-file=accounts.key"),
            *("--service-account-issuer=https://kubernetes.default.svc", "--token-auth-file=tokens.csv"),
            *("--authorization-mode=RBAC,Node", "--service-cluster-ip-range=10.96.0.0/16"),
        ],
    }


def _clients() -> Mapping[str, Sequence[str]]:
    alone = ("--kubeconfig=kubeconfig", "--leader-elect=false", "--secure-port=0")
    without = "--controllers=*,-nodeipam,-cloud-node-lifecycle"
    return {
        "kube-controller-manager": [*alone, without, "--service-account-private-key-file=accounts.key"],
        "kube-scheduler": alone,
    }


def _start(folder: Path, program: str, words: Sequence[str]) -> "subprocess.Popen[bytes]":
    with (folder / f"{program}.log").open("wb") as log:
        return subprocess.Popen(launched([BIN / program, *words], folder=folder), stdout=log, stderr=log)


def _await(plane: ControlPlane, started: Sequence["subprocess.Popen[bytes]"], *arguments: str) -> None:
    """Wait until kubectl succeeds; an AssertionError shows the logs of all, if one of them ends or it never does."""

    def is_so() -> bool:
        assert all(process.poll() is None for process in started)
        return plane.run("kubectl", *arguments).returncode == 0

    try:
        wait_until(is_so, within_s=START_S_MAX)
    except AssertionError as error:
        logs = {path.name: path.read_text(errors="replace")[-2000:] for path in plane.folder.glob("*.log")}
        raise AssertionError(f"{arguments}: {json.dumps(logs, indent=1)}") from error


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _write_keys(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    (folder / "accounts.key").write_bytes(key)
    (folder / "tokens.csv").write_text(f"{_TOKEN},admin,1,system:masters\n", encoding="utf-8")


def _write_kubeconfig(folder: Path, port: int) -> None:
    cluster = {"server": f"https://{LOOPBACK}:{port}", "insecure-skip-tls-verify": True}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "it", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": _TOKEN}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "admin"}}],
        "current-context": "it",
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(config), encoding="utf-8")


def _node(zone: str) -> Manifest:
    labels = {
        "kubernetes.io/hostname": f"node-{zone}",
        "topology.kubernetes.io/zone": zone,
        "kubernetes.io/os": "linux",
    }
    holds = {"cpu": "32", "memory": "128Gi", "ephemeral-storage": "500Gi", "pods": "250"}
    metadata = {"name": f"node-{zone}", "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": metadata,
        "status": {"allocatable": holds, "capacity": holds},
    }


def _stages(folder: Path) -> list[str]:
    """kwok's own stages, with one in front that fails the pods of a job where their label asks for it."""
    home = Path(json.loads((TOOLS / "modules.json").read_text(encoding="utf-8"))["kwok"]) / "kustomize" / "stage"
    files = [path for pattern in _STAGES for path in sorted(home.glob(pattern))]
    failing = folder / "fails.yaml"
    failing.write_text(yaml.safe_dump(_failing()), encoding="utf-8")
    return [f"--config={path}" for path in [*files, failing]]


def _failing() -> Manifest:
    matches = [
        {"key": ".metadata.ownerReferences.[].kind", "operator": "In", "values": ["Job"]},
        {"key": ".status.phase", "operator": "In", "values": ["Running"]},
    ]
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": "pod-fails"},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
            "selector": {"matchLabels": {FAILS: "true"}, "matchExpressions": matches},
            "next": {"statusTemplate": "phase: Failed\nreason: Error\n"},
            "weight": 1000,
        },
    }
