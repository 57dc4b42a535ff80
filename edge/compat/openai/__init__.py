"""OpenAI's chat completions and models, for SDKs that know nothing of Parley."""
