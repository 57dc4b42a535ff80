"""What happens around every call that a server of ours answers, in one pinned order (see `chain.py`)."""
