"""Who may do what: organizations, users, sessions, API keys, and the tokens that carry them."""
