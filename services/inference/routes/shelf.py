"""Keeps the router's book up to date with the files: read again when one changes, without a restart."""

from pathlib import Path
from typing import Final

from services.inference.routes.compiling import Wishes, compiled
from services.inference.routes.schema import File
from services.inference.routes.source import SHIPPED, RoutesError, read
from services.inference.routing import Book, Line, Router
from services.mesh import telemetry
from services.mesh.errors import MeshError
from services.mesh.tasks import Loop, periodic

RELOAD_EVERY_S: Final = 2.0

_log = telemetry.logger("inference.routes")
_READINGS: Final = telemetry.counter(
    "parley_inference_configuration_readings", "Times that changed files of providers were read.", ["result"]
)

_Marks = dict[str, tuple[int, int, int] | None]


class Shelf:
    """The files, the book that they make, and the adapters that the book uses.

    Args:
        path: the operator's file; None for the shipped one alone.
        wishes: what the environment says.

    Raises:
        RoutesError: a file does not fit.
        ModelUnknown: a name in them leads nowhere.
    """

    def __init__(self, path: Path | None, wishes: Wishes) -> None:
        self._path = path
        self._wishes = wishes
        self._retired: list[Line] = []
        self._shipped = read(SHIPPED)
        own, self._marks = self._read()
        self.router: Final = Router(compiled(self._shipped, own, wishes, {}))

    def loops(self) -> list[Loop]:
        """Background work: reading again what changed, closing what is no longer used."""
        return [periodic("inference_configuration", self.refresh, every_s=RELOAD_EVERY_S)]

    async def refresh(self) -> None:
        """Reads changed files; what does not fit is told and changes nothing."""
        if self._marked(self._marks) != self._marks:
            self._replace()
        await self._close_retired()

    async def close(self) -> None:
        """Closes every adapter."""
        for line in (*_lines(self.router.book), *self._retired):
            await line.provider.close()

    def _replace(self) -> None:
        before = self.router.book
        try:
            own, marks = self._read()
            book = compiled(self._shipped, own, self._wishes, {line.made_of: line for line in _lines(before)})
            self._take(before, book)
        except (RoutesError, MeshError) as error:
            # Not tried again until a file changes once more: the fault would only be told every two seconds.
            self._marks = self._marked(self._marks)
            _READINGS.labels("refused").inc()
            _log.warning("configuration_refused", error=str(error))
            return
        self._marks = marks
        _READINGS.labels("taken").inc()
        _log.info("configuration_taken", providers=sorted(book.sources), routes=sorted(book.routes))

    def _take(self, before: Book, book: Book) -> None:
        """`book` holds from now on; what only the other one uses is retired.

        Raises:
            ModelUnknown: a name in it leads nowhere; `before` goes on to hold.
        """
        try:
            self.router.replace(book)
        except MeshError:
            self._retire(book, before)
            raise
        self._retire(before, book)

    def _retire(self, gone: Book, kept: Book) -> None:
        needed = {id(line) for line in _lines(kept)}
        self._retired += [line for line in _lines(gone) if id(line) not in needed]

    async def _close_retired(self) -> None:
        idle = [line for line in self._retired if line.in_use == 0]
        self._retired = [line for line in self._retired if line.in_use > 0]
        for line in idle:
            await line.provider.close()

    def _read(self) -> tuple[File | None, _Marks]:
        """The operator's file, and how it and the secrets that it names looked before they were read."""
        if self._path is None:
            return None, {}
        marks = self._marked({str(self._path): None})
        own = read(self._path)
        secrets = {key.file: None for provider in own.provider for key in provider.keys if key.file is not None}
        return own, marks | self._marked(secrets)

    def _marked(self, files: _Marks | dict[str, None]) -> _Marks:
        return {name: _mark(Path(name)) for name in files}


def _mark(path: Path) -> tuple[int, int, int] | None:
    """How a file looks from outside; a mounted secret is replaced by a link to another file, hence the inode."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _lines(book: Book) -> list[Line]:
    return [key.line for source in book.sources.values() for key in source.keys]
