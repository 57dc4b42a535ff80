import pytest

from services.mesh.valkey_address import Host, Kind, parse


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("redis://127.0.0.1:6380/3", "redis://127.0.0.1:6380/3"),
        ("valkey://host", "redis://host:6379"),
        ("rediss://ada:p%40ss@host:1/0?ssl_ca_certs=/ca.pem", "rediss://ada:p%40ss@host:1/0?ssl_ca_certs=%2Fca.pem"),
        ("valkeys://:pw@[::1]:7000", "rediss://:pw@[::1]:7000"),
        ("unix:///run/valkey.sock", "unix:///run/valkey.sock"),
    ],
)
def test_one_server_has_redis_pys_own_form(url: str, plain: str) -> None:
    address = parse(url)

    assert (address.kind, address.url) == (Kind.SERVER, plain)


def test_cluster_has_several_hosts_and_one_login() -> None:
    address = parse("valkeys+cluster://ada:pw@a:1,[::1]:2,c")

    assert address.kind is Kind.CLUSTER
    assert address.hosts == (Host("a", 1), Host("::1", 2), Host("c", 6379))
    assert address.url == "rediss://ada:pw@a:1"


def test_sentinels_know_a_primary_by_name() -> None:
    address = parse("redis+sentinel://:pw@a,b:1/par%20ley/2?sentinel_username=s&sentinel_password=%26&timeout=1")

    assert (address.kind, address.primary) == (Kind.SENTINEL, "par ley")
    assert address.hosts == (Host("a", 26379), Host("b", 1))
    assert (address.sentinel_username, address.sentinel_password) == ("s", "&")
    assert address.url == "redis://:pw@a:26379/2?timeout=1"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://host:6379",
        "redis+mesh://host",
        "redis://a:1,b:2",
        "redis://:hunter2@:6379",
        "redis://:hunter2@host:0",
        "redis://:hunter2@host:65536",
        "redis://:hunter2@host:port",
        "valkey+cluster://:hunter2@host/1",
        "valkey+cluster://:hunter2@host,",
        "valkey+sentinel://:hunter2@host:26379",
        "valkey+sentinel://:hunter2@host:26379//1",
    ],
)
def test_other_forms_are_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError, match=r"host|begin|cluster|name") as refusal:
        parse(url)

    assert "hunter2" not in str(refusal.value)
