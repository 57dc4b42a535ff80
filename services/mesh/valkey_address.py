"""Where Valkey is: the forms that `PARLEY_VALKEY_URL` can have.

    redis://[user:password@]host:port[/database]                          one server, or an address that stays the same
    valkey+cluster://[user:password@]host:port[,host:port…]               a cluster; any of its servers
    valkey+sentinel://[user:password@]host:port[,host:port…]/name[/database]
                                          the primary that sentinels know by that name

`redis` and `valkey` mean the same, `rediss` and `valkeys` the same over TLS. What redis-py reads from the query, such
as `ssl_ca_certs`, it reads here; `sentinel_username` and `sentinel_password` are the login at sentinels that want one.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from pydantic import AfterValidator, SecretStr

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_PORT_MAX: Final = 65_535
_SCHEMES: Final = {"redis": "redis", "valkey": "redis", "rediss": "rediss", "valkeys": "rediss"}
_UNIX: Final = "unix"


class Kind(StrEnum):
    """What answers at an address."""

    SERVER = ""
    CLUSTER = "cluster"
    SENTINEL = "sentinel"


@dataclass(frozen=True, slots=True)
class Host:
    """A server's place in the network."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A parsed URL.

    Attributes:
        kind: what answers there.
        url: redis-py's own form of it, with the first host; login, TLS, database and options hold for all servers.
        hosts: the hosts that it names; empty for a socket in the file system.
        primary: the name that sentinels know the primary by.
        sentinel_username: login at the sentinels, empty for none.
        sentinel_password: as above.
    """

    kind: Kind
    url: str
    hosts: tuple[Host, ...]
    primary: str = ""
    sentinel_username: str = ""
    sentinel_password: str = ""


def parse(url: str) -> Address:
    """The address.

    Raises:
        ValueError: it has none of the forms; the message does not repeat it, because it may hold a password.
    """
    parts = urlsplit(url)
    if parts.scheme == _UNIX:
        return Address(kind=Kind.SERVER, url=url, hosts=())
    scheme, _, form = parts.scheme.partition("+")
    if scheme not in _SCHEMES or form not in (Kind.SERVER, Kind.CLUSTER, Kind.SENTINEL):
        raise ValueError("begin with redis://, rediss://, valkey+cluster:// or valkey+sentinel://")
    kind = Kind(form)
    login, at, places = parts.netloc.rpartition("@")
    hosts = tuple(_host(place, _SENTINEL_PORT if kind is Kind.SENTINEL else _PORT) for place in places.split(","))
    if kind is Kind.SERVER and len(hosts) > 1:
        raise ValueError("several hosts are a cluster or sentinels: say valkey+cluster:// or valkey+sentinel://")
    primary, database = _path(kind, parts.path)
    query = dict(parse_qsl(parts.query))
    sentinel_username, sentinel_password = query.pop("sentinel_username", ""), query.pop("sentinel_password", "")
    plain = f"{_SCHEMES[scheme]}://{login}{at}{hosts[0]}{database}"
    return Address(
        kind=kind,
        url=f"{plain}?{urlencode(query)}" if query else plain,
        hosts=hosts,
        primary=primary,
        sentinel_username=sentinel_username,
        sentinel_password=sentinel_password,
    )


def _parsable(url: SecretStr) -> SecretStr:
    parse(url.get_secret_value())
    return url


ValkeyUrl = Annotated[SecretStr, AfterValidator(_parsable)]
"""A setting that holds a URL."""


def _path(kind: Kind, path: str) -> tuple[str, str]:
    """The primary's name, and the database as redis-py reads it."""
    if kind is Kind.SERVER:
        return "", path
    if kind is Kind.CLUSTER:
        if path not in ("", "/", "/0"):
            raise ValueError("a cluster has database 0 alone")
        return "", ""
    name, slash, database = path.removeprefix("/").partition("/")
    if not name:
        raise ValueError("name the primary as its sentinels do: valkey+sentinel://host:26379/name")
    return unquote(name), slash + database


def _host(place: str, port: int) -> Host:
    """One `host[:port]`; an IPv6 address stands in brackets."""
    parts = urlsplit(f"//{place}")
    try:
        given = parts.port
    except ValueError:
        given = _PORT_MAX + 1
    if not parts.hostname or (given is not None and not 0 < given <= _PORT_MAX):
        raise ValueError("each host is host:port, such as 127.0.0.1:6379")
    return Host(parts.hostname, port if given is None else given)
