"""Adapters to language models. Provider libraries stay inside this package."""
