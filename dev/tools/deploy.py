"""Get what the chart is checked with into .build/deploy: programs built from Go modules, and schemas.

Nothing of it is needed to use or to change Parley. Where Go is missing, what can therefore not be checked is named.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from dev.tools import controlplane
from dev.tools.environment import ROOT, UV_HOME

HOME: Final = ROOT / ".build" / "deploy"
PROGRAMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "helm": "helm.sh/helm/v3/cmd/helm@v3.22.0",
        "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0",
        "actionlint": "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12",
    }
)
"""By name of the program: the command's package and its version."""
MODULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "prometheus-operator": "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        "gateway-api": "sigs.k8s.io/gateway-api@v1.6.3",
        "keda": "github.com/kedacore/keda/v2@v2.21.0",
        "cert-manager": "github.com/cert-manager/cert-manager@v1.20.2",
        "cloudnative-pg": "github.com/cloudnative-pg/cloudnative-pg@v1.27.1",
        "kwok": controlplane.STAGES,
    }
)
"""Their sources hold the schemas of the custom resources that the chart and its examples make, and how simulated nodes
behave; Go verifies their checksums."""
FOUND: Final = HOME / "modules.json"
"""Folders of these sources."""
SCHEMAS: Final = (
    "kubernetes-validate==1.37.0 --hash=sha256:85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9"
)
"""A wheel that holds the schemas of all minors; they are read where they lie in it."""
_SKIPPED: Final = (
    "lint, templates and committed renders (Helm)",
    "notes and their warnings (Helm)",
    "values that have to be refused (Helm)",
    "three minors of Kubernetes, and custom resources (kubeconform)",
    "workflows (actionlint)",
    "installation, upgrade, rollback and removal on a control plane (Kubernetes)",
)


def main() -> int:
    """Build and fetch what is not there yet."""
    if shutil.which("go") is None:
        for check in _SKIPPED:
            print(f"test-deploy: skipped, there is no Go: {check}")
        return 0
    for name, package in PROGRAMS.items():
        _build(name, package)
    found = {name: _source(module) for name, module in MODULES.items()}
    FOUND.write_text(json.dumps(found, indent=1), encoding="utf-8")
    _fetch_schemas()
    controlplane.build(HOME)
    return 0


def _build(name: str, package: str) -> None:
    """One program, in a folder that is named after its version, so that another version is built anew."""
    home = HOME / f"{name}-{package.rpartition('@')[2]}"
    if not (home / name).exists():
        print(f"deploy-tools: building {package}; some minutes, once", flush=True)
        home.mkdir(parents=True, exist_ok=True)
        subprocess.run(["go", "install", package], check=True, env={**os.environ, "GOBIN": str(home)})
    program = HOME / "bin" / name
    program.parent.mkdir(parents=True, exist_ok=True)
    program.unlink(missing_ok=True)
    program.symlink_to(home / name)


def _source(module: str) -> str:
    """Folder of a module's source in Go's own cache."""
    told = subprocess.run(["go", "mod", "download", "-json", module], check=True, capture_output=True, text=True)
    return str(json.loads(told.stdout)["Dir"])


def _fetch_schemas() -> None:
    name, _, version = SCHEMAS.partition(" ")[0].partition("==")
    if any(HOME.glob(f"{name.replace('-', '_')}-{version}-*.whl")):
        return
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as wanted:
        wanted.write(SCHEMAS + "\n")
        wanted.flush()
        pip = [str(UV_HOME / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        fetch = ["download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", wanted.name]
        subprocess.run([*pip, *fetch, "--dest", str(HOME)], check=True)


if __name__ == "__main__":
    sys.exit(main())
