"""Prompts, their revisions and the vectors of their examples."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, RowMapping, Select, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from services.inference.model import Example
from services.inference.prompts.model import (
    Content,
    Defaults,
    Draft,
    NamedPrompt,
    Repeat,
    Revision,
    RevisionHead,
    Selection,
)
from services.inference.prompts.store import (
    AliasMove,
    Bounds,
    PromptChange,
    changed,
    check_prompts,
    check_revisions,
    moved,
    taken,
)
from services.inference.prompts.variables import Variable, VariableType
from services.inference.tables import PROMPT_REVISIONS, PROMPT_VECTORS, PROMPTS
from services.mesh.idempotency import check_repeat
from services.mesh.postgres.database import ReadOnly, ReadWrite, constraint_of
from services.mesh.postgres.places import Places

_Json = dict[str, Any]  # Any: JSON of a column

_prompts: Final = PROMPTS.c
_revisions: Final = PROMPT_REVISIONS.c
_vectors: Final = PROMPT_VECTORS.c
_LOCK_NAMESPACE: Final = 1886547824
"""Of creations, per organization; any number that no other lock of the database has."""
_NAMES: Final = "prompts_by_name"
"""The index that keeps two prompts that live from having one name."""
_HEAD: Final = ("prompt_id", "number", "author_id", "created_at", "note")
_DEFAULTS: Final = ("model", "temperature", "top_p", "output_tokens_max")
_VARIABLE: Final = ("name", "description", "default", "minimum", "maximum", "length_max")


class PostgresPrompts:
    """Implements `prompts.store.PromptStore`."""

    def __init__(self, places: Places, bounds: Bounds = Bounds()) -> None:  # noqa: B008 - frozen
        self._places = places
        self._bounds = bounds

    async def create(self, prompt: NamedPrompt, draft: Draft, repeat: Repeat | None) -> NamedPrompt:
        """See `store.PromptStore.create`."""
        organization_id = prompt.organization_id
        try:
            async with self._places.of(organization_id).write() as write:
                # One creation per organization at a time: none is one too many, and equal calls make one prompt.
                await write.execute(select(func.pg_advisory_xact_lock(_LOCK_NAMESPACE, func.hashtext(organization_id))))
                earlier = await _made(write, organization_id, draft, repeat)
                if earlier is None:
                    check_prompts(await _count(write, organization_id), self._bounds)
                    await write.execute(insert(PROMPTS).values(_prompt_row(prompt)))
                    await _add(write, prompt, draft, repeat)
                    return prompt
        except IntegrityError as error:
            if constraint_of(error) != _NAMES:
                # A new revision was faster with this request id.
                await self._refuse_reuse(organization_id, draft, repeat)
                raise
            raise taken(prompt.name) from None
        found = await self.find(organization_id, earlier.prompt_id)
        assert found is not None  # prompts are never removed
        return found

    async def find(self, organization_id: str, handle: str) -> NamedPrompt | None:
        """See `store.PromptStore.find`."""
        # Names and ids cannot be mistaken for each other, so that one of the two finds nothing.
        by_id = select(PROMPTS).where(_prompts.organization_id == organization_id, _prompts.id == handle)
        by_name = select(PROMPTS).where(
            _prompts.organization_id == organization_id, _prompts.name == handle, _prompts.deleted_at.is_(None)
        )
        async with self._places.of(organization_id).read() as read:
            row = (await read.execute(by_id.union_all(by_name))).mappings().one_or_none()
        return None if row is None else _prompt(row)

    async def page(self, organization_id: str, *, after: str, limit: int) -> list[NamedPrompt]:
        """See `store.PromptStore.page`."""
        query = (
            select(PROMPTS)
            .where(_prompts.organization_id == organization_id, _prompts.deleted_at.is_(None), _prompts.name > after)
            .order_by(_prompts.name)
            .limit(limit)
        )
        async with self._places.of(organization_id).read() as read:
            return [_prompt(row) for row in (await read.execute(query)).mappings()]

    async def change(self, organization_id: str, prompt_id: str, change: PromptChange) -> NamedPrompt | None:
        """See `store.PromptStore.change`."""
        try:
            async with self._places.of(organization_id).write() as write:
                row = (await write.execute(_locked(organization_id, prompt_id))).mappings().one_or_none()
                if row is None:
                    return None
                newer = changed(_prompt(row), change)
                values = {"name": newer.name, "description": newer.description, "updated_at": newer.updated_at}
                await write.execute(update(PROMPTS).where(*_alive(organization_id, prompt_id)).values(values))
                return newer
        except IntegrityError as error:
            if constraint_of(error) != _NAMES or change.name is None:
                raise
            raise taken(change.name) from None

    async def delete(self, organization_id: str, prompt_id: str, at: datetime) -> bool:
        """See `store.PromptStore.delete`."""
        statement = update(PROMPTS).where(*_alive(organization_id, prompt_id)).values(deleted_at=at)
        return (await self._places.of(organization_id).change(statement)).rowcount == 1

    async def add_revision(
        self, organization_id: str, prompt_id: str, draft: Draft, repeat: Repeat | None
    ) -> Revision | None:
        """See `store.PromptStore.add_revision`."""
        try:
            async with self._places.of(organization_id).write() as write:
                # The lock on the prompt is what makes numbers follow each other, and equal calls too.
                row = (await write.execute(_locked(organization_id, prompt_id))).mappings().one_or_none()
                if row is None:
                    return None
                earlier = await _made(write, organization_id, draft, repeat)
                if earlier is not None:
                    return earlier
                check_revisions(_prompt(row), self._bounds)
                newer = {"latest_revision": row["latest_revision"] + 1, "updated_at": draft.at}
                await write.execute(update(PROMPTS).where(*_alive(organization_id, prompt_id)).values(newer))
                return await _add(write, _prompt({**row, **newer}), draft, repeat)
        except IntegrityError:
            # A call about another prompt was faster with this request id.
            await self._refuse_reuse(organization_id, draft, repeat)
            raise

    async def revision(self, organization_id: str, prompt_id: str, number: int) -> Revision | None:
        """See `store.PromptStore.revision`."""
        query = select(PROMPT_REVISIONS).where(*_of_prompt(organization_id, prompt_id), _revisions.number == number)
        async with self._places.of(organization_id).read() as read:
            row = (await read.execute(query)).mappings().one_or_none()
        return None if row is None else _revision(row)

    async def revisions(
        self, organization_id: str, prompt_id: str, *, before: int | None, limit: int
    ) -> list[RevisionHead]:
        """See `store.PromptStore.revisions`."""
        query = (
            select(*(_revisions[name] for name in _HEAD))
            .where(*_of_prompt(organization_id, prompt_id))
            .order_by(_revisions.number.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(_revisions.number < before)
        async with self._places.of(organization_id).read() as read:
            return [RevisionHead(**row) for row in (await read.execute(query)).mappings()]

    async def move_alias(self, organization_id: str, prompt_id: str, move: AliasMove) -> NamedPrompt | None:
        """See `store.PromptStore.move_alias`."""
        async with self._places.of(organization_id).write() as write:
            row = (await write.execute(_locked(organization_id, prompt_id))).mappings().one_or_none()
            if row is None:
                return None
            newer = {"aliases": moved(_prompt(row), move), "updated_at": move.at}
            await write.execute(update(PROMPTS).where(*_alive(organization_id, prompt_id)).values(newer))
            return _prompt({**row, **newer})

    async def vectors(self, organization_id: str, encoder: str, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        """See `store.PromptStore.vectors`."""
        query = select(_vectors.digest, _vectors.vector).where(
            _vectors.organization_id == organization_id, _vectors.encoder == encoder, _vectors.digest.in_(digests)
        )
        async with self._places.of(organization_id).read() as read:
            return {bytes(digest): bytes(vector) for digest, vector in await read.execute(query)}

    async def keep_vectors(self, organization_id: str, encoder: str, vectors: Mapping[bytes, bytes]) -> None:
        """See `store.PromptStore.keep_vectors`."""
        rows = [
            {"organization_id": organization_id, "encoder": encoder, "digest": digest, "vector": vector}
            for digest, vector in sorted(vectors.items())
        ]
        if rows:
            await self._places.of(organization_id).change(insert(PROMPT_VECTORS).values(rows).on_conflict_do_nothing())

    async def _refuse_reuse(self, organization_id: str, draft: Draft, repeat: Repeat | None) -> None:
        """What a call is told that collided with another one.

        Raises:
            IdempotencyMismatch: their request id was the same.
        """
        async with self._places.of(organization_id).read() as read:
            await _made(read, organization_id, draft, repeat)


async def _count(read: ReadOnly, organization_id: str) -> int:
    """How many prompts live."""
    living = select(func.count()).where(_prompts.organization_id == organization_id, _prompts.deleted_at.is_(None))
    return (await read.execute(living)).scalar_one()


async def _made(read: ReadOnly, organization_id: str, draft: Draft, repeat: Repeat | None) -> Revision | None:
    """The revision that an earlier call with this request id made.

    Raises:
        IdempotencyMismatch: the author used it for something else.
    """
    if repeat is None:
        return None
    query = select(PROMPT_REVISIONS).where(
        _revisions.organization_id == organization_id,
        _revisions.author_id == draft.author_id,
        _revisions.request_id == repeat.request_id,
    )
    row = (await read.execute(query)).mappings().one_or_none()
    if row is None:
        return None
    check_repeat(bytes(row["body_hash"]), repeat.body_hash)
    return _revision(row)


async def _add(write: ReadWrite, prompt: NamedPrompt, draft: Draft, repeat: Repeat | None) -> Revision:
    """Keeps the newest revision of a prompt."""
    revision = Revision.of(prompt, draft)
    await write.execute(
        insert(PROMPT_REVISIONS).values(
            organization_id=prompt.organization_id,
            prompt_id=revision.prompt_id,
            number=revision.number,
            content=_content_json(revision.content),
            note=revision.note,
            author_id=revision.author_id,
            created_at=revision.created_at,
            request_id=None if repeat is None else repeat.request_id,
            body_hash=None if repeat is None else repeat.body_hash,
        )
    )
    return revision


def _alive(organization_id: str, prompt_id: str) -> tuple[ColumnElement[bool], ...]:
    return (
        _prompts.organization_id == organization_id,
        _prompts.id == prompt_id,
        _prompts.deleted_at.is_(None),
    )


def _locked(organization_id: str, prompt_id: str) -> Select[*tuple[Any, ...]]:  # Any: columns of any type
    return select(PROMPTS).where(*_alive(organization_id, prompt_id)).with_for_update()


def _of_prompt(organization_id: str, prompt_id: str) -> tuple[ColumnElement[bool], ...]:
    return _revisions.organization_id == organization_id, _revisions.prompt_id == prompt_id


def _prompt_row(prompt: NamedPrompt) -> _Json:
    return {
        "organization_id": prompt.organization_id,
        "id": prompt.id,
        "name": prompt.name,
        "description": prompt.description,
        "latest_revision": prompt.latest_revision,
        "aliases": dict(prompt.aliases),
        "created_at": prompt.created_at,
        "updated_at": prompt.updated_at,
    }


def _prompt(row: RowMapping | _Json) -> NamedPrompt:
    return NamedPrompt(
        id=row["id"],
        organization_id=row["organization_id"],
        name=row["name"],
        description=row["description"],
        latest_revision=row["latest_revision"],
        aliases=row["aliases"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        deleted_at=row["deleted_at"],
    )


def _revision(row: RowMapping) -> Revision:
    return Revision(**{name: row[name] for name in _HEAD}, content=_content(row["content"]))


def _content_json(content: Content) -> _Json:
    defaults = content.defaults
    return {
        "template": content.template,
        "variables": [_variable_json(variable) for variable in content.variables],
        "examples": [[example.user, example.assistant] for example in content.examples],
        "selection": content.selection.value,
        "nearest_count": content.nearest_count,
        "defaults": {name: getattr(defaults, name) for name in _DEFAULTS},
    }


def _content(stored: _Json) -> Content:
    return Content(
        template=stored["template"],
        variables=tuple(_variable(variable) for variable in stored["variables"]),
        examples=tuple(Example(user, assistant) for user, assistant in stored["examples"]),
        selection=Selection(stored["selection"]),
        nearest_count=stored["nearest_count"],
        defaults=Defaults(**stored["defaults"]),
    )


def _variable_json(variable: Variable) -> _Json:
    plain = {name: getattr(variable, name) for name in _VARIABLE}
    return plain | {"type": variable.type.value, "choices": list(variable.choices)}


def _variable(stored: _Json) -> Variable:
    plain = {name: stored[name] for name in _VARIABLE}
    return Variable(**plain, type=VariableType(stored["type"]), choices=tuple(stored["choices"]))
