"""The fixtures that every room leans on, seen from a test."""

import asyncpg
import redis.asyncio as redis

from tests.support.postgres import Databases


async def test_database_url_is_an_empty_database_that_accepts_connections(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        tables = await connection.fetch(
            "SELECT 1 FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
    finally:
        await connection.close()
    assert tables == []


async def test_databases_of_one_test_are_apart(postgres: Databases, database_url: str) -> None:
    other = postgres.create()
    first = await asyncpg.connect(database_url)
    second = await asyncpg.connect(other)
    try:
        await first.execute("CREATE TABLE only_here ()")
        found = await second.fetchval("SELECT to_regclass('only_here')")
    finally:
        await first.close()
        await second.close()
        postgres.drop(other)
    assert found is None


async def test_database_is_dropped_although_a_session_is_left_open(postgres: Databases) -> None:
    url = postgres.create()
    connection = await asyncpg.connect(url)
    postgres.drop(url)
    left = postgres.server.prepared.run("SELECT datname FROM pg_database", port=postgres.server.port)
    connection.terminate()
    assert url.rpartition("/")[2] not in left.split()


async def test_valkey_serves_streams_and_functions(valkey_url: str) -> None:
    async with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        await client.xadd("stream", {"field": "value"})
        await client.function_load("#!lua name=library\nserver.register_function('answer', function() return 42 end)")
        answer = await client.fcall("answer", 0)
        length = await client.xlen("stream")
    assert (length, answer) == (1, 42)


async def test_valkey_is_empty_at_the_start_of_the_next_test(valkey_url: str) -> None:
    async with redis.Redis.from_url(valkey_url) as client:
        assert await client.dbsize() == 0
        assert await client.function_list() == []
