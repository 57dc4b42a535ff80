"""Use cases of conversations, their messages, and what people think of answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from services.conversation.asking.references import References
from services.conversation.bounds import check_text
from services.conversation.context import PromptReference
from services.conversation.history.branches import History
from services.conversation.journal.port import Journal
from services.conversation.model import (
    COMMENT_LENGTH_MAX,
    IMPORTED_MESSAGES_MAX,
    TEXT_LENGTH_MAX,
    Conversation,
    ConversationId,
    ConversationSettings,
    Feedback,
    Message,
    MessageId,
    Owner,
    Rating,
    Repeat,
    Role,
    title_of,
)
from services.conversation.running.stops import Signals
from services.conversation.store.conversations import ConversationStore, FeedbackStore, NewConversation, NewMessage
from services.conversation.store.summaries import Summary, SummaryStore
from services.mesh import telemetry
from services.mesh.errors import EtagMismatch, MeshError, invalid_field

UPDATE_TRIES_MAX: Final = 5

_log = telemetry.logger("conversation.conversations")

NewId = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class ImportedMessage:
    """A message that was written elsewhere."""

    role: Role
    text: str


class Conversations:
    """What users do with conversations as a whole."""

    def __init__(
        self,
        store: ConversationStore,
        journal: Journal,
        history: History,
        references: References,
        signals: Signals,
        *,
        new_id: NewId,
    ) -> None:
        self._store = store
        self._signals = signals
        self._references = references
        self._journal = journal
        self._history = history
        self._new_id = new_id

    async def create(
        self,
        owner: Owner,
        settings: ConversationSettings,
        messages: Sequence[ImportedMessage],
        *,
        repeat: Repeat | None,
    ) -> Conversation:
        """Begins a conversation.

        Raises:
            InvalidArgument: too many messages, or a text out of bounds.
            NotFound: no such knowledge base, or no such prompt.
            IdempotencyMismatch: the request id was used with another body.
        """
        if len(messages) > IMPORTED_MESSAGES_MAX:
            raise invalid_field("messages", f"at most {IMPORTED_MESSAGES_MAX} messages")
        for index, message in enumerate(messages):
            check_text(f"messages[{index}].text", message.text, TEXT_LENGTH_MAX, length_min=1)
        await self._references.check(owner, settings.knowledge_base_id, repeat)
        await self._references.check_prompt(owner, settings.prompt, repeat)
        first = next((message.text for message in messages if message.role is Role.USER), "")
        # In order, so that the tree shows them so: ids of one millisecond are in no order by themselves.
        ids = sorted(self._new_id("msg") for _ in messages)
        return await self._store.create_conversation(
            NewConversation(
                owner=owner,
                id=ConversationId(self._new_id("conv")),
                settings=replace(settings, title=settings.title or title_of(first)),
                messages=tuple(
                    NewMessage(id=MessageId(message_id), role=message.role, text=message.text)
                    for message_id, message in zip(ids, messages, strict=True)
                ),
                repeat=repeat,
            )
        )

    async def get(self, owner: Owner, conversation_id: str) -> Conversation:
        """Raises NotFound."""
        return await self._store.conversation(owner, conversation_id)

    async def list(self, owner: Owner, *, size: int, after: tuple[datetime, str] | None) -> Sequence[Conversation]:
        """The one that changed last first."""
        return await self._store.list_conversations(owner, size=size, after=after)

    async def update(
        self, owner: Owner, conversation_id: str, changes: Mapping[str, object], *, etag: str
    ) -> Conversation:
        """Changes settings; without an etag, whatever others changed meanwhile.

        Args:
            owner: whose conversation.
            conversation_id: the conversation.
            changes: new values by the names of the settings.
            etag: of the version that the caller has read; empty for any.

        Raises:
            NotFound: no such conversation, no such knowledge base, or no such prompt.
            InvalidArgument: a value is out of bounds, or does not fit the prompt.
            EtagMismatch: the settings changed since.
        """
        await self._references.check(owner, str(changes.get("knowledge_base_id", "")))
        prompt = changes.get("prompt")
        await self._references.check_prompt(owner, prompt if isinstance(prompt, PromptReference) else None)
        for _ in range(UPDATE_TRIES_MAX):
            present = await self._store.conversation(owner, conversation_id)
            if etag and etag != present.etag:
                break
            settings = replace(present.settings, **changes)  # type: ignore[arg-type] # the border checked their types
            try:
                return await self._store.update_conversation(owner, conversation_id, settings, etag=present.etag)
            except EtagMismatch:
                continue
        present = await self._store.conversation(owner, conversation_id)
        raise EtagMismatch("the conversation changed since it was read", metadata={"etag": present.etag})

    async def delete(self, owner: Owner, conversation_id: str) -> None:
        """Deletes a conversation; its worker finds out and stops. Raises NotFound."""
        turn_ids = await self._store.delete_conversation(owner, conversation_id)
        await self._signals.stop(conversation_id)
        await self._history.drop(owner, conversation_id)
        try:
            await self._journal.forget(turn_ids)
        except MeshError as error:  # nobody can read them any more, and they are forgotten later, see `Sweeper`
            _log.warning("journals_not_forgotten", reason=error.reason, turns=len(turn_ids))


class Messages:
    """What users read of a conversation."""

    def __init__(self, store: ConversationStore, summaries: SummaryStore) -> None:
        self._store = store
        self._summaries = summaries

    async def get(self, owner: Owner, message_id: str) -> Message:
        """Raises NotFound."""
        return await self._store.message(owner, message_id)

    async def leaf_of(self, owner: Owner, conversation_id: str) -> str:
        """The end of the branch that was written last; empty when there is none. Raises NotFound."""
        return (await self._store.conversation(owner, conversation_id)).leaf_message_id

    async def branch(
        self, owner: Owner, conversation_id: str, *, leaf_id: str, after_depth: int, size: int
    ) -> tuple[list[Message], bool]:
        """A page of a branch, oldest first, and whether more follow. Raises NotFound."""
        if not leaf_id:
            return [], False
        messages, depth = await self._store.branch(
            owner, conversation_id, leaf_id=leaf_id, after_depth=after_depth, size=size
        )
        return messages, after_depth + len(messages) < depth

    async def tree(self, owner: Owner, conversation_id: str, *, after_id: str, size: int) -> list[Message]:
        """A page of all messages. Raises NotFound."""
        return await self._store.tree(owner, conversation_id, size=size, after_id=after_id)

    async def summary(self, owner: Owner, summary_id: str) -> Summary:
        """What stood for older messages when an answer was written. Raises NotFound."""
        return await self._summaries.summary(owner, summary_id)


class FeedbackBook:
    """What people think of answers."""

    def __init__(self, store: FeedbackStore) -> None:
        self._store = store

    async def set(self, owner: Owner, message_id: str, rating: Rating, comment: str) -> Feedback:
        """Replaces the judgement before.

        Raises:
            NotFound: no such answer.
            InvalidArgument: the comment is too long.
        """
        check_text("comment", comment, COMMENT_LENGTH_MAX)
        return await self._store.set_feedback(owner, message_id, rating, comment)

    async def get(self, owner: Owner, message_id: str) -> Feedback:
        """Raises NotFound."""
        return await self._store.feedback(owner, message_id)
