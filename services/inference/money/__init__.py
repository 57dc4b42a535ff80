"""What calls cost: reservations, the ledger, budgets and usage."""
