"""Servers that tests of every room may ask for. Nothing starts before a test asks, and everything is stopped."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, settings

from dev import kafka, valkey
from tests.support.kafka import running_kafka
from tests.support.postgres import Databases, running_postgres
from tests.support.valkey import emptied, running_valkey
from tests.support.valkey_cluster import Group, running_cluster

# A busy machine is no counterexample. What lands is judged by the same examples every time; new ones are looked for by
# everybody's own runs.
settings.register_profile(
    "parley", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("parley")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Databases]:
    """One PostgreSQL server per test process; `postgres.create("auth")` makes a database that the test has to drop."""
    with running_postgres() as server:
        yield Databases(server)


@pytest.fixture
def database_url(postgres: Databases) -> Iterator[str]:
    """URL of an empty database of the test's own."""
    url = postgres.create()
    yield url
    postgres.drop(url)


@pytest.fixture
def migrated_database_url(postgres: Databases) -> Iterator[Callable[..., str]]:
    """Makes databases of the test's own: `migrated_database_url("auth", "conversation")` returns a URL."""
    with _maker(postgres) as make:
        yield make


@pytest.fixture(scope="module")
def module_migrated_database_url(postgres: Databases) -> Iterator[Callable[..., str]]:
    """As `migrated_database_url`, for a whole module."""
    with _maker(postgres) as make:
        yield make


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[valkey.Server]:
    """One Valkey server per test process; `valkey_url` is what most tests want."""
    with running_valkey() as server:
        yield server


@pytest.fixture
def valkey_url(valkey_server: valkey.Server) -> str:
    """URL of the test process's Valkey, emptied for this test."""
    return emptied(valkey_server)


@pytest.fixture(scope="session")
def valkey_cluster() -> Iterator[Group]:
    """One cluster of three Valkey servers per test process; `valkey_cluster_url` is what most tests want."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def valkey_cluster_url(valkey_cluster: Group) -> str:
    """URL of the test process's cluster, emptied for this test."""
    return valkey_cluster.emptied()


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[kafka.Server]:
    """One Kafka broker per test process; topics are the test's own business. Skipped by name without Java or Maven."""
    with running_kafka() as server:
        yield server


@contextmanager
def _maker(postgres: Databases) -> Iterator[Callable[..., str]]:
    made: list[str] = []

    def make(*services: str) -> str:
        made.append(postgres.create(*services))
        return made[-1]

    yield make
    for url in made:
        postgres.drop(url)
