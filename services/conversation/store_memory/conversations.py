"""Conversations, messages and feedback in memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from services.conversation.model import (
    Conversation,
    ConversationSettings,
    Feedback,
    Message,
    MessageState,
    Owner,
    Rating,
    Repeat,
    Role,
    Turn,
    TurnId,
)
from services.conversation.store.conversations import NewConversation
from services.conversation.store.leftovers import Leftover
from services.conversation.store.summaries import Summary
from services.conversation.store.work import Hold, TurnRef
from services.mesh.clock import SYSTEM_CLOCK, Clock
from services.mesh.errors import EtagMismatch, IdempotencyMismatch, NotFound


@dataclass(slots=True)
class StoredTurn:
    """A row of `turns`."""

    owner: Owner
    turn: Turn
    deadline: datetime
    publish_time: datetime
    sequence_limit: int
    continue_of: str = ""
    credential_id: str = ""
    traceparent: str = ""
    has_waited: bool = False
    fence: int = 0
    journal_epoch: str = ""
    is_cancel_requested: bool = False
    lease_expire_time: datetime | None = None

    def ref(self) -> TurnRef:
        """Its name."""
        return TurnRef(self.owner.organization_id, self.turn.conversation_id, self.turn.id)

    def is_held(self, hold: Hold) -> bool:
        """Whether the hold is the latest."""
        return self.fence == hold.fence and self.turn.state == "running"


@dataclass(slots=True)
class Tables:
    """Everything that is kept."""

    conversations: dict[str, tuple[Owner, Conversation]] = field(default_factory=dict)
    messages: dict[str, tuple[Owner, Message]] = field(default_factory=dict)
    turns: dict[str, StoredTurn] = field(default_factory=dict)
    repeats: dict[tuple[Owner, str, str], tuple[bytes, str, datetime]] = field(default_factory=dict)
    outbox: list[TurnRef] = field(default_factory=list)
    feedback: dict[tuple[Owner, str], Feedback] = field(default_factory=dict)
    summaries: dict[str, tuple[Owner, Summary]] = field(default_factory=dict)
    summary_claims: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    leftovers: list[tuple[datetime, Leftover]] = field(default_factory=list)


class MemoryConversations:
    """See `ConversationStore` and `FeedbackStore`. Nothing here awaits, so every method is atomic."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self.tables = Tables()
        self.clock = clock
        self._last_time = clock.now()

    async def create_conversation(self, new: NewConversation) -> Conversation:
        """See `ConversationStore.create_conversation`."""
        earlier = self.remember(new.owner, new.repeat, new.id)
        if earlier is not None:
            return self.owned_conversation(new.owner, earlier)
        now = self.now()
        parent_id = ""
        for message in new.messages:
            stored = Message(
                id=message.id,
                conversation_id=new.id,
                parent_id=parent_id,
                role=message.role,
                text=message.text,
                state=MessageState.COMPLETE,
                create_time=now,
                update_time=now,
            )
            self.tables.messages[message.id] = (new.owner, stored)
            parent_id = message.id
        conversation = Conversation(
            id=new.id, settings=new.settings, leaf_message_id=parent_id, create_time=now, update_time=now, etag="1"
        )
        self.tables.conversations[new.id] = (new.owner, conversation)
        return conversation

    async def conversation(self, owner: Owner, conversation_id: str) -> Conversation:
        """See `ConversationStore.conversation`."""
        return self.owned_conversation(owner, conversation_id)

    async def list_conversations(
        self, owner: Owner, *, size: int, after: tuple[datetime, str] | None
    ) -> list[Conversation]:
        """See `ConversationStore.list_conversations`."""
        mine = [conversation for whose, conversation in self.tables.conversations.values() if whose == owner]
        mine.sort(key=lambda conversation: (conversation.update_time, conversation.id), reverse=True)
        return [c for c in mine if after is None or (c.update_time, c.id) < after][:size]

    async def update_conversation(
        self, owner: Owner, conversation_id: str, settings: ConversationSettings, *, etag: str
    ) -> Conversation:
        """See `ConversationStore.update_conversation`."""
        present = self.owned_conversation(owner, conversation_id)
        if present.etag != etag:
            raise EtagMismatch("the conversation changed since it was read", metadata={"etag": present.etag})
        changed = replace(present, settings=settings, etag=str(int(etag) + 1), update_time=self.now())
        self.tables.conversations[conversation_id] = (owner, changed)
        return changed

    async def delete_conversation(self, owner: Owner, conversation_id: str) -> list[TurnId]:
        """See `ConversationStore.delete_conversation`."""
        self.owned_conversation(owner, conversation_id)
        tables = self.tables
        del tables.conversations[conversation_id]
        gone = [key for key, (_, message) in tables.messages.items() if message.conversation_id == conversation_id]
        for key in gone:
            del tables.messages[key]
            tables.feedback.pop((owner, key), None)
        turn_ids = [row.turn.id for row in tables.turns.values() if row.turn.conversation_id == conversation_id]
        for turn_id in turn_ids:
            del tables.turns[turn_id]
        tables.summary_claims.pop(conversation_id, None)
        for summary_id in [key for key, (_, one) in tables.summaries.items() if one.conversation_id == conversation_id]:
            del tables.summaries[summary_id]
        tables.outbox[:] = [ref for ref in tables.outbox if ref.conversation_id != conversation_id]
        tables.leftovers.append((self.clock.now(), Leftover(owner, conversation_id, turn_ids)))
        return turn_ids

    @asynccontextmanager
    async def leftovers(self, *, older_s: float, limit: int) -> AsyncIterator[list[Leftover]]:
        """See `LeftoverStore.leftovers`."""
        before = self.clock.now() - timedelta(seconds=older_s)
        found = [one for one in self.tables.leftovers if one[0] <= before][:limit]
        yield [left for _, left in found]
        self.tables.leftovers[:] = [one for one in self.tables.leftovers if one not in found]

    async def is_repeat(self, owner: Owner, repeat: Repeat) -> bool:
        """See `ConversationStore.is_repeat`."""
        return (owner, repeat.method, repeat.request_id) in self.tables.repeats

    async def message(self, owner: Owner, message_id: str) -> Message:
        """See `ConversationStore.message`."""
        return self.owned_message(owner, message_id)

    async def branch(
        self, owner: Owner, conversation_id: str, *, leaf_id: str, after_depth: int, size: int
    ) -> tuple[list[Message], int]:
        """See `ConversationStore.branch`."""
        path = self.path(owner, conversation_id, leaf_id)
        return path[after_depth + 1 : after_depth + 1 + size], len(path) - 1

    async def branch_end(self, owner: Owner, conversation_id: str, *, leaf_id: str, size: int) -> list[Message]:
        """See `ConversationStore.branch_end`."""
        return self.path(owner, conversation_id, leaf_id)[-size:]

    async def tree(self, owner: Owner, conversation_id: str, *, size: int, after_id: str) -> list[Message]:
        """See `ConversationStore.tree`."""
        self.owned_conversation(owner, conversation_id)
        mine = [m for _, m in self.tables.messages.values() if m.conversation_id == conversation_id]
        return sorted((m for m in mine if m.id > after_id), key=lambda message: message.id)[:size]

    async def set_feedback(self, owner: Owner, message_id: str, rating: Rating, comment: str) -> Feedback:
        """See `FeedbackStore.set_feedback`."""
        message = self._answer_message(owner, message_id)
        feedback = Feedback(message_id=message.id, rating=rating, comment=comment, update_time=self.now())
        self.tables.feedback[owner, message_id] = feedback
        return feedback

    async def feedback(self, owner: Owner, message_id: str) -> Feedback:
        """See `FeedbackStore.feedback`."""
        self._answer_message(owner, message_id)
        found = self.tables.feedback.get((owner, message_id))
        if found is None:
            raise NotFound.of("feedback")
        return found

    def now(self) -> datetime:
        """The time, later than every time given before, as in a database that only one transaction uses."""
        self._last_time = max(self.clock.now(), self._last_time + timedelta(microseconds=1))
        return self._last_time

    def remember(self, owner: Owner, repeat: Repeat | None, resource_id: str) -> str | None:
        """Takes a request id; gives the id of what an earlier call with it created."""
        if repeat is None:
            return None
        key = (owner, repeat.method, repeat.request_id)
        body_hash, earlier_id, _ = self.tables.repeats.setdefault(
            key, (repeat.body_hash, resource_id, self.clock.now())
        )
        if body_hash != repeat.body_hash:
            raise IdempotencyMismatch("this request id was used before with another body")
        return None if earlier_id == resource_id else earlier_id

    def owned_conversation(self, owner: Owner, conversation_id: str) -> Conversation:
        """Raises NotFound."""
        whose, conversation = self.tables.conversations.get(conversation_id, (None, None))
        if conversation is None or whose != owner:
            raise NotFound.of("conversation")
        return conversation

    def owned_message(self, owner: Owner, message_id: str) -> Message:
        """Raises NotFound."""
        whose, message = self.tables.messages.get(message_id, (None, None))
        if message is None or whose != owner:
            raise NotFound.of("message")
        return message

    def _answer_message(self, owner: Owner, message_id: str) -> Message:
        message = self.owned_message(owner, message_id)
        if message.role is not Role.ASSISTANT:
            raise NotFound.of("message")
        return message

    def path(self, owner: Owner, conversation_id: str, leaf_id: str) -> list[Message]:
        """The branch that ends in a message. Raises NotFound."""
        path: list[Message] = []
        message_id = leaf_id
        while message_id:
            path.append(self.owned_message(owner, message_id))
            message_id = path[-1].parent_id
        if not path or path[0].conversation_id != conversation_id:
            raise NotFound.of("message")
        return path[::-1]
