"""Loopback ports: whether one is free, and a run of free ones that stays the same from start to start."""

import socket
from collections.abc import Iterator

LOOPBACK = "127.0.0.1"

_FIRST, _LAST = 20000, 31999
"""Below the range from which kernels take the ports of outgoing connections (32768 up), so that none is taken away from
a process while it restarts."""
_STRIDE = 40
"""Ports set aside for one stack; more than it has, so that neighbours do not meet."""


def is_free(port: int) -> bool:
    """Whether a server could listen on the loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Without it the port of a server that just stopped would count as taken for a minute.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def free_ports(origin: int) -> Iterator[int]:
    """Free ports in an order that depends on `origin` alone: the same stack finds the same ports again."""
    size = _LAST - _FIRST + 1
    start = origin * _STRIDE % size
    for step in range(size):
        port = _FIRST + (start + step) % size
        if is_free(port):
            yield port
