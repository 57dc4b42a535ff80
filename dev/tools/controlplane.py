"""Get a Kubernetes control plane into .build/deploy, built from Go modules: what a chart is really installed on.

The API server with its admission, the controllers, the scheduler, etcd and kubectl are the real ones. kwok plays the
nodes: it reports pods ready and jobs complete, and runs no container.
"""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

GIVEN: Final = "PARLEY_CONTROL_PLANE"
"""Variable that names a folder with the programs below, where somebody has built them already."""
KUBERNETES: Final = "1.34.2"
ETCD: Final = "3.6.7"
KWOK: Final = "0.8.0"
_OF_KUBERNETES: Final = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
PROGRAMS: Final = (*_OF_KUBERNETES, "etcd", "kwok")
STAGES: Final = f"sigs.k8s.io/kwok@v{KWOK}"
"""The module in which kwok's own stages lie: how it lets nodes and pods live."""
_ETCD_MAIN: Final = """package main

import (
\t"os"

\t"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
"""
_GO_MIN: Final = "1.25"


def build(home: Path) -> None:
    """Build what is not there yet, and link all of it into `home`/bin."""
    given = os.environ.get(GIVEN)
    folder = Path(given) if given else home / f"control-plane-{KUBERNETES}-{ETCD}-{KWOK}"
    if given is None and not all((folder / name).exists() for name in PROGRAMS):
        print("deploy-tools: building a Kubernetes control plane; a quarter of an hour or more, once", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        _build_kwok(folder)
        _build_etcd(folder)
        _build_kubernetes(folder)
    for name in PROGRAMS:
        if not (folder / name).exists():
            raise SystemExit(f"deploy-tools: {GIVEN} names {folder}, which has no {name}")
        link = home / "bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to(folder.resolve() / name)


def _build_kwok(folder: Path) -> None:
    _go("install", f"sigs.k8s.io/kwok/cmd/kwok@v{KWOK}", cwd=folder, GOBIN=str(folder.resolve()))


def _build_etcd(folder: Path) -> None:
    """Etcd's command is no package that `go install` takes; its main function is."""
    with tempfile.TemporaryDirectory() as name:
        module = _module(name, "etcd")
        (module / "main.go").write_text(_ETCD_MAIN, encoding="utf-8")
        _go("get", f"go.etcd.io/etcd/server/v3@v{ETCD}", cwd=module)
        _go("mod", "tidy", cwd=module)
        _go("build", "-o", str(folder.resolve() / "etcd"), ".", cwd=module)


def _build_kubernetes(folder: Path) -> None:
    """Kubernetes takes its libraries from folders beside it, so the module that builds it names their versions."""
    packages = [f"k8s.io/kubernetes/cmd/{name}" for name in _OF_KUBERNETES]
    with tempfile.TemporaryDirectory() as name:
        module = _module(name, "kubernetes")
        imports = "".join(f'import _ "{package}"\n' for package in packages)
        (module / "tools.go").write_text(f"//go:build tools\n\npackage kubernetes\n\n{imports}", encoding="utf-8")
        _go("mod", "edit", "-require", f"k8s.io/kubernetes@v{KUBERNETES}", cwd=module)
        for library in _libraries(module):
            _go("mod", "edit", "-replace", f"{library}={library}@v0.{KUBERNETES.partition('.')[2]}", cwd=module)
        _go("mod", "tidy", cwd=module)
        major, minor, _ = KUBERNETES.split(".")
        of = "k8s.io/component-base/version"
        said = f"-X {of}.gitVersion=v{KUBERNETES} -X {of}.gitMajor={major} -X {of}.gitMinor={minor}"
        target = ["-ldflags", f"-s -w {said}", "-o", f"{folder.resolve()}/"]
        _go("build", "-tags", "tools", *target, *packages, cwd=module)


def _module(folder: str, name: str) -> Path:
    (Path(folder) / "go.mod").write_text(f"module {name}\n\ngo {_GO_MIN}\n", encoding="utf-8")
    return Path(folder)


def _libraries(module: Path) -> list[str]:
    """Modules that Kubernetes replaces by folders of its own repository."""
    told = _go("mod", "download", "-json", f"k8s.io/kubernetes@v{KUBERNETES}", cwd=module)
    edited = _go("mod", "edit", "-json", json.loads(told)["GoMod"], cwd=module)
    return [each["Old"]["Path"] for each in json.loads(edited)["Replace"]]


def _go(*words: str, cwd: Path, **environment: str) -> str:
    go = shutil.which("go")
    assert go is not None
    known = {name: value for name, value in os.environ.items() if name != "GOBIN"}
    done = subprocess.run([go, *words], cwd=cwd, env=known | environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout
