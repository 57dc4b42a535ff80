"""What came before a question, as prompts show it: recent messages, and summaries of older ones."""
