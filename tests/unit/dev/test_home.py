import json
import stat
from pathlib import Path

import pytest

from dev.errors import DevError
from dev.home import Home, shell_values
from dev.keyfile import kept_secret


def test_credentials_can_be_read_by_their_owner_only_and_survive_the_shell(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.write_credentials({"PARLEY_URL": "http://127.0.0.1:8080", "PARLEY_PASSWORD": "it's $HOME; rm"})
    assert stat.S_IMODE(home.credentials.stat().st_mode) == 0o600
    assert shell_values(home.credentials) == {
        "PARLEY_URL": "http://127.0.0.1:8080",
        "PARLEY_PASSWORD": "it's $HOME; rm",
    }


def test_shell_values_of_a_missing_file_are_none(tmp_path: Path) -> None:
    assert shell_values(tmp_path / "missing") == {}


def test_state_is_json(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.write_state({"pid": 1})
    assert json.loads(home.state.read_text()) == {"pid": 1}


def test_folder_is_locked_for_a_second_stack_with_a_word_about_the_first(tmp_path: Path) -> None:
    home = Home(tmp_path / "dev")
    home.lock()
    with pytest.raises(DevError, match=r"already runs in .* \(process \d+\).*PARLEY_DEV_DIR"):
        home.lock()


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DevError, match="set PARLEY_DEV_DIR to another"):
        Home(tmp_path / "file" / "dev").lock()


def test_relative_folder_is_taken_from_where_the_person_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARLEY_DEV_DIR", "my stack")
    assert Home.from_environment().folder == tmp_path / "my stack"


def test_secret_is_made_once_and_kept_private(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "edge"
    secret = kept_secret(path)
    assert kept_secret(path) == secret
    assert len(secret) >= 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
