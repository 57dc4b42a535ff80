"""Reads `providers.toml`: what is wrong with it is told with its line."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from services.inference.routes.schema import File

SHIPPED: Final = Path(__file__).parents[1] / "providers.toml"
BYTES_MAX: Final = 1_048_576

_HEADER: Final = re.compile(r"^\s*\[\[?\s*([A-Za-z_]+)")
_SYNTAX: Final = re.compile(r"^(?P<why>.*) \(at (?:line (?P<line>\d+), column \d+|end of document)\)$")


class RoutesError(Exception):
    """The file is not what its format says; the message tells file, line and reason of each fault."""


def read(path: Path) -> File:
    """The file at `path`.

    Raises:
        RoutesError: it cannot be read, or does not fit.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise RoutesError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > BYTES_MAX:
        raise RoutesError(f"{path}: is larger than {BYTES_MAX} bytes")
    try:
        return parse(raw.decode("utf-8"), name=str(path))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RoutesError(f"{path}:{line}: is not UTF-8") from None


def parse(text: str, *, name: str) -> File:
    """What `text` holds; `name` stands before each fault.

    Raises:
        RoutesError: it does not fit.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _SYNTAX.match(str(error))
        line = found["line"] if found and found["line"] else text.count("\n") + 1
        raise RoutesError(f"{name}:{line}: {found['why'] if found else error}") from None
    try:
        return File.model_validate(content)
    except ValidationError as error:
        faults = dict.fromkeys(_faults(error, text, name, content))
        raise RoutesError("\n".join(faults)) from None


def line_of(text: str, *path: str | int) -> int:
    """Line, from 1, at which the entry at `path` stands; the nearest line above it where its own cannot be told."""
    lines = text.splitlines()
    start, end = _section(lines, path)
    at = start
    for step in path[2 if len(path) > 1 and isinstance(path[1], int) else 1 :]:
        pattern, nth = (r"\{", step) if isinstance(step, int) else (rf"(?:^|[\s{{,]){re.escape(step)}\s*=", 0)
        found = [number for number in range(at, end) for _ in re.findall(pattern, lines[number].split("#", 1)[0])]
        at = found[nth] if nth < len(found) else at
    return at + 1


def _faults(error: ValidationError, text: str, name: str, content: dict[str, Any]) -> Iterator[str]:  # Any: any TOML
    for item in error.errors():
        # A union adds the names of its branches, which stand nowhere in the file.
        path = tuple(step for step in item["loc"] if _stands(step))
        shown = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
        why = str(item["msg"]).removeprefix("Value error, ")
        yield f"{name}:{line_of(text, *path)}: {_named(content, path) or shown}: {why}"


def _stands(step: str | int) -> bool:
    return isinstance(step, int) or re.fullmatch(r"[a-z0-9_-]+", step) is not None


def _named(content: dict[str, Any], path: tuple[str | int, ...]) -> str:  # Any: as above
    """`provider "openai": keys[0].env` says more than an index."""
    match path:
        case (str(table), int(index), *rest):
            entry = content[table][index]
            name = entry.get("name") if isinstance(entry, dict) else None
            where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in rest).lstrip(".")
            return f"{table} {name!r}" + (f": {where}" if where else "") if name else ""
        case _:
            return ""


def _section(lines: list[str], path: tuple[str | int, ...]) -> tuple[int, int]:
    """First line of the table at `path` and the line after its last one."""
    table, index = (path[0] if path else ""), (path[1] if len(path) > 1 else None)
    headers = {number: found[1] for number, line in enumerate(lines) if (found := _HEADER.match(line))}
    own = [number for number, name in headers.items() if name == table]
    if own and isinstance(index, int) and index < len(own):
        start = own[index]
    elif own:
        start = own[0]
    else:
        pattern = re.compile(rf"^\s*{re.escape(str(table))}\s*=") if table else re.compile("")
        start = next((number for number, line in enumerate(lines) if pattern.match(line)), 0)
    return start, next((number for number in headers if number > start), len(lines))
