from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.inference.app import limits, open_shelf
from services.inference.settings import Settings
from services.mesh.effective import effective
from services.mesh.settings import load

LOCAL = "http://127.0.0.1:11434/v1"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PARLEY_AUTH_TARGET", "127.0.0.1:1")


@pytest.mark.parametrize(
    ("variables", "providers", "default", "listed"),
    [
        ({}, {"extractive"}, "extractive", {"extractive"}),
        ({"OPENAI_API_KEY": "k"}, {"extractive", "openai"}, "openai/gpt-6.2-sol", {"extractive", "openai"}),
        ({"OPENAI_BASE_URL": LOCAL}, {"extractive", "openai"}, "extractive", {"extractive"}),
        (
            {"OPENAI_BASE_URL": LOCAL, "PARLEY_INFERENCE_DEFAULT_MODEL": "openai/llama-4"},
            {"extractive", "openai"},
            "openai/llama-4",
            {"extractive"},
        ),
        (
            {"ANTHROPIC_API_KEY": "k"},
            {"extractive", "anthropic"},
            "anthropic/claude-sonnet-5-5",
            {"extractive", "anthropic"},
        ),
        (
            {"ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": "k"},
            {"extractive", "anthropic", "openai"},
            "openai/gpt-6.2-sol",
            {"extractive", "anthropic", "openai"},
        ),
        (
            {"ANTHROPIC_API_KEY": "k", "PARLEY_INFERENCE_ANTHROPIC_MODEL": "claude-haiku-5-5"},
            {"extractive", "anthropic"},
            "anthropic/claude-haiku-5-5",
            {"extractive", "anthropic"},
        ),
        ({"ANTHROPIC_BASE_URL": LOCAL}, {"extractive"}, "extractive", {"extractive"}),
        (
            {"PARLEY_INFERENCE_SCRIPTED": '{"m": {"tokens": 1}}'},
            {"extractive", "scripted"},
            "extractive",
            {"extractive"},
        ),
    ],
)
async def test_environment_switches_providers_on(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], providers: set[str], default: str, listed: set[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    async with AsyncExitStack() as stack:
        book = open_shelf(load(Settings), stack).router.book

    assert book.sources.keys() == providers
    assert book.default == default
    assert {source.name for source in book.sources.values() if source.is_listed} == listed


def test_key_may_be_mounted_as_a_file_and_is_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-mounted\n")
    monkeypatch.setenv("OPENAI_API_KEY_FILE", str(file))

    settings = load(Settings)

    assert settings.openai_api_key.get_secret_value() == "sk-mounted"
    assert "sk-mounted" not in repr(effective(settings))


def test_time_limits_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_INFERENCE_STALL_S", "7")

    assert limits(load(Settings)).stall_s == 7
