"""The history cache on Valkey; see `HistoryCache`."""

import json
import secrets
from typing import Final

from services.conversation.history.branches import Branch, Kept
from services.conversation.model import ConversationId, Owner, Role
from services.conversation.ports import PromptMessage
from services.mesh.valkey import Client, Script

_GET: Final = Script("""
if redis.call('HSETNX', KEYS[1], 'mark', ARGV[1]) == 1 then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
return redis.call('HMGET', KEYS[1], 'mark', 'branch')
""")
_PUT: Final = Script("""
if redis.call('HGET', KEYS[1], 'mark') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'branch', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
""")


class ValkeyHistoryCache:
    """One hash per conversation. The organization and the user are part of the key."""

    def __init__(self, client: Client, *, prefix: str, keep_s: int) -> None:
        self._client = client
        self._prefix = prefix
        self._keep_s = keep_s

    async def get(self, owner: Owner, conversation_id: ConversationId) -> Kept:
        """See `HistoryCache.get`."""
        keys, new_mark = [self._key(owner, conversation_id)], secrets.token_hex(8)
        mark, content = await _GET.run(self._client, keys=keys, args=[new_mark, self._keep_s])
        return Kept(bytes(mark).decode(), None if content is None else _branch_of(content))

    async def put(self, owner: Owner, conversation_id: ConversationId, branch: Branch) -> bool:
        """See `HistoryCache.put`."""
        messages = [(message.role.value, message.text) for message in branch.messages]
        content = json.dumps({"leaf_id": branch.leaf_id, "messages": messages}, ensure_ascii=False)
        key = self._key(owner, conversation_id)
        return bool(await _PUT.run(self._client, keys=[key], args=[branch.mark, content, self._keep_s]))

    async def drop(self, owner: Owner, conversation_id: str) -> None:
        """See `HistoryCache.drop`."""
        await self._client.execute_command("DEL", self._key(owner, conversation_id))

    def _key(self, owner: Owner, conversation_id: str) -> str:
        return f"{self._prefix}:branch:{owner.organization_id}:{owner.user_id}:{conversation_id}"


def _branch_of(content: bytes) -> Branch:
    stored = json.loads(content)
    return Branch(stored["leaf_id"], tuple(PromptMessage(Role(role), text) for role, text in stored["messages"]))
