"""The recent branch of a conversation for prompts: from the cache where it is certain, else from the store.

A message that has ended never changes and has one parent for ever, so the branch that ends in a given message is always
the same text. The cache holds one branch per conversation with the id of its last message; it counts only when that is
the id that the database names as the question's parent. A stale entry is thus a miss, never a wrong prompt. Whoever
puts a branch there shows the mark that it was given before: what was dropped since nobody puts back, however late.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from services.conversation.model import ConversationId, Message, MessageState, Owner, Role
from services.conversation.ports import PromptMessage
from services.conversation.store.conversations import ConversationStore
from services.mesh import telemetry
from services.mesh.errors import MeshError

BRANCH_LENGTH_MAX: Final = 1_000_000
"""Code points of a cached branch; longer ones are read from the store each time."""

_log = telemetry.logger("conversation.history")
_LOOKUPS: Final = telemetry.counter(
    "parley_conversation_history_lookups", "Branches needed for prompts, by where they came from.", ["source"]
)


@dataclass(frozen=True, slots=True)
class Branch:
    """The last messages of the branch that ends in `leaf_id`, oldest first.

    Attributes:
        mark: see `Kept`; empty where the cache could not be reached.
    """

    leaf_id: str
    messages: tuple[PromptMessage, ...]
    mark: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a cache holds of a conversation: the branch that was put last, and the mark of its place.

    A place has another mark each time that it is made anew: after a drop, or after a loss.
    """

    mark: str
    branch: Branch | None


class HistoryCache(Protocol):
    """One branch per conversation; may lose anything at any time."""

    async def get(self, owner: Owner, conversation_id: ConversationId) -> Kept:
        """What is there; makes the place where there is none. Raises Unavailable."""
        ...

    async def put(self, owner: Owner, conversation_id: ConversationId, branch: Branch) -> bool:
        """Replaces the branch; False when its mark is no longer that of the place. Raises Unavailable."""
        ...

    async def drop(self, owner: Owner, conversation_id: str) -> None:
        """Removes the branch and its place. Raises Unavailable."""
        ...


class History:
    """Prompts' view of conversations.

    Args:
        store: the truth.
        cache: the shortcut.
        messages_max: of a branch.
    """

    def __init__(self, store: ConversationStore, cache: HistoryCache, *, messages_max: int) -> None:
        self._store = store
        self._cache = cache
        self._messages_max = messages_max

    async def before(self, owner: Owner, question: Message) -> Branch:
        """The messages before a question.

        Raises:
            NotFound: the conversation is gone.
        """
        leaf_id = question.parent_id
        if self._messages_max == 0:
            return Branch(leaf_id, ())
        kept = await self._kept(owner, question.conversation_id)  # before the store: a delete takes the mark away
        if not leaf_id:
            return Branch("", (), kept.mark)
        cached = kept.branch
        if cached is not None and cached.leaf_id == leaf_id:
            _LOOKUPS.labels("cache").inc()
            return replace(cached, mark=kept.mark)
        _LOOKUPS.labels("store").inc()
        messages = await self._store.branch_end(
            owner, question.conversation_id, leaf_id=leaf_id, size=self._messages_max
        )
        branch = Branch(leaf_id, tuple(PromptMessage(m.role, m.text or "") for m in messages), kept.mark)
        if all(message.state is not MessageState.IN_PROGRESS for message in messages):
            await self._keep(owner, question.conversation_id, branch)
        return branch

    async def append(self, owner: Owner, before: Branch, question: Message, answer_id: str, text: str) -> None:
        """Keeps a branch with a question and the answer that was stored; call it after the commit only."""
        new = (PromptMessage(question.role, question.text or ""), PromptMessage(Role.ASSISTANT, text))
        messages = _last([*before.messages, *new], self._messages_max)
        await self._keep(owner, question.conversation_id, Branch(answer_id, messages, before.mark))

    async def drop(self, owner: Owner, conversation_id: str) -> None:
        """Forgets a conversation's branch."""
        try:
            await self._cache.drop(owner, conversation_id)
        except MeshError as error:
            _log.warning("history_not_dropped", reason=error.reason)

    async def _kept(self, owner: Owner, conversation_id: ConversationId) -> Kept:
        try:
            return await self._cache.get(owner, conversation_id)
        except MeshError:
            return Kept("", None)

    async def _keep(self, owner: Owner, conversation_id: ConversationId, branch: Branch) -> None:
        if not branch.mark or sum(len(message.text) for message in branch.messages) > BRANCH_LENGTH_MAX:
            return
        try:
            await self._cache.put(owner, conversation_id, branch)
        except MeshError as error:
            _log.warning("history_not_cached", reason=error.reason)


def _last(messages: Sequence[PromptMessage], count: int) -> tuple[PromptMessage, ...]:
    return tuple(messages[-count:]) if count else ()
