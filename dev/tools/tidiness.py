"""Gates on the shape of the source that no linter offers: the length of files, and a reason beside each exception."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

# A file that passes this holds two nouns.
LINES_MAX = 400

_HAND_WRITTEN = {".py", ".js", ".css", ".html", ".proto", ".sh", ".md", ".toml", ".yaml", ".yml", ".sql"}
_SUPPRESSION = re.compile(r"#\s*(?:noqa(?!:)|type:\s*ignore(?!\[))")
_UNREASONED = re.compile(r"#\s*(?:noqa:\s*[A-Z0-9, ]+|type:\s*ignore\[[a-z0-9, -]+\])\s*$")


def tracked_files(root: Path) -> list[Path]:
    """List the hand-written text files that git knows, or would take."""
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    names = sorted(name for name in listed.stdout.split("\0") if name and not name.startswith("generated/"))
    return [path for path in (root / name for name in names) if path.suffix in _HAND_WRITTEN and path.is_file()]


def too_long(root: Path, files: list[Path]) -> Iterator[str]:
    """Name each file with more lines than a file may have."""
    for path in files:
        name = path.relative_to(root)
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > LINES_MAX:
            yield f"{name}: {lines} lines, at most {LINES_MAX}: split it by noun"


def unexplained(root: Path, files: list[Path]) -> Iterator[str]:
    """Name each suppression of a rule that is blanket, or gives no reason on its line."""
    for path in files:
        if path.suffix != ".py":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if _SUPPRESSION.search(line):
                yield f"{path.relative_to(root)}:{number}: suppresses every rule: name the one that is meant"
            elif _UNREASONED.search(line):
                yield f"{path.relative_to(root)}:{number}: a suppression without its reason on the same line"


def unexplained_ignores(pyproject: str) -> Iterator[str]:
    """Name each ruff rule that pyproject.toml ignores without a reason beside it."""
    inside = False
    for number, line in enumerate(pyproject.splitlines(), start=1):
        if line.startswith("["):
            inside = line in {"[tool.ruff.lint]", "[tool.ruff.lint.per-file-ignores]"}
        rules = re.findall(r'"([A-Z]+\d*)"', line)
        if inside and rules and rules != ["ALL"] and "#" not in line:
            yield f"pyproject.toml:{number}: {', '.join(rules)} ignored without a reason"


def main() -> int:
    """Print every finding of every gate."""
    files = tracked_files(ROOT)
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    findings = [*too_long(ROOT, files), *unexplained(ROOT, files), *unexplained_ignores(pyproject)]
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
