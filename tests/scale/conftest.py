"""One database for all tests of plans, as large as PARLEY_TEST_MESSAGES says: `make test-scale` says a million."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager as AsyncContext
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from services.conversation.store_postgres import PostgresStore
from services.mesh.postgres.database import Database, open_database
from tests.scale.filling import SCHEMAS, Filled, fill
from tests.scale.judging import Allowance, complaints
from tests.scale.plans import Explanations, explain_everything
from tests.support.conversation import database_settings, new_conversation, new_turn
from tests.support.postgres import Databases

MESSAGES: Final = int(os.environ.get("PARLEY_TEST_MESSAGES", "50000"))


@pytest.fixture(scope="session")
def filled(postgres: Databases) -> Iterator[Filled]:
    url = postgres.create(*SCHEMAS)
    asyncio.run(_begin(url))
    yield asyncio.run(fill(url, postgres.as_superuser(url), messages=MESSAGES))
    postgres.drop(url)


async def _begin(url: str) -> None:
    async with open_database(database_settings(url), application="filling") as database:
        store = PostgresStore(database)
        conversation = await store.create_conversation(new_conversation())
        await store.create_turn(new_turn(conversation.id))


@dataclass
class Judge:
    """Runs methods of stores, and notes what is wrong with the plans of their statements."""

    database: Database
    explanations: Explanations
    large: frozenset[str]
    allowances: dict[str, Allowance] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    def missing(self, kind: type) -> set[str]:
        """Methods of a store that nobody has asked yet."""
        return {name for name in dir(kind) if not name.startswith("_")} - self.asked

    def watching(self, store: object) -> Any:
        """The store, whose methods are judged; Any: it is whatever store it was."""
        return _Watched(self, store)

    async def judged(self, name: str, work: Any) -> Any:  # Any: any method of any store
        """What the method gives."""
        result, ran = await self.explanations.of(work)
        self.asked.add(name)
        assert ran, f"{name} ran nothing"
        self.found += [
            f"{name}: {complaint}"
            for each in ran
            for complaint in complaints(each, large=self.large, allowances=self.allowances)
        ]
        return result


class _Watched:
    def __init__(self, judge: Judge, store: object) -> None:
        self._judge, self._store = judge, store

    def __getattr__(self, name: str) -> Any:  # Any: methods of any store
        method = getattr(self._store, name)

        async def judged(*given: object, **named: object) -> object:
            asked = method(*given, **named)
            return await self._judge.judged(name, _entered(asked) if isinstance(asked, AsyncContext) else asked)

        return judged


async def _entered(context: AsyncContext[Any]) -> Any:  # Any: whatever a store hands out for a while
    async with context as given:
        return given


@pytest.fixture(params=["custom", "generic"])
async def judge(request: pytest.FixtureRequest, filled: Filled, postgres: Databases) -> AsyncIterator[Judge]:
    """Judges plans that know what is asked for, and those of prepared statements, which do not."""
    await explain_everything(postgres.as_superuser(filled.url), generic=request.param == "generic")
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(database_settings(filled.url), application="judge"))
        explanations = Explanations()
        explanations.listen(database)
        yield Judge(database, explanations, filled.large)
