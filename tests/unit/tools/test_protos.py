from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from dev.tools import protos

WITH_SERVICE = """
syntax = "proto3";

package parley.sample.v1;

import "google/api/annotations.proto";
import "parley/sample/v1/noun.proto";

// NounService keeps nouns.
service NounService {
  // GetNoun returns a noun.
  rpc GetNoun(Noun) returns (Noun) {
    option (google.api.http) = {get: "/nouns/{name}"};
  }
}
"""

WITHOUT_SERVICE = """
syntax = "proto3";

package parley.sample.v1;

// Noun is a thing.
message Noun {
  // name is what it is called.
  string name = 1;
}
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "with a space" / "proto"
    package = folder / "parley" / "sample" / "v1"
    package.mkdir(parents=True)
    (package / "noun_service.proto").write_text(WITH_SERVICE, encoding="utf-8")
    (package / "noun.proto").write_text(WITHOUT_SERVICE, encoding="utf-8")
    return folder


@pytest.fixture
def generated(sources: Path, tmp_path: Path) -> Path:
    googleapis = tmp_path / "googleapis"
    protos.stage_googleapis(sources, googleapis)
    target = tmp_path / "generated"
    protos.generate(sources, target, googleapis=googleapis)
    return target


def test_only_files_with_services_get_grpc_modules(generated: Path) -> None:
    names = {path.name for path in generated.rglob("*_pb2_grpc*")}
    assert names == {"noun_service_pb2_grpc.py", "noun_service_pb2_grpc.pyi"}


def test_stubs_are_typed_for_aio_alone(generated: Path) -> None:
    annotations = (generated / "parley/sample/v1/noun_service_pb2_grpc.pyi").read_text(encoding="utf-8")
    assert "aio.Channel" in annotations
    assert "grpc.Channel" not in annotations
    assert (generated / "parley" / "py.typed").exists()


def test_every_generated_folder_is_a_regular_package(generated: Path) -> None:
    folders = [generated / "parley", generated / "parley" / "sample", generated / "parley" / "sample" / "v1"]
    assert all((folder / "__init__.py").exists() for folder in folders)


def test_descriptors_hold_comments_and_imports(generated: Path) -> None:
    descriptors = descriptor_pb2.FileDescriptorSet.FromString((generated / protos.DESCRIPTORS).read_bytes())
    by_name = {file.name: file for file in descriptors.file}
    assert "google/api/http.proto" in by_name
    comments = {
        location.leading_comments.strip()
        for location in by_name["parley/sample/v1/noun_service.proto"].source_code_info.location
    }
    assert "GetNoun returns a noun." in comments


def test_staging_follows_imports_and_leaves_what_protoc_bundles(sources: Path, tmp_path: Path) -> None:
    protos.stage_googleapis(sources, tmp_path / "staged")
    staged = {str(path.relative_to(tmp_path / "staged")) for path in (tmp_path / "staged").rglob("*.proto")}
    assert staged == {"google/api/annotations.proto", "google/api/http.proto"}


def test_an_import_that_nobody_provides_is_named(sources: Path, tmp_path: Path) -> None:
    broken = WITHOUT_SERVICE.replace("// Noun is", 'import "google/api/nothing.proto";\n// Noun is')
    (sources / "parley/sample/v1/noun.proto").write_text(broken, encoding="utf-8")
    with pytest.raises(protos.ProtoError, match=r"no .google/api/nothing\.proto"):
        protos.stage_googleapis(sources, tmp_path / "staged")


def test_a_syntax_error_is_told_in_the_words_of_protoc(sources: Path, tmp_path: Path) -> None:
    (sources / "parley/sample/v1/noun.proto").write_text(WITHOUT_SERVICE + "message {", encoding="utf-8")
    with pytest.raises(protos.ProtoError, match=r"noun\.proto"):
        protos.generate(sources, tmp_path / "out", googleapis=tmp_path)


def test_differences_name_missing_stale_and_changed_files_and_install_removes_them(tmp_path: Path) -> None:
    fresh, committed = tmp_path / "fresh", tmp_path / "committed"
    for tree, names in ((fresh, ("same", "changed", "new/file")), (committed, ("same", "changed", "old"))):
        for name in names:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(name if name == "same" else f"{tree.name} {name}", encoding="utf-8")
    expected = ["differs changed", "missing new/file", "stale old"]
    assert protos.differences(fresh, committed) == expected
    assert protos.install(fresh, committed) == expected
    assert protos.differences(fresh, committed) == []


def test_caches_of_python_are_no_difference(tmp_path: Path) -> None:
    (tmp_path / "committed" / "__pycache__").mkdir(parents=True)
    (tmp_path / "committed" / "__pycache__" / "x.cpython-311.pyc").touch()
    (tmp_path / "fresh").mkdir()
    assert protos.differences(tmp_path / "fresh", tmp_path / "committed") == []
