import itertools
import socket

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


def test_stacks_on_neighbouring_ports_do_not_meet() -> None:
    one = set(itertools.islice(free_ports(8080), 20))
    other = set(itertools.islice(free_ports(8081), 20))
    assert not one & other
