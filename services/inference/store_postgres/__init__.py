"""The store on PostgreSQL, a module per noun."""

from services.inference.store_postgres.budgets import PostgresBudgets
from services.inference.store_postgres.ledger import PostgresLedger
from services.mesh.postgres.places import Places

__all__ = ["PostgresStore"]


class PostgresStore(PostgresBudgets, PostgresLedger):
    """Implements `store.Store`."""

    def __init__(self, places: Places) -> None:
        PostgresBudgets.__init__(self, places)
        PostgresLedger.__init__(self, places)
