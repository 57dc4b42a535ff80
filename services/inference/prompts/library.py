"""What people do with prompts: make, name and revise them, move aliases, take them out of use, and look at them."""

from services.inference.money.purse import Payer
from services.inference.prompts.examples import Examples
from services.inference.prompts.lookup import PromptBook
from services.inference.prompts.model import (
    ID_PREFIX,
    Content,
    Draft,
    NamedPrompt,
    Repeat,
    Revision,
    RevisionHead,
    check_alias,
    is_handle,
)
from services.inference.prompts.store import AliasMove, PromptChange, PromptStore
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import NotFound
from services.mesh.ids import new_id


class Library:
    """Prompts of the caller's organization.

    Args:
        store: keeps them.
        book: told of every change.
        examples: prepares those of new revisions.
        clock: says when something happened.
    """

    def __init__(
        self, store: PromptStore, book: PromptBook, examples: Examples, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._store = store
        self._book = book
        self._examples = examples
        self._clock = clock

    async def create(
        self, author: Payer, name: str, description: str, content: Content, note: str, repeat: Repeat | None
    ) -> NamedPrompt:
        """Keeps a prompt with its first revision.

        Raises:
            InvalidArgument: name, description or note are malformed.
            AlreadyExists: the name is taken.
            IdempotencyMismatch: the request id was used for something else.
        """
        at = self._clock.now()
        prompt = NamedPrompt(
            id=new_id(ID_PREFIX),
            organization_id=author.organization_id,
            name=name,
            description=description,
            created_at=at,
            updated_at=at,
        )
        draft = Draft(content=content, author_id=author.user_id, at=at, note=note)
        kept = await self._store.create(prompt, draft, repeat)
        await self._examples.prepare(await self._book.revision(kept, 1), author)
        return kept

    async def get(self, organization_id: str, handle: str) -> NamedPrompt:
        """A prompt by its id, or one that lives by its name.

        Raises:
            NotFound: there is none.
        """
        found = await self._store.find(organization_id, handle) if is_handle(handle) else None
        if found is None:
            raise NotFound.of("prompt")
        return found

    async def page(self, organization_id: str, *, after: str, limit: int) -> list[NamedPrompt]:
        """Prompts that live, by name, from the first one behind `after`."""
        return await self._store.page(organization_id, after=after, limit=limit)

    async def change(
        self, organization_id: str, handle: str, *, name: str | None, description: str | None
    ) -> NamedPrompt:
        """Changes what is not None of the prompt itself; its revisions and aliases stay.

        Raises:
            NotFound: it does not live.
            InvalidArgument: name or description are malformed.
            AlreadyExists: the name is taken.
        """
        prompt = await self.get(organization_id, handle)
        change = PromptChange(name=name, description=description, at=self._clock.now())
        changed = await self._store.change(organization_id, prompt.id, change)
        if changed is None:
            raise NotFound.of("prompt")
        await self._book.changed(prompt)  # its old name leads to it in the memory of replicas
        if changed.name != prompt.name:
            await self._book.changed(changed)
        return changed

    async def delete(self, organization_id: str, handle: str) -> None:
        """Takes a prompt out of use.

        Raises:
            NotFound: it does not live.
        """
        prompt = await self.get(organization_id, handle)
        if not await self._store.delete(organization_id, prompt.id, self._clock.now()):
            raise NotFound.of("prompt")
        await self._book.changed(prompt)

    async def add_revision(
        self, author: Payer, handle: str, content: Content, note: str, repeat: Repeat | None
    ) -> Revision:
        """Keeps the next revision.

        Raises:
            NotFound: the prompt does not live.
            InvalidArgument: the note is malformed.
            IdempotencyMismatch: the request id was used for something else.
        """
        draft = Draft(content=content, author_id=author.user_id, at=self._clock.now(), note=note)
        prompt = await self.get(author.organization_id, handle)
        revision = await self._store.add_revision(author.organization_id, prompt.id, draft, repeat)
        if revision is None:
            raise NotFound.of("prompt")
        await self._examples.prepare(revision, author)
        await self._book.changed(prompt)
        return revision

    async def revision(self, organization_id: str, handle: str, number: int) -> Revision:
        """A revision, of a deleted prompt too.

        Raises:
            NotFound: there is none.
        """
        return await self._book.revision(await self.get(organization_id, handle), number)

    async def revisions(
        self, organization_id: str, handle: str, *, before: int | None, limit: int
    ) -> list[RevisionHead]:
        """What is told of revisions, newest first, from the first one below `before`.

        Raises:
            NotFound: there is no such prompt.
        """
        prompt = await self.get(organization_id, handle)
        return await self._store.revisions(organization_id, prompt.id, before=before, limit=limit)

    async def set_alias(
        self, organization_id: str, handle: str, alias: str, revision: int, *, expected: int | None
    ) -> NamedPrompt:
        """Makes an alias lead to a revision.

        Raises:
            InvalidArgument: the alias is malformed, or one too many.
            NotFound: the prompt does not live, or has no such revision.
            EtagMismatch: the alias does not lead to where it was expected to.
        """
        check_alias(alias)
        return await self._move(organization_id, handle, alias, revision, expected)

    async def delete_alias(self, organization_id: str, handle: str, alias: str, *, expected: int | None) -> None:
        """Takes an alias away.

        Raises:
            NotFound: the prompt does not live, or has no such alias.
            EtagMismatch: the alias does not lead to where it was expected to.
        """
        await self._move(organization_id, handle, alias, None, expected)

    async def _move(
        self, organization_id: str, handle: str, alias: str, revision: int | None, expected: int | None
    ) -> NamedPrompt:
        prompt = await self.get(organization_id, handle)
        move = AliasMove(alias=alias, revision=revision, expected=expected, at=self._clock.now())
        changed = await self._store.move_alias(organization_id, prompt.id, move)
        if changed is None:
            raise NotFound.of("prompt")
        await self._book.changed(changed)
        return changed
