import io
from pathlib import Path

from dev.console import Console, LogFile


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class _ClosedPipe(io.StringIO):
    def write(self, _: str, /) -> int:
        raise BrokenPipeError


def test_names_have_one_width() -> None:
    stream = io.StringIO()
    console = Console(stream, ["edge", "postgres"])
    console.relay("edge", "up")
    console.relay("postgres", "up")
    assert stream.getvalue() == "edge     | up\npostgres | up\n"


def test_terminal_gets_colours_and_a_file_does_not() -> None:
    terminal, file = _Terminal(), io.StringIO()
    Console(terminal, ["edge"]).relay("edge", "up")
    Console(file, ["edge"]).relay("edge", "up")
    assert ("\x1b[" in terminal.getvalue(), "\x1b[" in file.getvalue()) == (True, False)


def test_line_of_the_stack_begins_the_line_when_it_is_no_terminal() -> None:
    stream = io.StringIO()
    Console(stream, ["edge"]).say("ready http://127.0.0.1:8080")
    assert stream.getvalue().startswith("ready http://")


def test_reader_that_left_does_not_end_the_stack() -> None:
    console = Console(_ClosedPipe(), ["edge"])
    console.say("one")
    console.relay("edge", "two")


def test_log_file_is_bounded_and_keeps_the_file_before(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "edge.log", bytes_max=10)
    for line in ("first line", "second line", "third line"):
        log.write(line)
    log.close()
    assert (tmp_path / "edge.log").read_text() == "third line\n"
    assert (tmp_path / "edge.log.1").read_text() == "second line\n"
