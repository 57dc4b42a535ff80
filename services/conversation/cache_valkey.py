"""The history cache on Valkey; see `HistoryCache`."""

import json

from services.conversation.history import Branch
from services.conversation.model import ConversationId, Owner, Role
from services.conversation.ports import PromptMessage
from services.mesh.valkey import Client


class ValkeyHistoryCache:
    """One string per conversation. The organization and the user are part of the key."""

    def __init__(self, client: Client, *, prefix: str, keep_s: int) -> None:
        self._client = client
        self._prefix = prefix
        self._keep_s = keep_s

    async def get(self, owner: Owner, conversation_id: ConversationId) -> Branch | None:
        """See `HistoryCache.get`."""
        content = await self._client.execute_command("GET", self._key(owner, conversation_id))
        if content is None:
            return None
        stored = json.loads(content)
        messages = tuple(PromptMessage(Role(role), text) for role, text in stored["messages"])
        return Branch(stored["leaf_id"], messages)

    async def put(self, owner: Owner, conversation_id: ConversationId, branch: Branch) -> None:
        """See `HistoryCache.put`."""
        messages = [(message.role.value, message.text) for message in branch.messages]
        content = json.dumps({"leaf_id": branch.leaf_id, "messages": messages}, ensure_ascii=False)
        await self._client.execute_command("SET", self._key(owner, conversation_id), content, "EX", self._keep_s)

    async def drop(self, owner: Owner, conversation_id: str) -> None:
        """See `HistoryCache.drop`."""
        await self._client.execute_command("DEL", self._key(owner, conversation_id))

    def _key(self, owner: Owner, conversation_id: str) -> str:
        return f"{self._prefix}:history:{owner.organization_id}:{owner.user_id}:{conversation_id}"
