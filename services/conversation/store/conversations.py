"""Conversations, their messages, and what people think of answers, as they are kept; see `Store`."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.conversation.model import (
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
    TurnId,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMessage:
    """A message that was written elsewhere."""

    id: MessageId
    role: Role
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewConversation:
    """A conversation to create, with the messages of its first branch, oldest first."""

    owner: Owner
    id: ConversationId
    settings: ConversationSettings
    messages: tuple[NewMessage, ...] = ()
    repeat: Repeat | None = None


class ConversationStore(Protocol):
    """Conversations and messages."""

    async def create_conversation(self, new: NewConversation) -> Conversation:
        """Creates, or returns what the first call with the same request id created.

        Raises:
            IdempotencyMismatch: the request id was used with another body.
            NotFound: what the first call created was deleted since.
        """
        ...

    async def is_repeat(self, owner: Owner, repeat: Repeat) -> bool:
        """Whether an earlier call used this request id, whatever its body."""
        ...

    async def conversation(self, owner: Owner, conversation_id: str) -> Conversation:
        """Raises NotFound."""
        ...

    async def list_conversations(
        self, owner: Owner, *, size: int, after: tuple[datetime, str] | None
    ) -> list[Conversation]:
        """By update time, latest first, then by id; `after` is that pair of the last one seen."""
        ...

    async def update_conversation(
        self, owner: Owner, conversation_id: str, settings: ConversationSettings, *, etag: str
    ) -> Conversation:
        """Replaces the settings if `etag` is still the present one.

        Raises:
            NotFound: no such conversation.
            EtagMismatch: the settings changed since.
        """
        ...

    async def delete_conversation(self, owner: Owner, conversation_id: str) -> list[TurnId]:
        """Deletes it with all that hangs on it; returns its turns. Raises NotFound."""
        ...

    async def message(self, owner: Owner, message_id: str) -> Message:
        """Raises NotFound."""
        ...

    async def branch(
        self, owner: Owner, conversation_id: str, *, leaf_id: str, after_depth: int, size: int
    ) -> tuple[list[Message], int]:
        """Messages of the branch that ends in `leaf_id`, oldest first, from after_depth + 1 to after_depth + size.

        Returns:
            The messages, and the depth of the leaf. A first message has depth 0.

        Raises:
            NotFound: no such message in the conversation.
        """
        ...

    async def branch_end(self, owner: Owner, conversation_id: str, *, leaf_id: str, size: int) -> list[Message]:
        """The last `size` messages of the branch that ends in `leaf_id`, oldest first. Raises NotFound."""
        ...

    async def tree(self, owner: Owner, conversation_id: str, *, size: int, after_id: str) -> list[Message]:
        """All messages in the order of their ids, which is that of their creation. Raises NotFound."""
        ...


class FeedbackStore(Protocol):
    """What people think of answers."""

    async def set_feedback(self, owner: Owner, message_id: str, rating: Rating, comment: str) -> Feedback:
        """Replaces the one before. Raises NotFound when there is no such answer."""
        ...

    async def feedback(self, owner: Owner, message_id: str) -> Feedback:
        """Raises NotFound when there is no such answer or no judgement of it."""
        ...
