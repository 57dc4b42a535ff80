"""Which provider serves which model: `providers.toml`, checked, compiled, and read again when it changes."""
