"""Anthropic's messages and models, for SDKs that know nothing of Parley."""
