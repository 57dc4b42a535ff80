"""Loopback ports: whether one is free, and runs of free ones that stay the same from start to start.

A run belongs to the process that holds its last port, bound and never listened on, for as long as it lives. So nobody
else takes what a stack has chosen and not opened yet, or has closed for a moment while a process of it starts again.
"""

import socket
from collections.abc import Iterator

LOOPBACK = "127.0.0.1"

_FIRST, _LAST = 20000, 31999
"""Below the range from which kernels take the ports of outgoing connections (32768 up), so that none is taken away from
a process while it restarts."""
_STRIDE = 40
"""Ports of a run; more than most stacks have."""
_RUNS = (_LAST - _FIRST + 1) // _STRIDE

_held: dict[int, int] = {}
"""Runs of this process by number, each with the handle of the socket that holds it."""


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
    """Free ports that no other process is given until this one ends, run by run.

    Their order depends on `origin` and on which runs others hold: the same stack finds the same ports again.
    """
    for step in range(_RUNS):
        number = (origin + step) % _RUNS
        if _is_ours(number):
            first = _FIRST + number * _STRIDE
            yield from filter(is_free, range(first, first + _STRIDE - 1))


def _is_ours(number: int) -> bool:
    """Take the run for this process, unless another one has it."""
    if number in _held:
        return True
    # Without SO_REUSEADDR, so that nobody can bind the same port while it is held; children do not inherit it.
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        holder.bind((LOOPBACK, _FIRST + (number + 1) * _STRIDE - 1))
    except OSError:
        holder.close()
        return False
    _held[number] = holder.detach()
    return True
