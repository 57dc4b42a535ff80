"""Other vendors' HTTP dialects in front of the same services."""
