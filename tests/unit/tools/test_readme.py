import re
import subprocess

import pytest

from dev.tools import tidiness
from tests.support.readme import examples

README = (tidiness.ROOT / "README.md").read_text(encoding="utf-8")
LINES_MAX = 150


def test_it_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) <= LINES_MAX


def test_it_has_the_examples_that_it_promises() -> None:
    assert examples().keys() == {"environment", "curl", "openai", "grpc"}


@pytest.mark.parametrize("name", ["environment", "curl"])
def test_shell_examples_are_shell(name: str) -> None:
    done = subprocess.run(["bash", "-n"], input=examples()[name], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["openai", "grpc"])
def test_python_examples_compile(name: str) -> None:
    compile(examples()[name], f"README.md:{name}", "exec")


def test_every_target_that_it_names_exists() -> None:
    makefile = (tidiness.ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"`?(?:^|[ `])make ([a-z][a-z-]+)(?=`|\s{2})", README, flags=re.MULTILINE))
    assert {"run", "test", "demo", "check", "help"} <= named
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))


def test_every_path_that_it_links_exists() -> None:
    linked = re.findall(r"\]\(([^)#]+)\)", README)
    assert linked
    assert not [path for path in linked if "://" not in path and not (tidiness.ROOT / path).exists()]


def test_help_prints_every_target_with_a_caption_by_group() -> None:
    done = subprocess.run(["make", "help"], cwd=tidiness.ROOT, capture_output=True, text=True, check=True)
    listed = set(re.findall(r"^  make ([a-z-]+) ", done.stdout, flags=re.MULTILINE))
    asked = {
        "help",
        "setup",
        "run",
        "demo",
        "test",
        "check",
        "proto",
        "proto-check",
        "fmt",
        "lock",
        "clean",
        "eval-retrieval",
    }
    assert asked <= listed
    makefile = (tidiness.ROOT / "Makefile").read_text(encoding="utf-8")
    assert listed == set(re.findall(r"^\.PHONY: ([a-z-]+)$", makefile, flags=re.MULTILINE))
    assert [line for line in done.stdout.splitlines() if line and not line.startswith(" ")] == [
        "Use",
        "Test",
        "Check",
        "Deliver",
        "Change",
    ]
