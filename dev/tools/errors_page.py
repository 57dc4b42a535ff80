"""Write docs/errors.md from the comments of `parley.common.v1.ErrorReason`, or check that it is up to date."""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from google.protobuf import descriptor_pb2

from dev.tools.protos import DESCRIPTORS, GENERATED, ROOT

PAGE: Final = ROOT / "docs" / "errors.md"
ENUM: Final = "ErrorReason"
PREFIX: Final = "ERROR_REASON_"

_COMMENT: Final = re.compile(r"ERROR_REASON_\w+ \((?P<code>\w+), HTTP (?P<http>\d{3})\): (?P<meaning>.+)")
# Paths of descriptor.proto: FileDescriptorProto.enum_type = 5, EnumDescriptorProto.value = 2.
_ENUM_TYPE: Final = 5
_ENUM_VALUE: Final = 2

_HEAD: Final = """\
# Errors

<!-- Written by `make proto` from proto/parley/common/v1/error_reason.proto. -->

Every refusal carries a reason that programs can rely on: in gRPC as `google.rpc.ErrorInfo.reason` (domain `parley`), in
REST as the member `reason` of an `application/problem+json` body (RFC 9457). The text beside it is for people and may
change. `request_id` finds the call in the logs.

| reason | gRPC code | HTTP status | meaning |
|---|---|---|---|
"""


def page(descriptors: Path) -> str:
    """The text of the page for the contracts in a descriptor set with comments."""
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes())
    rows = (f"| `{reason}` | `{code}` | {http} | {meaning} |\n" for reason, code, http, meaning in _reasons(files))
    return _HEAD + "".join(rows)


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` only compare."""
    parser = argparse.ArgumentParser(prog="python -m dev.tools.errors_page", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the committed page is not what proto/ says")
    chosen = parser.parse_args(arguments)
    text = page(GENERATED / DESCRIPTORS)
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    if chosen.check:
        print("docs/errors.md is not what proto/ says: run `make proto` and commit the result", file=sys.stderr)
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


def _reasons(files: descriptor_pb2.FileDescriptorSet) -> Iterator[tuple[str, str, str, str]]:
    for file in files.file:
        for number, enum in enumerate(file.enum_type):
            if enum.name == ENUM:
                yield from _values(file, number, enum)


def _values(
    file: descriptor_pb2.FileDescriptorProto, number: int, enum: descriptor_pb2.EnumDescriptorProto
) -> Iterator[tuple[str, str, str, str]]:
    comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
    for index, value in enumerate(enum.value[1:], start=1):
        comment = " ".join(comments[_ENUM_TYPE, number, _ENUM_VALUE, index].split())
        match = _COMMENT.fullmatch(comment)
        if match is None:
            raise SystemExit(f"{value.name}: its comment is not 'NAME (CODE, HTTP nnn): meaning'")
        yield value.name.removeprefix(PREFIX), match["code"], match["http"], match["meaning"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
