"""Mutual TLS between the processes: certificates from files, followed while they are renewed, and whom they name."""
