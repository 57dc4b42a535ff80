"""The store on PostgreSQL, a module per noun."""

from services.inference.store_postgres.budgets import PostgresBudgets
from services.inference.store_postgres.ledger import PostgresLedger
from services.mesh.database import Database

__all__ = ["PostgresStore"]


class PostgresStore(PostgresBudgets, PostgresLedger):
    """Implements `store.Store`."""

    def __init__(self, database: Database) -> None:
        PostgresBudgets.__init__(self, database)
        PostgresLedger.__init__(self, database)
