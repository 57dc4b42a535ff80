import pytest

from dev.process import Process, described, in_order


def _process(name: str, *after: str) -> Process:
    return Process(name, list, after=after)


def test_every_process_stands_behind_what_it_needs() -> None:
    table = [_process("edge", "auth", "conversation"), _process("conversation", "auth"), _process("auth")]
    assert [process.name for process in in_order(table)] == ["auth", "conversation", "edge"]


def test_order_of_the_table_is_kept_where_nothing_else_decides() -> None:
    table = [_process("b"), _process("a"), _process("c")]
    assert [process.name for process in in_order(table)] == ["b", "a", "c"]


def test_processes_that_wait_for_each_other_are_named() -> None:
    with pytest.raises(ValueError, match=r"\['a', 'b'\]"):
        in_order([_process("a", "b"), _process("b", "a")])


def test_unknown_dependency_is_refused() -> None:
    with pytest.raises(ValueError, match="something unknown"):
        in_order([_process("a", "nobody")])


def test_name_that_appears_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        in_order([_process("a"), _process("a")])


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "ended with status 0"),
        (3, "ended with status 3"),
        (-9, "was killed by SIGKILL"),
        (-99, "was killed by signal 99"),
    ],
)
def test_exit_status_in_words(status: int, words: str) -> None:
    assert described(status) == words
