"""How a turn is written into a message, on every broker."""

import json
from typing import Any

from services.conversation.model import ConversationId, TurnId
from services.conversation.queue.port import DeadLetter
from services.conversation.store.work import TurnRef

_NAMES = 3


class UnreadableError(ValueError):
    """Whoever wrote this message, it was not us."""


def encode(ref: TurnRef) -> str:
    """The message that names a turn."""
    return json.dumps([ref.organization_id, ref.conversation_id, ref.turn_id])


def decode(body: bytes | str) -> TurnRef:
    """The turn that a message names.

    Raises:
        UnreadableError: it names none.
    """
    try:
        names: Any = json.loads(body)  # Any: JSON that anybody may have written
    except ValueError as error:
        raise UnreadableError("no JSON") from error
    if not isinstance(names, list) or len(names) != _NAMES or not all(isinstance(name, str) for name in names):
        raise UnreadableError("not the three ids of a turn")
    organization_id, conversation_id, turn_id = names
    return TurnRef(organization_id, ConversationId(conversation_id), TurnId(turn_id))


def dead_letter(body: bytes | str, reason: str) -> DeadLetter:
    """The dead letter that a message became."""
    text = body if isinstance(body, str) else body.decode(errors="replace")
    try:
        return DeadLetter(decode(body), text, reason)
    except UnreadableError:
        return DeadLetter(None, text, reason)
