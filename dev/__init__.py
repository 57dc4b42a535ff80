"""The one-command local stack: it starts processes and watches them, and knows none of them from inside."""
