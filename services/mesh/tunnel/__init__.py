"""Many calls on one stream: what unary and streaming calls between our own processes travel on (see `frames.py`)."""
