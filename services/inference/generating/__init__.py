"""From a wish to an answer, however many targets it takes: attempts, retries, continuation, citations."""
