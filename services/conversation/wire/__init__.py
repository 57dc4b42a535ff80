"""The contract of conversation <-> model. No input or output happens here."""
