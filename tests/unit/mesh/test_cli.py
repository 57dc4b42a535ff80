import argparse
import logging
from collections.abc import Iterator
from typing import Final

import pytest
import structlog
from pydantic import Field

from services.mesh.cli import Command, Deployable, main
from services.mesh.errors import Unavailable
from services.mesh.settings import MeshSettings, service_config


class Settings(MeshSettings):
    model_config = service_config("echo")

    volume: int = Field(default=3, ge=1, le=11, description="How loud.")


ran: list[tuple[str, int]] = []


async def serve(settings: Settings) -> None:
    """Serve the API."""
    ran.append(("serve", settings.volume))


async def fail(_settings: Settings) -> None:
    """Fail, as a database that is away does."""
    raise Unavailable("the database cannot be reached now") from ConnectionRefusedError("port 1")


async def shout(settings: Settings) -> None:
    """Shout once.

    More about it.
    """
    ran.append(("shout", settings.volume))


def repeat_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--times", type=int, required=True)


async def repeat(settings: MeshSettings, *, times: int) -> None:
    """Repeat."""
    assert not isinstance(settings, Settings)
    ran.append(("repeat", times))


ECHO: Final = Deployable(
    name="echo",
    serve=Command(Settings, serve),
    commands={
        "fail": Command(Settings, fail),
        "shout": Command(Settings, shout),
        "repeat": Command(MeshSettings, repeat, repeat_arguments),
    },
)


@pytest.fixture(autouse=True)
def _untouched_logging() -> Iterator[None]:
    """`main` configures the logs of its process, which here is that of all tests."""
    ran.clear()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def exit_code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as caught:
        main(ECHO, arguments)
    return caught.value.code


def test_command_runs_with_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_ECHO_VOLUME", "11")
    assert exit_code("serve") == 0
    assert exit_code("shout") == 0
    assert ran == [("serve", 11), ("shout", 11)]


def test_command_takes_arguments_and_needs_its_own_settings_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_ECHO_VOLUME", "12")
    assert exit_code("repeat", "--times", "3") == 0
    assert ran == [("repeat", 3)]
    assert exit_code("repeat") == 2


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--help") == 0
    text = capsys.readouterr().out
    for line in ("serve", "Serve the API.", "config", "shout", "Shout once."):
        assert line in text
    assert "migrate" not in text
    assert "worker" not in text


@pytest.mark.parametrize("arguments", [(), ("nothing",), ("serve", "now")])
def test_wrong_usage_is_told(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    assert exit_code(*arguments) == 2
    assert "usage: python -m services.echo" in capsys.readouterr().err
    assert ran == []


def test_wrong_setting_is_told_without_a_stack(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARLEY_ECHO_VOLUME", "12")
    assert exit_code("serve") == 2
    error = capsys.readouterr().err
    assert "PARLEY_ECHO_VOLUME" in error
    assert "Traceback" not in error


def test_expected_failure_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("fail") == 1
    assert capsys.readouterr().err == "echo fail: the database cannot be reached now (port 1)\n"


def test_config_shows_the_effective_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("config") == 0
    assert "PARLEY_ECHO_VOLUME=3  # default. How loud." in capsys.readouterr().out.splitlines()
