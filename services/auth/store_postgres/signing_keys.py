"""Signing keys in PostgreSQL; their private halves are sealed before they come here."""

from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy import delete, func, insert, select

from services.auth.model import SigningKeyRecord
from services.auth.store_postgres.audit import PostgresAudit
from services.auth.tables import SIGNING_KEYS
from services.mesh.postgres.database import ReadOnly

ROTATION_LOCK: Final = 0x7061726C65790002
"""`parley`, 2; see `BOOTSTRAP_LOCK`."""


class PostgresSigningKeys(PostgresAudit):
    """Implements `store.SigningKeyStore`."""

    async def signing_keys(self) -> list[SigningKeyRecord]:
        """See `store.SigningKeyStore.signing_keys`."""
        async with self._database.read() as read:
            return await _all(read)

    async def change_signing_keys(
        self, plan: Callable[[Sequence[SigningKeyRecord]], Sequence[SigningKeyRecord]]
    ) -> list[SigningKeyRecord]:
        """See `store.SigningKeyStore.change_signing_keys`."""
        async with self._database.write() as write:
            await write.execute(select(func.pg_advisory_xact_lock(ROTATION_LOCK)))
            present = await _all(write)
            planned = plan(present)
            kept = {record.id for record in planned}
            known = {record.id for record in present}
            if withdrawn := known - kept:
                await write.execute(delete(SIGNING_KEYS).where(SIGNING_KEYS.c.id.in_(sorted(withdrawn))))
            if added := [record for record in planned if record.id not in known]:
                await write.execute(
                    insert(SIGNING_KEYS),
                    [
                        {
                            "id": record.id,
                            "sealed": record.sealed,
                            "created_at": record.created_at,
                            "activates_at": record.activates_at,
                        }
                        for record in added
                    ],
                )
            return await _all(write)


async def _all(read: ReadOnly) -> list[SigningKeyRecord]:
    query = select(SIGNING_KEYS).order_by(SIGNING_KEYS.c.activates_at, SIGNING_KEYS.c.id)
    return [
        SigningKeyRecord(
            id=row["id"], sealed=row["sealed"], created_at=row["created_at"], activates_at=row["activates_at"]
        )
        for row in (await read.execute(query)).mappings()
    ]
