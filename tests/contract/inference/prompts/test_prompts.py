"""Prompts as they are kept: names, revisions, repeats, and what other organizations see of them."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from services.inference.prompts.model import NamedPrompt, RevisionHead
from services.inference.prompts.store import AliasMove, PromptChange, PromptStore
from services.inference.prompts.variables import DESCRIPTION_CHARS_MAX
from services.mesh.errors import AlreadyExists, IdempotencyMismatch, InvalidArgument, QuotaExhausted
from tests.support.prompts import (
    AUTHOR,
    BOUNDS,
    FULL,
    NOON,
    ORGANIZATION,
    OTHER_AUTHOR,
    OTHER_ORGANIZATION,
    draft,
    prompt,
    repeat,
)

LATER = NOON + timedelta(hours=1)


def change(*, name: str | None = None, description: str | None = None) -> PromptChange:
    return PromptChange(name=name, description=description, at=LATER)


async def test_prompt_and_its_first_revision_are_what_was_kept(store: PromptStore) -> None:
    made = await store.create(prompt(description="For people."), draft(content=FULL), None)
    first = await store.revision(ORGANIZATION, made.id, 1)
    assert await store.find(ORGANIZATION, made.id) == await store.find(ORGANIZATION, "support") == made
    assert (made.latest_revision, dict(made.aliases), made.deleted_at) == (1, {}, None)
    assert first is not None
    assert first.content == FULL
    assert (first.name, first.author_id, first.note, first.created_at) == (f"{made.id}/1", AUTHOR, "first", NOON)


async def test_name_is_taken_once_per_organization(store: PromptStore) -> None:
    await store.create(prompt(), draft(), None)
    with pytest.raises(AlreadyExists) as refused:
        await store.create(prompt(), draft(), repeat())
    await store.create(prompt(organization_id=OTHER_ORGANIZATION), draft(), None)
    assert refused.value.metadata == {"field": "name"}


async def test_another_organization_sees_and_changes_nothing(store: PromptStore) -> None:
    made = await store.create(prompt(), draft(), None)
    move = AliasMove(alias="production", revision=1, expected=None, at=NOON)
    assert await store.find(OTHER_ORGANIZATION, made.id) is None
    assert await store.find(OTHER_ORGANIZATION, made.name) is None
    assert await store.page(OTHER_ORGANIZATION, after="", limit=9) == []
    assert await store.revision(OTHER_ORGANIZATION, made.id, 1) is None
    assert await store.revisions(OTHER_ORGANIZATION, made.id, before=None, limit=9) == []
    assert await store.add_revision(OTHER_ORGANIZATION, made.id, draft(), None) is None
    assert await store.move_alias(OTHER_ORGANIZATION, made.id, move) is None
    assert await store.change(OTHER_ORGANIZATION, made.id, change(name="theirs")) is None
    assert not await store.delete(OTHER_ORGANIZATION, made.id, NOON)
    assert await store.find(ORGANIZATION, made.id) == made


async def test_changed_prompt_keeps_all_that_was_not_changed(store: PromptStore) -> None:
    made = await store.create(prompt(description="For people."), draft(), None)
    renamed = await store.change(ORGANIZATION, made.id, change(name="helpdesk"))
    bare = await store.change(ORGANIZATION, made.id, change(description=""))
    assert renamed == replace(made, name="helpdesk", updated_at=LATER)
    assert bare == replace(made, name="helpdesk", description="", updated_at=LATER)
    assert await store.find(ORGANIZATION, "helpdesk") == await store.find(ORGANIZATION, made.id) == bare
    assert await store.find(ORGANIZATION, "support") is None


async def test_name_of_another_prompt_cannot_be_taken_while_it_lives(store: PromptStore) -> None:
    made = await store.create(prompt(), draft(), None)
    other = await store.create(prompt("other"), draft(), None)
    with pytest.raises(AlreadyExists) as refused:
        await store.change(ORGANIZATION, other.id, change(name="support"))
    assert await store.change(ORGANIZATION, made.id, change(name="support")) is not None
    await store.delete(ORGANIZATION, made.id, NOON)
    assert await store.change(ORGANIZATION, other.id, change(name="support")) is not None
    assert refused.value.metadata == {"field": "name"}


async def test_of_prompts_that_want_one_name_at_once_one_gets_it(store: PromptStore) -> None:
    made = [await store.create(prompt(name), draft(), None) for name in ("a", "b", "c")]
    wanted = (store.change(ORGANIZATION, one.id, change(name="best")) for one in made)
    outcomes = await asyncio.gather(*wanted, return_exceptions=True)
    assert sum(isinstance(outcome, NamedPrompt) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, AlreadyExists) for outcome in outcomes) == 2


@pytest.mark.parametrize(("more", "is_taken"), [(-1, True), (0, True), (1, False)])
async def test_description_is_so_long_and_no_longer(store: PromptStore, more: int, *, is_taken: bool) -> None:
    made = await store.create(prompt(), draft(), None)
    call = store.change(ORGANIZATION, made.id, change(description="x" * (DESCRIPTION_CHARS_MAX + more)))
    if is_taken:
        assert await call is not None
    else:
        with pytest.raises(InvalidArgument) as refused:
            await call
        assert refused.value.fields[0].field == "description"


async def test_prompt_keeps_its_name_when_the_new_one_is_none(store: PromptStore) -> None:
    made = await store.create(prompt(), draft(), None)
    for name in ("", "No Name", "prm_x"):
        with pytest.raises(InvalidArgument):
            await store.change(ORGANIZATION, made.id, change(name=name))
    assert await store.find(ORGANIZATION, made.id) == made


async def test_prompts_are_listed_by_name_in_pages(store: PromptStore) -> None:
    for name in ("gamma", "alpha", "beta"):
        await store.create(prompt(name), draft(), None)
    first = await store.page(ORGANIZATION, after="", limit=2)
    rest = await store.page(ORGANIZATION, after=first[-1].name, limit=2)
    assert [one.name for one in (*first, *rest)] == ["alpha", "beta", "gamma"]


async def test_revisions_are_numbered_without_holes_whoever_adds_them(store: PromptStore) -> None:
    made = await store.create(prompt(), draft(), None)
    added = await asyncio.gather(*(store.add_revision(ORGANIZATION, made.id, draft(str(n)), None) for n in range(8)))
    newest = await store.find(ORGANIZATION, made.id)
    assert sorted(one.number for one in added if one is not None) == list(range(2, 10))
    for one in added:
        assert one is not None
        assert await store.revision(ORGANIZATION, made.id, one.number) == one
    assert newest is not None
    assert newest.latest_revision == 9


async def test_revisions_are_told_of_newest_first_in_pages(store: PromptStore) -> None:
    made = await store.create(prompt(), draft(), None)
    for number in (2, 3):
        await store.add_revision(ORGANIZATION, made.id, draft(str(number)), None)
    first = await store.revisions(ORGANIZATION, made.id, before=None, limit=2)
    rest = await store.revisions(ORGANIZATION, made.id, before=first[-1].number, limit=2)
    assert [one.number for one in (*first, *rest)] == [3, 2, 1]
    assert rest == [
        RevisionHead(prompt_id=made.id, number=1, author_id=AUTHOR, created_at=NOON, note="first"),
    ]


async def test_revision_that_is_not_there_is_none(store: PromptStore) -> None:
    made = await store.create(prompt(), draft(), None)
    assert [await store.revision(ORGANIZATION, made.id, number) for number in (0, 2)] == [None, None]
    assert await store.add_revision(ORGANIZATION, prompt().id, draft(), None) is None


async def test_deleted_prompt_is_explained_by_its_id_and_used_no_more(store: PromptStore) -> None:
    made = await store.create(prompt(), draft(), None)
    assert await store.delete(ORGANIZATION, made.id, NOON + timedelta(hours=1))
    found = await store.find(ORGANIZATION, made.id)
    assert found is not None
    assert found.deleted_at == NOON + timedelta(hours=1)
    assert await store.revision(ORGANIZATION, made.id, 1) is not None
    assert await store.find(ORGANIZATION, made.name) is None
    assert await store.page(ORGANIZATION, after="", limit=9) == []
    assert await store.add_revision(ORGANIZATION, made.id, draft(), None) is None
    assert await store.change(ORGANIZATION, made.id, change(name="helpdesk")) is None
    assert not await store.delete(ORGANIZATION, made.id, NOON)


async def test_name_of_a_deleted_prompt_is_free(store: PromptStore) -> None:
    made = await store.create(prompt(), draft(), None)
    await store.delete(ORGANIZATION, made.id, NOON)
    again = await store.create(prompt(), draft(), None)
    assert await store.find(ORGANIZATION, "support") == again


async def test_repeated_creation_gives_the_first_prompt(store: PromptStore) -> None:
    made = await store.create(prompt(), draft(), repeat())
    again = await store.create(prompt(), draft(), repeat())
    assert again == made


async def test_equal_creations_at_once_make_one_prompt(store: PromptStore) -> None:
    made = await asyncio.gather(*(store.create(prompt(), draft(), repeat()) for _ in range(4)))
    assert len({one.id for one in made}) == 1


async def test_equal_revisions_at_once_are_one(store: PromptStore) -> None:
    made = await store.create(prompt(), draft(), None)
    added = await asyncio.gather(
        *(store.add_revision(ORGANIZATION, made.id, draft("New."), repeat()) for _ in range(4))
    )
    assert [one and one.number for one in added] == [2, 2, 2, 2]


async def test_request_id_with_another_body_is_refused(store: PromptStore) -> None:
    made = await store.create(prompt(), draft(), repeat(body=b"one"))
    other = await store.create(prompt("other"), draft(), None)
    with pytest.raises(IdempotencyMismatch):
        await store.create(prompt("third"), draft(), repeat(body=b"two"))
    with pytest.raises(IdempotencyMismatch):
        await store.add_revision(ORGANIZATION, made.id, draft(), repeat(body=b"two"))
    with pytest.raises(IdempotencyMismatch):
        await store.add_revision(ORGANIZATION, other.id, draft(), repeat(body=b"two"))


async def test_request_ids_of_two_people_are_not_the_same(store: PromptStore) -> None:
    await store.create(prompt(), draft(), repeat(body=b"one"))
    mine = await store.create(prompt("mine"), draft(author_id=OTHER_AUTHOR), repeat(body=b"two"))
    assert mine.name == "mine"


async def test_organization_has_so_many_prompts_and_no_more_whoever_makes_them(store: PromptStore) -> None:
    await store.create(prompt(organization_id=OTHER_ORGANIZATION), draft(), None)
    drafts = (store.create(prompt(f"p{number}"), draft(), None) for number in range(BOUNDS.prompts + 2))
    outcomes = await asyncio.gather(*drafts, return_exceptions=True)
    assert sum(isinstance(outcome, QuotaExhausted) for outcome in outcomes) == 2
    (kept, *_) = await store.page(ORGANIZATION, after="", limit=9)
    await store.delete(ORGANIZATION, kept.id, NOON)
    await store.create(prompt("again"), draft(), None)


async def test_prompt_has_so_many_revisions_and_no_more(store: PromptStore) -> None:
    made = await store.create(prompt(), draft(), None)
    for _ in range(BOUNDS.revisions - 1):
        await store.add_revision(ORGANIZATION, made.id, draft(), None)
    with pytest.raises(QuotaExhausted):
        await store.add_revision(ORGANIZATION, made.id, draft(), None)
    newest = await store.find(ORGANIZATION, made.id)
    assert newest is not None
    assert newest.latest_revision == BOUNDS.revisions
