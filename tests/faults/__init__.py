"""Every fault of a provider, with one healthy target beside it: what a reader gets, and at what price."""
