import ast
import sys
from pathlib import Path

import pytest

from dev.tools import environment


def test_set_up_needs_nothing_but_the_standard_library() -> None:
    tree = ast.parse(Path(environment.__file__).read_text(encoding="utf-8"))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= sys.stdlib_module_names


def test_an_old_python_is_told_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environment, "PYTHON_MIN", (99, 0))
    assert environment.main(["run"]) == 1
    assert "needs Python 99.0 or newer" in capsys.readouterr().out


def test_the_two_environments_are_apart() -> None:
    assert environment.ENVIRONMENTS["run"] != environment.ENVIRONMENTS["dev"]
    assert environment.fingerprint("run") != environment.fingerprint("dev")


def test_an_environment_in_line_with_its_lock_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[str] = []
    home = tmp_path / "home"

    def install(name: str) -> None:
        installed.append(name)
        (home / "bin").mkdir(parents=True, exist_ok=True)
        (home / "bin" / "python").touch()

    monkeypatch.setattr(environment, "STATE", tmp_path / "state")
    monkeypatch.setattr(environment, "ENVIRONMENTS", {"run": home})
    monkeypatch.setattr(environment, "_install", install)
    assert [environment.ensure("run"), environment.ensure("run")] == [True, False]
    monkeypatch.setattr(environment, "ENVIRONMENTS", {"run": tmp_path / "moved"})
    assert environment.ensure("run")
    assert installed == ["run", "run"]


def test_a_failed_install_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[str] = []

    def install(name: str) -> None:
        attempts.append(name)
        raise KeyboardInterrupt

    monkeypatch.setattr(environment, "STATE", tmp_path / "state")
    monkeypatch.setattr(environment, "_install", install)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            environment.ensure("run")
    assert len(attempts) == 2


def test_registry_settings_of_pip_reach_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV_DEFAULT_INDEX", raising=False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    listed = "global.index-url='https://mirror.example/simple'\n:env:.cert='/etc/ca.pem'\nglobal.timeout='180'\n"
    assert environment.uv_settings(listed) == {
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "SSL_CERT_FILE": "/etc/ca.pem",
    }


def test_a_setting_that_was_meant_for_uv_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://other.example/simple")
    assert environment.uv_settings("global.index-url='https://mirror.example/simple'\n") == {}


def test_another_build_of_torch_takes_the_place_of_the_pinned_one_and_its_cuda_libraries() -> None:
    text = (environment.ROOT / "requirements" / "dev.lock").read_text(encoding="utf-8")
    rest, pin = environment.without_torch(text)
    assert pin is not None
    assert f"\n{pin} " in text.replace(" \\", " ")
    left = {line.partition("==")[0] for line in rest.splitlines() if "==" in line and not line.startswith((" ", "#"))}
    assert {"transformers", "sentence-transformers", "sympy"} <= left
    assert not [name for name in left if name.startswith(("torch", "triton", "nvidia-", "cuda-"))]
    assert rest.count("--hash") < text.count("--hash")


def test_a_lock_without_torch_stays_as_it_is() -> None:
    text = (environment.ROOT / "requirements" / "run.lock").read_text(encoding="utf-8")
    assert environment.without_torch(text) == (text, None)


def test_another_build_of_torch_makes_an_environment_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(environment.TORCH_BACKEND, raising=False)
    before = environment.fingerprint("dev")
    monkeypatch.setenv(environment.TORCH_BACKEND, "cpu")
    assert environment.fingerprint("dev") != before
