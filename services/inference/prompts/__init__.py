"""What the model reads: wording, order and budget of a prompt."""
