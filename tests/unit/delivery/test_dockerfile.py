"""The image as its Dockerfile declares it; that what it installs runs is tests/integration/packaging."""

import re

import pytest

from dev.home import ROOT
from dev.tools.deployment import IMAGE_LOCKS, main
from tests.support import dockerfile

STAGES = dockerfile.stages()
RUNTIME = STAGES["runtime"]
LAST = ("sentence-transformers", "parley")


def sources() -> set[str]:
    """What is copied from the checkout."""
    copies = [copy for stage in STAGES.values() for copy in stage.every("COPY")]
    return {word for copy in copies if not copy.flags for word in copy.words[:-1]}


def allowed() -> list[str]:
    """The exceptions of .dockerignore."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("!") for line in lines if line.startswith("!")]


def test_a_build_without_a_target_makes_the_image_without_torch() -> None:
    assert [*STAGES][-1] == "parley"
    assert [copy.flags for copy in STAGES["parley"].every("COPY")] == [("--from=installed",)]
    assert [command[-2:] for command in STAGES["libraries"].commands()] == [["image", "/opt/parley"]]


def test_the_second_target_has_the_reference_encoder() -> None:
    copy = STAGES["sentence-transformers"].every("COPY")[0]
    assert copy.flags == ("--from=installed-sentence-transformers",)
    assert "image-sentence-transformers" in STAGES["libraries-sentence-transformers"].commands()[0]


def test_both_are_the_same_but_for_what_is_installed() -> None:
    for name in LAST:
        assert STAGES[name].base == "runtime"
        assert [instruction.name for instruction in STAGES[name].instructions] == ["COPY"]


def test_everything_is_installed_by_the_one_script_and_nothing_runs_in_the_last_stages() -> None:
    commands = [command for stage in STAGES.values() for command in stage.commands()]
    steps = [[word for word in command if not re.match(r"[A-Z_]+=", word)][:3] for command in commands]
    assert steps
    assert all(step == ["python", "-m", "dev.tools.deployment"] for step in steps)
    assert not [name for name in ("runtime", *LAST) if STAGES[name].commands()]


@pytest.mark.parametrize("stage", ["wheel", "libraries", "installed"])
def test_the_script_knows_the_steps_of_the_dockerfile(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = STAGES[stage].commands()
    with pytest.raises(SystemExit) as ended:
        main([command[3], "--help"])
    assert ended.value.code == 0
    assert len(command) - 4 == len(re.findall(r"^  (?:folder|home|\{)", capsys.readouterr().out, flags=re.MULTILINE))


def test_every_lock_of_the_script_is_there() -> None:
    assert all((ROOT / "requirements" / f"{lock}.lock").is_file() for lock in IMAGE_LOCKS)


def test_every_stage_begins_with_the_one_base_that_an_operator_may_pin() -> None:
    bases = {stage.base for stage in STAGES.values()} - STAGES.keys()
    assert bases == {"${PYTHON_IMAGE}"}


def test_it_runs_as_a_number_that_is_not_root() -> None:
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", RUNTIME.every("USER")[0].words[0])


def test_no_shell_stands_between_the_signal_and_the_process() -> None:
    (entry,) = RUNTIME.every("ENTRYPOINT")
    (default,) = RUNTIME.every("CMD")
    assert (entry.words, entry.is_json) == (("python", "-m"), True)
    assert (default.words, default.is_json) == (("edge", "serve"), True)
    assert RUNTIME.every("STOPSIGNAL")[0].words == ("SIGTERM",)


def test_the_root_may_be_read_only() -> None:
    environment = RUNTIME.environment()
    assert RUNTIME.every("VOLUME")[0].words == ("/tmp",)
    assert environment["HOME"] == "/tmp"
    assert {"PYTHONDONTWRITEBYTECODE", "PYTHONSAFEPATH"} <= environment.keys()


def test_ports_are_declared_and_listened_on() -> None:
    listens = {value.rpartition(":")[2] for name, value in RUNTIME.environment().items() if name.endswith("_LISTEN")}
    assert listens == set(RUNTIME.every("EXPOSE")[0].words)


def test_the_labels_that_registries_and_scanners_read_are_set() -> None:
    label = RUNTIME.every("LABEL")[0].words
    names = {name.rpartition(".image.")[2] for name in label[::2]}
    assert {"title", "description", "version", "revision", "created", "source", "base.name"} <= names


def test_a_build_sees_what_it_copies_and_nothing_else_of_a_checkout() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    assert set(allowed()) == sources()
    assert all((ROOT / path).exists() for path in allowed())


def test_no_argument_or_variable_of_the_build_is_a_secret() -> None:
    words = [
        word.upper() for stage in STAGES.values() for kind in ("ARG", "ENV") for each in stage.every(kind)
        for word in each.words
    ]  # fmt: skip
    assert not [word for word in words if re.search("PASSWORD|SECRET|TOKEN|API_KEY|CREDENTIAL", word)]
