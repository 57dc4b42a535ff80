from pathlib import Path

from dev.tools import tidiness

# Assembled, so that the gate does not find them in this file.
BLANKET = "import x  # no" + "qa"
UNREASONED = "import x  # no" + "qa: F401"
UNREASONED_TYPE = "x = y()  # type: ig" + "nore[no-untyped-call]"


def write(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_no_file_of_this_repository_is_too_long() -> None:
    assert list(tidiness.too_long(tidiness.ROOT, tidiness.tracked_files(tidiness.ROOT))) == []


def test_every_exception_of_this_repository_gives_its_reason() -> None:
    assert list(tidiness.unexplained(tidiness.ROOT, tidiness.tracked_files(tidiness.ROOT))) == []


def test_every_ignored_rule_of_pyproject_gives_its_reason() -> None:
    text = (tidiness.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert list(tidiness.unexplained_ignores(text)) == []


def test_generated_files_are_not_measured() -> None:
    assert not [path for path in tidiness.tracked_files(tidiness.ROOT) if "generated" in path.parts]


def test_the_limit_of_lines_is_inclusive(tmp_path: Path) -> None:
    files = [
        write(tmp_path, "services/good.py", "x\n" * tidiness.LINES_MAX),
        write(tmp_path, "services/bad.py", "x\n" * (tidiness.LINES_MAX + 1)),
        write(tmp_path, "tests/bad.py", "x\n" * (tidiness.LINES_MAX + 1)),
    ]
    found = list(tidiness.too_long(tmp_path, files))
    assert [line.partition(":")[0] for line in found] == ["services/bad.py", "tests/bad.py"]


def test_blanket_and_unreasoned_suppressions_are_found(tmp_path: Path) -> None:
    lines = [
        BLANKET,
        UNREASONED,
        UNREASONED_TYPE,
        f"{UNREASONED} re-exported for callers",
        f"{UNREASONED_TYPE}  # untyped",
    ]
    path = write(tmp_path, "a.py", "\n".join(lines))
    found = list(tidiness.unexplained(tmp_path, [path]))
    assert [line.split(":")[1] for line in found] == ["1", "2", "3"]


def test_an_ignored_rule_without_a_reason_is_found() -> None:
    text = '[tool.ruff.lint]\nselect = ["ALL"]\nignore = [\n  "D105",\n  "D107",  # why\n]\n[other]\nx = "D1"\n'
    assert list(tidiness.unexplained_ignores(text)) == ["pyproject.toml:4: D105 ignored without a reason"]
