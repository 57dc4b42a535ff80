import json
from hashlib import sha256
from pathlib import Path

import pytest

from dev.errors import DevError
from dev.home import Home
from dev.process import Process, in_order
from dev.table import plan


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ("PARLEY_DATABASE_URL", "PARLEY_VALKEY_URL", "PARLEY_DEV_REPLICAS", "PARLEY_NOT_SERVING_PAUSE_S")
    databases = ("PARLEY_DEV_SHARDS", "PARLEY_DEV_DATABASE_REPLICAS")
    for name in (*ours, *databases, "PARLEY_DEV_TLS", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def _processes(folder: Path) -> dict[str, Process]:
    return {process.name: process for process in in_order(plan(Home(folder), port=8080).table)}


def test_every_process_of_the_stack_is_in_the_table(tmp_path: Path) -> None:
    names = "postgres valkey migrate-auth migrate-conversation migrate-retrieval migrate-inference auth bootstrap "
    names += "inference retrieval retrieval-worker conversation conversation-worker edge"
    assert set(_processes(tmp_path)) == set(names.split())


def test_nothing_serves_a_restored_database_before_what_came_after_is_forgotten(tmp_path: Path) -> None:
    Home(tmp_path).unseen.touch()
    processes = _processes(tmp_path)
    forgetting = {f"after-restore-{service}" for service in ("auth", "conversation", "retrieval", "inference")}
    assert forgetting <= set(processes)
    for name in ("auth", "bootstrap", "inference", "retrieval", "retrieval-worker", "conversation"):
        assert forgetting <= set(processes[name].after)
    assert {"postgres", "valkey", "migrate-auth"} <= set(processes["after-restore-auth"].after)


def test_ports_of_a_stack_are_all_different(tmp_path: Path) -> None:
    ports = [port for process in _processes(tmp_path).values() for port in process.ports.values()]
    assert len(set(ports)) == len(ports)
    assert 8080 in ports


def test_replicas_have_names_and_ports_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_DEV_REPLICAS", "3")
    processes = _processes(tmp_path)
    for name in ("auth", "inference", "retrieval", "retrieval-worker", "conversation", "conversation-worker", "edge"):
        assert {name, f"{name}-2", f"{name}-3"} <= set(processes)
    ports = [port for process in processes.values() for port in process.ports.values()]
    assert len(set(ports)) == len(ports) <= 40
    assert not [name for name in processes if name.startswith(("postgres-", "valkey-", "migrate-auth-", "bootstrap-"))]


def test_everybody_is_told_of_all_replicas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_DEV_REPLICAS", "2")
    processes = _processes(tmp_path)
    both = [f"127.0.0.1:{processes[name].ports['grpc']}" for name in ("conversation", "conversation-2")]
    for name in ("edge", "edge-2"):
        assert processes[name].environment["PARLEY_CONVERSATION_TARGET"] == ",".join(both)
    assert [processes[name].environment["PARLEY_GRPC_LISTEN"] for name in ("conversation", "conversation-2")] == both
    assert {"conversation", "conversation-2"} <= set(processes["edge-2"].after)


@pytest.mark.parametrize("text", ["0", "4", "two", "-1", "1.5"])
def test_number_of_replicas_that_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("PARLEY_DEV_REPLICAS", text)
    with pytest.raises(DevError, match=r"PARLEY_DEV_REPLICAS is .*: choose a number from 1 to 3"):
        _processes(tmp_path)


def test_processes_have_certificates_where_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [name for name in _processes(tmp_path)["auth"].environment if "TLS" in name]
    monkeypatch.setenv("PARLEY_DEV_TLS", "1")
    processes = _processes(tmp_path)
    for name, workload in (("edge", "edge"), ("conversation-worker", "conversation"), ("auth", "auth")):
        folder = Path(processes[name].environment["PARLEY_MESH_TLS_FOLDER"])
        assert folder == tmp_path / "certificates" / workload
        assert {path.name for path in folder.iterdir()} == {"ca.crt", "tls.crt", "tls.key"}
        assert (folder / "tls.key").stat().st_mode & 0o077 == 0
    assert json.loads(processes["auth"].environment["PARLEY_MESH_TLS_PEERS"])["spiffe://parley.dev/edge"] == "edge"


def test_certificates_that_are_neither_on_nor_off_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_DEV_TLS", "yes")
    with pytest.raises(DevError, match="PARLEY_DEV_TLS is 'yes': choose 1 for on, or 0"):
        _processes(tmp_path)


def test_clients_get_time_to_leave_only_where_they_can_go_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _processes(tmp_path)["auth"].environment["PARLEY_NOT_SERVING_PAUSE_S"] == "0"
    monkeypatch.setenv("PARLEY_DEV_REPLICAS", "2")
    assert "PARLEY_NOT_SERVING_PAUSE_S" not in _processes(tmp_path)["auth"].environment


def test_nothing_starts_before_its_schema_is_there(tmp_path: Path) -> None:
    processes = _processes(tmp_path)
    for service in ("auth", "conversation", "retrieval", "inference"):
        assert f"migrate-{service}" in processes[service].after


def test_provider_keys_reach_inference_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
    keys = {"OPENAI_API_KEY", "ANTHROPIC_BASE_URL"}
    holders = {name for name, process in _processes(tmp_path).items() if keys & set(process.environment)}
    assert holders == {"inference"}


def test_setting_of_one_service_reaches_its_processes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_RETRIEVAL_ENCODER", "x")
    holders = {name for name, each in _processes(tmp_path).items() if "PARLEY_RETRIEVAL_ENCODER" in each.environment}
    assert holders == {"migrate-retrieval", "retrieval", "retrieval-worker"}


def test_setting_of_all_services_reaches_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_LOG_LEVEL", "DEBUG")
    processes = _processes(tmp_path)
    assert {processes[name].environment["PARLEY_LOG_LEVEL"] for name in ("auth", "edge", "retrieval-worker")} == {
        "DEBUG"
    }


def test_auth_knows_the_hash_of_each_workload_secret_and_no_secret(tmp_path: Path) -> None:
    processes = _processes(tmp_path)
    hashes = json.loads(processes["auth"].environment["PARLEY_AUTH_WORKLOADS"])
    secrets = {name: processes[name].environment["PARLEY_WORKLOAD_SECRET"] for name in hashes}
    assert hashes == {name: sha256(secret.encode()).hexdigest() for name, secret in secrets.items()}
    assert set(hashes) == {"edge", "conversation", "retrieval", "inference"}
    assert len(set(secrets.values())) == 4
    assert "PARLEY_WORKLOAD_SECRET" not in processes["auth"].environment


def test_edge_holds_no_address_of_a_database(tmp_path: Path) -> None:
    environment = _processes(tmp_path)["edge"].environment
    assert not {"PARLEY_DATABASE_URL", "PARLEY_VALKEY_URL"} & set(environment)


def test_instances_that_share_the_organizations_are_known_to_whose_data_they_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARLEY_DEV_SHARDS", "2")
    table = {process.name: process for process in plan(Home(tmp_path), port=8080).table}
    port = table["postgres-b"].ports["postgres"]
    knowing = {name for name, process in table.items() if "PARLEY_DATABASE_SHARDS" in process.environment}
    assert f":{port}/" in json.loads(table["conversation"].environment["PARLEY_DATABASE_SHARDS"])["b"]
    assert {name.removeprefix("migrate-").removesuffix("-worker") for name in knowing} == {
        "conversation",
        "retrieval",
        "inference",
    }
    assert "postgres-b" in table["migrate-conversation"].after


def test_replicas_of_every_server_are_known_to_who_reads_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARLEY_DEV_SHARDS", "2")
    monkeypatch.setenv("PARLEY_DEV_DATABASE_REPLICAS", "1")
    processes = _processes(tmp_path)
    known = {
        name: json.loads(each.environment["PARLEY_DATABASE_REPLICAS"])
        for name, each in processes.items()
        if "PARLEY_DATABASE_REPLICAS" in each.environment
    }
    ports = {"main": "postgres-replica", "b": "postgres-b-replica"}
    passwords = {"main": "postgres", "b": "postgres-b"}
    for instance, (url,) in known["conversation"].items():
        password = (tmp_path / passwords[instance] / "password").read_text().strip()
        port = processes[ports[instance]].ports["postgres"]
        assert url == f"postgresql://parley:{password}@127.0.0.1:{port}/parley"
    assert set(known) == {"conversation", "inference"}
    assert processes["postgres-b-replica"].after == ("postgres-b",)
    # What reads from them is stopped before them, and they before what they follow.
    assert {"postgres-replica", "postgres-b-replica"} <= set(processes["conversation"].after)


@pytest.mark.parametrize("text", ["-1", "3", "one"])
def test_number_of_read_replicas_that_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("PARLEY_DEV_DATABASE_REPLICAS", text)
    with pytest.raises(DevError, match=r"PARLEY_DEV_DATABASE_REPLICAS is .*: choose a number from 0 to 2"):
        _processes(tmp_path)


def test_own_servers_take_the_place_of_the_embedded_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_DATABASE_URL", "postgresql://me:pw@127.0.0.1:5432/mine")
    monkeypatch.setenv("PARLEY_DATABASE_REPLICAS", '{"main": ["postgresql://me:pw@127.0.0.1:5433/mine"]}')
    monkeypatch.setenv("PARLEY_DEV_DATABASE_REPLICAS", "1")
    monkeypatch.setenv("PARLEY_VALKEY_URL", "redis://127.0.0.1:6379/3")
    processes = _processes(tmp_path)
    assert not {"postgres", "valkey"} & set(processes)
    assert not [name for name in processes if name.startswith("postgres")]
    assert processes["auth"].environment["PARLEY_DATABASE_URL"] == "postgresql://me:pw@127.0.0.1:5432/mine"
    replicas = {"main": ["postgresql://me:pw@127.0.0.1:5433/mine"]}
    assert json.loads(processes["conversation"].environment["PARLEY_DATABASE_REPLICAS"]) == replicas
    assert processes["auth"].environment["PARLEY_VALKEY_URL"] == "redis://127.0.0.1:6379/3"


def test_proxy_of_the_machine_is_bypassed_between_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "intranet")
    assert _processes(tmp_path)["edge"].environment["no_proxy"] == "intranet,127.0.0.1,localhost"


def test_ports_and_secrets_stay_from_start_to_start(tmp_path: Path) -> None:
    first, second = _processes(tmp_path), _processes(tmp_path)
    assert first["edge"].environment == second["edge"].environment
