"""Finding the sentences that answer a question: pure text work, no model, no input or output."""
