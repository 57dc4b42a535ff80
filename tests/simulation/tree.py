"""The message tree as it must be: grown again from what was asked, in the order in which it was accepted."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from services.conversation.model import Message, MessageState, Role, Turn
from services.conversation.store_memory import MemoryStore
from tests.simulation.history import Asked, History, Kind


@dataclass(slots=True)
class _Expected:
    """A conversation.

    Attributes:
        messages: parent, what it revises, role and question, by message.
        leaf: the message that the next question follows.
    """

    messages: dict[str, tuple[str, str, Role, str]] = field(default_factory=dict)
    leaf: str = ""


def judge_tree(history: History, store: MemoryStore) -> Iterator[str]:
    """Every message hangs where it belongs, and there is no other one."""
    for conversation_id in history.lines:
        if conversation_id in history.deleted:
            continue
        expected = _grown(conversation_id, history, store)
        stored: dict[str, Message] = {
            m.id: m for _, m in store.tables.messages.values() if m.conversation_id == conversation_id
        }
        for message_id in sorted(stored.keys() ^ expected.messages.keys()):
            yield f"tree: {message_id} is {'too much' if message_id in stored else 'not there'}"
        for message_id, (parent_id, revision_of, role, question) in expected.messages.items():
            message = stored.get(message_id)
            if message is not None:
                yield from _of_message(message, parent_id, revision_of, role, question)
        leaf = store.tables.conversations[conversation_id][1].leaf_message_id
        if leaf != expected.leaf:
            yield f"tree: {conversation_id} goes on at {leaf}, not {expected.leaf}"


def branches(history: History, store: MemoryStore) -> dict[str, list[tuple[str, str]]]:
    """Ids and texts of the messages before each question, oldest first; those of deleted conversations are left out."""
    texts: dict[str, str] = {message.id: message.text or "" for _, message in store.tables.messages.values()}
    found: dict[str, list[tuple[str, str]]] = {}
    for conversation_id in history.lines:
        if conversation_id in history.deleted:
            continue
        messages = _grown(conversation_id, history, store).messages
        for parent_id, _, role, question in messages.values():
            path, above = list[tuple[str, str]](), parent_id if role is Role.USER else ""
            while above:
                path.append((above, texts.get(above, "")))
                above = messages[above][0] if above in messages else ""
            if role is Role.USER:
                found[question] = path[::-1]
    return found


def _grown(conversation_id: str, history: History, store: MemoryStore) -> _Expected:
    expected = _Expected()
    for turn_id in history.lines[conversation_id]:
        row = store.tables.turns.get(turn_id)
        asked = history.asked.get(history.made[turn_id].request_id)
        if row is not None and asked is not None:
            _grow(expected, asked, row.turn)
    return expected


def _grow(expected: _Expected, asked: Asked, turn: Turn) -> None:
    target = asked.target.turn if asked.target is not None else None
    if asked.kind.brings_question or target is None:
        parent_id, edited = expected.leaf, ""
        if asked.kind is Kind.BRANCH and target is not None:
            parent_id = target.assistant_message_id
        elif asked.kind is Kind.EDIT and target is not None:
            edited = target.user_message_id
            parent_id = expected.messages[edited][0]
        expected.messages[turn.user_message_id] = (parent_id, edited, Role.USER, asked.question)
        expected.messages[turn.assistant_message_id] = (turn.user_message_id, "", Role.ASSISTANT, "")
    else:
        revised = target.assistant_message_id
        expected.messages[turn.assistant_message_id] = (target.user_message_id, revised, Role.ASSISTANT, "")
    expected.leaf = turn.assistant_message_id


def _of_message(message: Message, parent_id: str, revision_of: str, role: Role, question: str) -> Iterator[str]:
    if message.parent_id != parent_id:
        yield f"tree: {message.id} hangs off {message.parent_id or 'nothing'}, not {parent_id or 'nothing'}"
    if message.revision_of != revision_of:
        yield f"tree: {message.id} revises {message.revision_of or 'nothing'}, not {revision_of or 'nothing'}"
    if message.role is not role or (role is Role.USER and message.text != question):
        yield f"tree: {message.id} is {message.text!r} of the {message.role}, not {question!r}"
    if role is Role.USER and message.state is not MessageState.COMPLETE:
        yield f"tree: {message.id} is {message.state}"
