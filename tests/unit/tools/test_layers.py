"""The table of who may import whom, held against a small tree: once lawful, then with one trespass per row."""

import os
import re
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest

from dev.tools import tidiness

SERVICES = ("auth", "conversation", "retrieval", "inference")

# What every row of the table allows, in one file each.
LAWFUL = {
    "services/mesh/errors.py": "",
    "services/mesh/server.py": "import grpc\nfrom parley.common.v1 import usage_pb2\n",
    "services/mesh/postgres/database.py": "import sqlalchemy\n",
    "services/mesh/clock.py": "",
    "services/auth/model.py": "from services.mesh import errors\n",
    "services/auth/logins.py": "from services.auth import model, ports, store\nfrom services.mesh import clock\n",
    "services/auth/ports.py": "from services.auth import model\n",
    "services/auth/store.py": "from services.auth import model\n",
    "services/mesh/settings.py": "",
    "services/auth/settings.py": "from services.mesh import settings\n",
    "services/auth/tables.py": "import sqlalchemy\n",
    "services/auth/wire.py": "from parley.auth.v1 import user_pb2\nfrom services.auth import model\n",
    "services/auth/servicer.py": "import grpc\nimport parley.auth.v1.user_pb2\nfrom services.auth import wire\n",
    "services/auth/clients.py": "import grpc\nimport parley.auth.v1.user_pb2\nfrom services.auth import ports, wire\n",
    "services/auth/store_postgres.py": (
        "import sqlalchemy\nfrom services.auth import model, tables\nfrom services.mesh.postgres import database\n"
    ),
    "services/auth/store_memory.py": "from services.auth import model\n",
    "services/auth/app.py": "from services.auth import clients, logins, servicer, settings, store_postgres\n",
    "services/auth/cli.py": "from services.auth import app, settings, store_postgres\n",
    "services/inference/providers/openai.py": "import openai\n",
    "services/inference/providers/anthropic.py": "import anthropic\n",
    "services/retrieval/embedding.py": "import sentence_transformers\n",
    "services/retrieval/index/flat.py": "import faiss\n",
    "edge/app.py": "import fastapi\nfrom parley.auth.v1 import user_pb2\nfrom services.mesh import errors\n",
    "parley/auth/v1/user_pb2.py": "import google.protobuf\n",
    "parley/common/v1/usage_pb2.py": "",
    "dev/up.py": "import subprocess\n",
}

# Contract, and the file and line that must break it.
TRESPASSES = [
    ("generated", "parley/auth/v1/user_pb2.py", "from services.mesh import errors"),
    ("mesh", "services/mesh/clock.py", "from services.auth import model"),
    ("mesh", "services/mesh/clock.py", "from edge import app"),
    ("mesh", "services/mesh/clock.py", "from parley.auth.v1 import user_pb2"),
    *(("model", "services/auth/model.py", f"import {name}") for name in ("grpc", "sqlalchemy", "pydantic")),
    ("model", "services/auth/model.py", "from parley.common.v1 import usage_pb2"),
    ("model", "services/auth/model.py", "from services.mesh.postgres import database"),
    *(("use-cases", "services/auth/logins.py", f"import {name}") for name in ("grpc", "sqlalchemy")),
    ("use-cases", "services/auth/logins.py", "from parley.auth.v1 import user_pb2"),
    ("use-cases", "services/auth/a_new_noun.py", "import grpc"),
    ("adapters", "services/auth/logins.py", "from services.auth import store_postgres"),
    ("adapters", "services/auth/logins.py", "from services.auth import wire"),
    *(("wire", "services/auth/wire.py", f"import {name}") for name in ("grpc", "sqlalchemy", "redis")),
    ("wire", "services/auth/wire.py", "from services.auth import store_postgres"),
    ("servicers", "services/auth/servicer.py", "import sqlalchemy"),
    ("servicers", "services/auth/servicer.py", "from services.auth import store"),
    ("servicers", "services/auth/servicer.py", "from services.auth import settings"),
    ("clients", "services/auth/clients.py", "from services.auth import store_memory"),
    ("stores", "services/auth/store_postgres.py", "import grpc"),
    ("stores", "services/auth/store_postgres.py", "from parley.auth.v1 import user_pb2"),
    ("independence", "services/auth/app.py", "from services.retrieval import embedding"),
    ("independence", "edge/app.py", "from services.auth import model"),
    ("independence", "services/auth/app.py", "from edge import app"),
    *(("edge", "edge/app.py", f"import {name}") for name in ("sqlalchemy", "asyncpg", "faiss", "openai", "anthropic")),
    ("providers", "services/inference/routing.py", "import openai"),
    ("providers", "services/mesh/client.py", "import anthropic"),
    ("vectors", "services/retrieval/search.py", "import faiss"),
    ("vectors", "services/inference/routing.py", "import sentence_transformers"),
    ("dev", "dev/up.py", "from services.mesh import errors"),
    ("dev", "dev/up.py", "import edge"),
]


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    for folder in path.relative_to(root).parents:
        if folder != Path():
            (root / folder / "__init__.py").touch()


def report(tree: Path) -> dict[str, str]:
    """Run import-linter with this repository's contracts in ``tree``; return what it says of each broken one, by id."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "200"}
    command = [str(Path(sysconfig.get_path("scripts")) / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    settings = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))
    ids = {contract["name"]: contract["id"] for contract in settings["tool"]["importlinter"]["contracts"]}
    verdicts = dict(re.findall(r"^(.+) (KEPT|BROKEN)(?: \(.+\))?$", done.stdout, re.MULTILINE))
    assert verdicts.keys() == ids.keys(), done.stdout + done.stderr
    sections = re.split(r"^(.+)\n-+$", done.stdout.partition("Broken contracts")[2], flags=re.MULTILINE)
    found = {ids[name]: text for name, text in zip(sections[1::2], sections[2::2], strict=True) if name in ids}
    assert found.keys() == {ids[name] for name, verdict in verdicts.items() if verdict == "BROKEN"}
    return found


@pytest.fixture(scope="module")
def lawful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("lawful")
    for service in SERVICES:
        write(tree, f"services/{service}/model.py", "")
        write(tree, f"parley/{service}/v1/noun_pb2.py", "")
    for name, text in LAWFUL.items():
        write(tree, name, text)
    shutil.copyfile(tidiness.ROOT / "pyproject.toml", tree / "pyproject.toml")
    return tree


@pytest.fixture(scope="module")
def findings(lawful: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    tree = tmp_path_factory.mktemp("trespassing") / "tree"
    shutil.copytree(lawful, tree)
    for _, name, line in TRESPASSES:
        before = (tree / name).read_text(encoding="utf-8") if (tree / name).exists() else ""
        write(tree, name, f"{before}{line}\n")
    return report(tree)


def test_what_the_table_allows_is_kept(lawful: Path) -> None:
    assert report(lawful) == {}


@pytest.mark.parametrize(("contract", "name", "line"), TRESPASSES, ids=lambda value: str(value).replace("/", "."))
def test_what_the_table_forbids_is_found(findings: dict[str, str], contract: str, name: str, line: str) -> None:
    importer = name.removesuffix(".py").replace("/", ".")
    imported = line.replace("from ", "").replace(" import ", ".").replace("import ", "")
    assert re.search(rf"{re.escape(importer)} -> {re.escape(imported)}\b", findings[contract])


def test_every_contract_has_a_trespass() -> None:
    settings = tomllib.loads((tidiness.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    ids = {contract["id"] for contract in settings["tool"]["importlinter"]["contracts"]}
    assert ids == {contract for contract, _, _ in TRESPASSES}
