"""Names of the providers, apart from their adapters: a vendor's SDK costs a second and 30 MB to import."""

from typing import Final

EXTRACTIVE: Final = "extractive"
OPENAI: Final = "openai"
ANTHROPIC: Final = "anthropic"
SCRIPTED: Final = "scripted"
