from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from services.mesh.effective import effective
from services.mesh.settings import (
    FILE_BYTES_MAX,
    MASK,
    AuthTarget,
    DatabaseSettings,
    ServerSettings,
    SettingsError,
    WorkloadSettings,
    load,
    service_config,
)

URL = "postgresql://parley:hunter2@db/parley"
SECRET = "a-secret-of-this-workload"


class Settings(ServerSettings, DatabaseSettings, WorkloadSettings, AuthTarget):
    model_config = service_config("echo")

    volume: int = Field(default=3, ge=1, le=11, description="How loud.")
    pepper: SecretStr = SecretStr("")
    voices: dict[str, SecretStr] = Field(default={}, description="Who sings.")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_DATABASE_URL", URL)
    monkeypatch.setenv("PARLEY_WORKLOAD_SECRET", SECRET)
    monkeypatch.setenv("PARLEY_AUTH_TARGET", "127.0.0.1:50051")


def test_groups_and_own_fields_have_their_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_ECHO_VOLUME", "11")
    monkeypatch.setenv("PARLEY_GRPC_LISTEN", "0.0.0.0:50051")
    settings = load(Settings)
    assert settings.volume == 11
    assert settings.grpc_listen == "0.0.0.0:50051"
    assert settings.database_url.get_secret_value() == URL


def test_every_problem_is_named_by_its_variable_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PARLEY_DATABASE_URL")
    monkeypatch.setenv("PARLEY_WORKLOAD_SECRET", "short-hunter2")
    monkeypatch.setenv("PARLEY_ECHO_VOLUME", "12")
    monkeypatch.setenv("PARLEY_DEBUG_LISTEN", "nowhere")
    with pytest.raises(SettingsError) as caught:
        load(Settings)
    text = str(caught.value)
    assert "PARLEY_DATABASE_URL: is not set" in text
    for name in ("PARLEY_WORKLOAD_SECRET", "PARLEY_ECHO_VOLUME", "PARLEY_DEBUG_LISTEN"):
        assert f"  {name}: " in text
    assert "hunter2" not in text


@pytest.mark.parametrize("address", ["", "host", ":1", "host:", "host:x", "host:65536", "host:-1", "host:٣"])
def test_malformed_address_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("PARLEY_GRPC_LISTEN", address)
    with pytest.raises(SettingsError, match="PARLEY_GRPC_LISTEN"):
        load(Settings)


@pytest.mark.parametrize("target", ["a", "a:1,b", "a:1,,b:2"])
def test_malformed_target_is_refused(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.setenv("PARLEY_AUTH_TARGET", target)
    with pytest.raises(SettingsError, match="PARLEY_AUTH_TARGET"):
        load(Settings)


def test_value_may_be_mounted_as_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a-mounted-secret-of-24b\n")
    (tmp_path / "pepper").write_text("hot")
    monkeypatch.delenv("PARLEY_WORKLOAD_SECRET")
    monkeypatch.setenv("PARLEY_WORKLOAD_SECRET_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("PARLEY_ECHO_PEPPER_FILE", str(tmp_path / "pepper"))
    settings = load(Settings)
    assert settings.workload_secret.get_secret_value() == "a-mounted-secret-of-24b"
    assert settings.pepper.get_secret_value() == "hot"


def test_mapping_is_json_in_environment_and_file_alike(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "voices").write_text('{"alto": "a"}\n')
    monkeypatch.setenv("PARLEY_ECHO_VOICES_FILE", str(tmp_path / "voices"))
    assert load(Settings).voices == {"alto": SecretStr("a")}
    monkeypatch.setenv("PARLEY_ECHO_VOICES", '{"bass": "b"}')
    assert load(Settings).voices == {"bass": SecretStr("b")}
    for malformed in ('{"hunter2', "[1]"):
        monkeypatch.setenv("PARLEY_ECHO_VOICES", malformed)
        with pytest.raises(SettingsError, match="PARLEY_ECHO_VOICES: ") as caught:
            load(Settings)
        assert "hunter2" not in str(caught.value)


def test_environment_wins_over_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from the file, of 24 byte")
    monkeypatch.setenv("PARLEY_WORKLOAD_SECRET_FILE", str(tmp_path / "secret"))
    assert load(Settings).workload_secret.get_secret_value() == SECRET


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"x" * (FILE_BYTES_MAX + 1)])
def test_unreadable_file_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("PARLEY_DATABASE_URL_FILE", str(path))
    with pytest.raises(SettingsError, match="PARLEY_DATABASE_URL_FILE"):
        load(Settings)


def test_effective_settings_show_origin_and_mask_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pepper").write_text("hunter2")
    monkeypatch.setenv("PARLEY_ECHO_PEPPER_FILE", str(tmp_path / "pepper"))
    shown = {setting.variable: setting for setting in effective(load(Settings))}
    assert (shown["PARLEY_ECHO_VOLUME"].value, shown["PARLEY_ECHO_VOLUME"].origin) == (3, "default")
    assert shown["PARLEY_ECHO_VOLUME"].description == "How loud."
    assert (shown["PARLEY_DATABASE_URL"].value, shown["PARLEY_DATABASE_URL"].origin) == (MASK, "environment")
    assert (shown["PARLEY_ECHO_PEPPER"].value, shown["PARLEY_ECHO_PEPPER"].origin) == (MASK, "file")
    assert "hunter2" not in str(shown)
    assert SECRET not in str(shown)


def test_every_setting_of_the_groups_explains_itself() -> None:
    own = {"volume", "pepper"}
    assert [name for name, field in Settings.model_fields.items() if not field.description and name not in own] == []


def test_peers_are_read_from_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_MESH_TLS_PEERS", '{"spiffe://cluster.local/ns/parley/edge": "edge"}')
    assert load(Settings).mesh_tls_peers == {"spiffe://cluster.local/ns/parley/edge": "edge"}


@pytest.mark.parametrize(
    ("peers", "told"),
    [
        ('{"https://cluster.local/edge": "edge"}', "is not spiffe://<trust domain>/<path>"),
        ('{"spiffe://cluster.local/edge": "The Edge"}', "is no name of a workload"),
        ("edge", "is not a JSON object"),
    ],
)
def test_peers_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, peers: str, told: str) -> None:
    monkeypatch.setenv("PARLEY_MESH_TLS_PEERS", peers)
    with pytest.raises(SettingsError, match=f"PARLEY_MESH_TLS_PEERS: .*{told}"):
        load(Settings)


@pytest.mark.parametrize(("address", "is_taken"), [("", True), ("[::]:50052", True), ("nowhere", False)])
def test_health_port_is_an_address_or_nothing(monkeypatch: pytest.MonkeyPatch, address: str, *, is_taken: bool) -> None:
    monkeypatch.setenv("PARLEY_HEALTH_LISTEN", address)
    if is_taken:
        assert load(Settings).health_listen == address
    else:
        with pytest.raises(SettingsError, match="PARLEY_HEALTH_LISTEN: 'nowhere' is not host:port"):
            load(Settings)
