"""From the bytes of a file to text with blocks. Runs in a child process; `sandbox` is what the service calls."""
