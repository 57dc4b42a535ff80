"""What the database itself keeps of the promise that revisions never change."""

from collections.abc import Callable

import pytest
from sqlalchemy import update
from sqlalchemy.exc import DBAPIError

from services.inference.store_postgres.prompts import PostgresPrompts
from services.inference.tables import PROMPT_REVISIONS
from services.mesh.postgres.database import open_database
from tests.support.money import database_settings
from tests.support.prompts import ORGANIZATION, draft, prompt


async def test_revision_cannot_be_changed_by_anybody(migrated_database_url: Callable[..., str]) -> None:
    settings = database_settings(migrated_database_url("inference"))
    async with open_database(settings, application="tests") as database:
        store = PostgresPrompts(database)
        made = await store.create(prompt(), draft(), None)
        with pytest.raises(DBAPIError, match="never changes"):
            await database.change(update(PROMPT_REVISIONS).values(note="other"))
        first = await store.revision(ORGANIZATION, made.id, 1)
    assert first is not None
    assert first.note == "first"
