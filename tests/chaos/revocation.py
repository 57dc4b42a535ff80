"""Credentials that are made, used, revoked and used again while everything breaks."""

import asyncio
from typing import Final

import httpx

from tests.chaos.client import BROKEN, Client
from tests.chaos.history import Notes

USED_FOR_S: Final = 8.0
"""After a revocation; the promise is that nobody is let in from the fifth second on."""
_POLL_S: Final = 0.25


class Revoker:
    """Revokes keys over and over.

    Args:
        client: of the organization whose keys they are.
        history: gets every revocation and every use.

    Attributes:
        is_open: whether it goes on.
    """

    def __init__(self, client: Client, history: Notes) -> None:
        self._client = client
        self._history = history
        self.is_open = True

    async def run(self) -> None:
        """Works until closed."""
        while self.is_open:
            try:
                await self._round()
            except (*BROKEN, KeyError, ValueError):  # another round will do
                await asyncio.sleep(_POLL_S)

    async def _round(self) -> None:
        http = self._client.http
        made = await http.post("/api/v1/api_keys", json={"display_name": "revoked soon"})
        key_id, secret = made.json()["api_key"]["id"], made.json()["secret"]
        await self._use(key_id, secret)
        while not await self._revoked(key_id):
            if not self.is_open:
                return
            await asyncio.sleep(_POLL_S)
        self._history.add("revoked", key_id=key_id)
        loop = asyncio.get_running_loop()
        until = loop.time() + USED_FOR_S
        while self.is_open and loop.time() < until:
            await self._use(key_id, secret)
            await asyncio.sleep(_POLL_S)

    async def _revoked(self, key_id: str) -> bool:
        """Asks for it; a key that is not there any more was revoked by a call whose answer was lost."""
        try:
            answer = await self._client.http.delete(f"/api/v1/api_keys/{key_id}")
        except BROKEN:
            return False
        return answer.is_success or answer.status_code == httpx.codes.NOT_FOUND

    async def _use(self, key_id: str, secret: str) -> None:
        sent_at = self._history.now()
        try:
            answer = await self._client.http.get("/api/v1/users/me", headers={"authorization": f"Bearer {secret}"})
        except BROKEN:
            return
        self._history.add("used", key_id=key_id, sent_at=sent_at, status=answer.status_code)
