import itertools
import socket
import subprocess
import sys

from dev.home import ROOT
from dev.ports import LOOPBACK, free_ports, is_free


def test_port_of_a_listener_is_not_free() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        assert not is_free(listener.getsockname()[1])


def test_same_origin_finds_the_same_ports_again() -> None:
    first = list(itertools.islice(free_ports(8123), 3))
    assert list(itertools.islice(free_ports(8123), 3)) == first


def test_taken_port_is_passed_over() -> None:
    first, second = itertools.islice(free_ports(8124), 2)
    with socket.create_server((LOOPBACK, first)):
        assert next(free_ports(8124)) == second


def chosen_elsewhere(origin: int) -> set[int]:
    """What a process chooses that ends then."""
    script = f"import itertools, dev.ports; print(*itertools.islice(dev.ports.free_ports({origin}), 60))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return {int(port) for port in done.stdout.split()}


def test_stacks_on_neighbouring_ports_do_not_meet() -> None:
    assert not set(itertools.islice(free_ports(8080), 20)) & chosen_elsewhere(8081)


def test_what_one_process_has_chosen_is_given_to_no_other() -> None:
    ours = set(itertools.islice(free_ports(8125), 60))
    theirs = chosen_elsewhere(8125)
    assert len(theirs) == 60
    assert not ours & theirs


def test_what_a_process_had_chosen_may_be_chosen_when_it_has_ended() -> None:
    assert chosen_elsewhere(8126) & chosen_elsewhere(8126)
