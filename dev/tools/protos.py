"""Generate the typed stubs of ``proto/`` into ``generated/``, or compare what is committed with a fresh generation.

Owns everything below ``generated/`` and the staged copy of Google's annotations that buf and protoc read.
"""

import argparse
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from google.protobuf import descriptor_pb2

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto"
GENERATED = ROOT / "generated"
GOOGLEAPIS = ROOT / ".build" / "googleapis"
DESCRIPTORS = Path("parley") / "parley.binpb"

_IMPORT = re.compile(r'^import (?:public )?"(google/[^"]+)";', re.MULTILINE)
_BUNDLED_WITH_PROTOC = "google/protobuf/"


class ProtoError(Exception):
    """The contracts do not compile, or lean on a file that nobody provides."""


def stage_googleapis(protos: Path, target: Path) -> None:
    """Copy the Google API protos that ``protos`` import, and what those import, from the installed package.

    They are staged rather than vendored: the pinned googleapis-common-protos is their one source.

    Raises:
        ProtoError: A google import that the package does not hold.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    waiting = set(_google_imports(_sources(protos)))
    while waiting:
        name = waiting.pop()
        source = Path(str(metadata.distribution("googleapis-common-protos").locate_file(name)))
        if not source.is_file():
            message = f"googleapis-common-protos holds no {name!r}"
            raise ProtoError(message)
        staged = target / name
        staged.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, staged)
        waiting |= {found for found in _google_imports([source]) if not (target / found).exists()}


def generate(protos: Path, target: Path, *, googleapis: Path) -> None:
    """Write stubs, annotations and descriptors of every file in ``protos`` to the empty folder ``target``.

    Raises:
        ProtoError: protoc refuses a file; the message is protoc's own.
    """
    sources = _sources(protos)
    descriptors = target / DESCRIPTORS
    descriptors.parent.mkdir(parents=True, exist_ok=True)
    scripts = Path(sysconfig.get_path("scripts"))
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc"),
        f"--proto_path={protos}",
        f"--proto_path={googleapis}",
        f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out={target}",
        # only_async: the servers and clients here are grpc.aio alone, and mixed stubs lose the types of both.
        f"--mypy_grpc_out=only_async:{target}",
        f"--descriptor_set_out={descriptors}",
        "--include_imports",
        "--include_source_info",
        *(str(source) for source in sources),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ProtoError(done.stderr.strip())
    prune(target, descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes()))
    _mark_packages(target / "parley")


def prune(target: Path, descriptors: descriptor_pb2.FileDescriptorSet) -> None:
    """Remove the ``_grpc`` modules that protoc writes for files without services."""
    for file in descriptors.file:
        if not file.service:
            for suffix in ("_pb2_grpc.py", "_pb2_grpc.pyi"):
                (target / (file.name.removesuffix(".proto") + suffix)).unlink(missing_ok=True)


def differences(fresh: Path, committed: Path) -> list[str]:
    """Name every file that differs between two generated trees, with the way in which it does."""
    found = []
    for name in sorted(_files(fresh) | _files(committed)):
        if not (committed / name).exists():
            found.append(f"missing {name}")
        elif not (fresh / name).exists():
            found.append(f"stale {name}")
        elif (fresh / name).read_bytes() != (committed / name).read_bytes():
            found.append(f"differs {name}")
    return found


def install(fresh: Path, committed: Path) -> list[str]:
    """Make ``committed`` equal to ``fresh``, touching only what differs, and return what was touched."""
    changes = differences(fresh, committed)
    for change in changes:
        _, name = change.split(" ", 1)
        if (fresh / name).exists():
            (committed / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(fresh / name, committed / name)
        else:
            (committed / name).unlink()
    return changes


def main(arguments: list[str]) -> int:
    """Generate into the repository, or with ``--check`` only compare."""
    parser = argparse.ArgumentParser(prog="python -m dev.tools.protos", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the committed stubs are not those of proto/")
    parser.add_argument("--stage-only", action="store_true", help="only stage Google's annotations for buf")
    chosen = parser.parse_args(arguments)
    try:
        stage_googleapis(PROTO, GOOGLEAPIS)
        if chosen.stage_only:
            return 0
        with tempfile.TemporaryDirectory() as folder:
            fresh = Path(folder)
            generate(PROTO, fresh, googleapis=GOOGLEAPIS)
            changes = differences(fresh, GENERATED) if chosen.check else install(fresh, GENERATED)
    except ProtoError as error:
        print(error, file=sys.stderr)
        return 1
    for change in changes:
        print(f"generated: {change}")
    if chosen.check and changes:
        print("generated/ is not what proto/ says: run `make proto` and commit the result", file=sys.stderr)
        return 1
    return 0


def _sources(protos: Path) -> list[Path]:
    return sorted(protos.rglob("*.proto"))


def _google_imports(sources: Iterable[Path]) -> Iterator[str]:
    for source in sources:
        for name in _IMPORT.findall(source.read_text(encoding="utf-8")):
            if not name.startswith(_BUNDLED_WITH_PROTOC):
                yield name


def _mark_packages(package: Path) -> None:
    """Make ``package`` a typed, regular package, so that no other distribution can add modules to it."""
    (package / "py.typed").touch()
    for folder in (package, *(path for path in package.rglob("*") if path.is_dir())):
        (folder / "__init__.py").touch()


def _files(tree: Path) -> set[str]:
    return {
        str(path.relative_to(tree))
        for path in tree.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
