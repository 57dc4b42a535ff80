"""What a turn can be asked to answer, and what each of these adds to the tree.

A message that has ended never changes: whatever revises one becomes its sibling.
"""

from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, assert_never

from services.conversation.bounds import check_text
from services.conversation.model import (
    TEXT_LENGTH_MAX,
    FinishReason,
    Message,
    MessageId,
    MessageState,
    Owner,
    Role,
)
from services.mesh.errors import NotFound, invalid_field

_BROKEN_OFF: Final = frozenset({MessageState.CANCELLED, MessageState.FAILED})


@dataclass(frozen=True, slots=True)
class NewQuestion:
    """A question of its own.

    Attributes:
        parent_id: None for the newest message of the branch that was written last, empty for a new first branch.
    """

    text: str
    parent_id: str | None


@dataclass(frozen=True, slots=True)
class Edit:
    """A question in other words."""

    message_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Regenerate:
    """Another answer to the same question."""

    message_id: str


@dataclass(frozen=True, slots=True)
class Continue:
    """An answer that broke off, gone on with."""

    message_id: str


Action: TypeAlias = NewQuestion | Edit | Regenerate | Continue


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What a turn adds to the tree: a question with its answer, or one more answer to a question that is there.

    Attributes:
        text: of the question; None when `question_id` names one that is there.
        parent_id: of a new question; see `NewQuestion`.
        revision_of: what the new question, or else the new answer, was made from.
        continue_of: the answer whose text the new one begins with.
    """

    question_id: MessageId | None = None
    text: str | None = None
    parent_id: str | None = None
    revision_of: str = ""
    continue_of: str = ""


class MessageSource(Protocol):
    """Where messages are looked up; a part of `ConversationStore`."""

    async def message(self, owner: Owner, message_id: str) -> Message:
        """Raises NotFound."""
        ...


class Actions:
    """Tells what an action adds. What it reads is settled: messages keep their role, their parent and their end."""

    def __init__(self, messages: MessageSource) -> None:
        self._messages = messages

    async def growth(self, owner: Owner, conversation_id: str, action: Action) -> Growth:
        """What `action` adds to the conversation.

        Raises:
            InvalidArgument: a text is empty or too long, or the message is of a kind that the action does not fit.
            NotFound: the conversation has no such message.
        """
        match action:
            case NewQuestion():
                check_text("new.text", action.text, TEXT_LENGTH_MAX, length_min=1)
                return Growth(text=action.text, parent_id=action.parent_id)
            case Edit():
                check_text("edit_of.text", action.text, TEXT_LENGTH_MAX, length_min=1)
                asked = await self._message(owner, conversation_id, action.message_id)
                if asked.role is not Role.USER:
                    raise invalid_field("edit_of.message_id", "a user's message")
                return Growth(text=action.text, parent_id=asked.parent_id, revision_of=asked.id)
            case Regenerate():
                answer = await self._message(owner, conversation_id, action.message_id)
                question_id = await self._question_of(owner, answer, "regenerate_of.message_id")
                return Growth(question_id=question_id, revision_of=answer.id)
            case Continue():
                answer = await self._message(owner, conversation_id, action.message_id)
                question_id = await self._question_of(owner, answer, "continue_of.message_id")
                if answer.state not in _BROKEN_OFF and answer.finish_reason is not FinishReason.LENGTH:
                    raise invalid_field("continue_of.message_id", "an answer that was cancelled, failed or cut short")
                return Growth(question_id=question_id, revision_of=answer.id, continue_of=answer.id)
            case _:
                assert_never(action)

    async def _message(self, owner: Owner, conversation_id: str, message_id: str) -> Message:
        message = await self._messages.message(owner, message_id)
        if message.conversation_id != conversation_id:
            raise NotFound.of("message")
        return message

    async def _question_of(self, owner: Owner, answer: Message, field: str) -> MessageId:
        """The question that an answer answers; imported messages need not come in pairs."""
        if answer.role is Role.ASSISTANT and answer.parent_id:
            parent = await self._messages.message(owner, answer.parent_id)
            if parent.role is Role.USER:
                return parent.id
        raise invalid_field(field, "an answer to a question")
