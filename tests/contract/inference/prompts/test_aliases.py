"""Aliases as they are moved, and vectors as they are kept."""

import asyncio
from datetime import timedelta

import pytest

from services.inference.prompts.model import ALIASES_MAX, NamedPrompt
from services.inference.prompts.store import AliasMove, PromptStore
from services.mesh.errors import EtagMismatch, InvalidArgument, NotFound
from tests.support.prompts import NOON, ORGANIZATION, OTHER_ORGANIZATION, draft, prompt

LATER = NOON + timedelta(hours=1)


def move(revision: int | None = 1, *, alias: str = "production", expected: int | None = None) -> AliasMove:
    return AliasMove(alias=alias, revision=revision, expected=expected, at=LATER)


@pytest.fixture
async def made(store: PromptStore) -> NamedPrompt:
    """A prompt of two revisions."""
    kept = await store.create(prompt(), draft(), None)
    await store.add_revision(ORGANIZATION, kept.id, draft("New."), None)
    return kept


async def test_alias_leads_to_where_it_was_moved(store: PromptStore, made: NamedPrompt) -> None:
    await store.move_alias(ORGANIZATION, made.id, move(1))
    changed = await store.move_alias(ORGANIZATION, made.id, move(2, expected=1))
    assert changed is not None
    assert (dict(changed.aliases), changed.updated_at) == ({"production": 2}, LATER)
    assert await store.find(ORGANIZATION, "support") == changed


async def test_alias_that_is_taken_away_is_gone(store: PromptStore, made: NamedPrompt) -> None:
    await store.move_alias(ORGANIZATION, made.id, move(1))
    await store.move_alias(ORGANIZATION, made.id, move(2, alias="staging"))
    changed = await store.move_alias(ORGANIZATION, made.id, move(None, expected=1))
    assert changed is not None
    assert dict(changed.aliases) == {"staging": 2}


@pytest.mark.parametrize(("expected", "is_set"), [(0, True), (2, True), (1, False)])
async def test_alias_that_somebody_else_moved_stays(
    store: PromptStore, made: NamedPrompt, expected: int, *, is_set: bool
) -> None:
    if is_set:
        await store.move_alias(ORGANIZATION, made.id, move(1))
    with pytest.raises(EtagMismatch) as refused:
        await store.move_alias(ORGANIZATION, made.id, move(2, expected=expected))
    assert refused.value.metadata == {"etag": "1" if is_set else "0"}


async def test_of_equal_expectations_one_is_met(store: PromptStore, made: NamedPrompt) -> None:
    moves = (store.move_alias(ORGANIZATION, made.id, move(2, expected=0)) for _ in range(4))
    outcomes = await asyncio.gather(*moves, return_exceptions=True)
    assert sum(isinstance(outcome, NamedPrompt) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, EtagMismatch) for outcome in outcomes) == 3


@pytest.mark.parametrize("revision", [0, 3, None])
async def test_what_is_not_there_is_not_found(store: PromptStore, made: NamedPrompt, revision: int | None) -> None:
    with pytest.raises(NotFound):
        await store.move_alias(ORGANIZATION, made.id, move(revision))


async def test_prompt_has_so_many_aliases_and_no_more(store: PromptStore, made: NamedPrompt) -> None:
    for number in range(ALIASES_MAX):
        await store.move_alias(ORGANIZATION, made.id, move(1, alias=f"a{number}"))
    with pytest.raises(InvalidArgument):
        await store.move_alias(ORGANIZATION, made.id, move(1, alias="more"))
    changed = await store.move_alias(ORGANIZATION, made.id, move(2, alias="a7"))
    assert changed is not None
    assert len(changed.aliases) == ALIASES_MAX


async def test_alias_of_a_deleted_prompt_is_not_moved(store: PromptStore, made: NamedPrompt) -> None:
    await store.delete(ORGANIZATION, made.id, NOON)
    assert await store.move_alias(ORGANIZATION, made.id, move(1)) is None


async def test_vectors_are_those_of_one_encoder_and_one_organization(store: PromptStore) -> None:
    await store.keep_vectors(ORGANIZATION, "one", {b"a": b"1", b"b": b"2"})
    await store.keep_vectors(ORGANIZATION, "one", {b"b": b"other", b"c": b"3"})
    await store.keep_vectors(ORGANIZATION, "one", {})
    assert await store.vectors(ORGANIZATION, "one", [b"a", b"b", b"z"]) == {b"a": b"1", b"b": b"2"}
    assert await store.vectors(ORGANIZATION, "two", [b"a"]) == {}
    assert await store.vectors(OTHER_ORGANIZATION, "one", [b"a"]) == {}
