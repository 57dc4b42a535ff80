"""How accepted turns come to their end: worker and attempts, and the loops that leave no turn behind."""
