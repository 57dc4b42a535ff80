"""The one multipart form there is: a single part `file`, handed on piece by piece while it arrives."""

from collections.abc import AsyncIterator
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from edge.http import Exchange
from edge.transcoding.scalars import Misfit

FILE_PART: Final = "file"
HEADERS_MAX: Final = 8
"""Headers of one part; browsers send two."""
HEADER_BYTES_MAX: Final = 4_096

_MEDIA_TYPE: Final = b"multipart/form-data"


class FileForm:
    """A multipart body while it is being read.

    Attributes:
        file_name: of the part `file`, without folders; known once `begin` has returned.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._parser = MultipartParser(
            _boundary(exchange),
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_end": self._on_end,
            },
            max_header_count=HEADERS_MAX,
            max_header_size=HEADER_BYTES_MAX,
        )
        self._header_name = self._header_value = b""
        self._disposition = b""
        self._pieces: list[bytes] = []
        self._is_complete = False
        self._has_more = True
        self.file_name: str | None = None

    async def begin(self) -> str:
        """Reads up to the beginning of the file and returns its name.

        Raises:
            Misfit: no such form.
            MeshError: the body is too large or too slow.
        """
        while self.file_name is None and self._has_more:
            await self._read()
        if self.file_name is None:
            raise Misfit("must be a part of the form", FILE_PART)
        return self.file_name

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes of the file as they arrive.

        Raises:
            Misfit: the form breaks off, or holds something else too.
            MeshError: the body is too large or too slow.
        """
        while True:
            pieces, self._pieces = self._pieces, []
            if pieces:
                yield b"".join(pieces)
            if not self._has_more:
                break
            await self._read()
        if not self._is_complete:
            raise Misfit("breaks off before the end of the form", "body")

    async def _read(self) -> None:
        chunk, self._has_more = await self._exchange.chunk()
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise Misfit("is not a multipart form", "body") from error

    def _on_part_begin(self) -> None:
        self._disposition = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name != FILE_PART:
            raise Misfit("is not known", name or "part")
        if self.file_name is not None:
            raise Misfit("must be sent once", FILE_PART)
        self.file_name = _file_name(options.get(b"filename", b""))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(data[start:end])

    def _on_end(self) -> None:
        self._is_complete = True


def _boundary(exchange: Exchange) -> bytes:
    media_type, options = parse_options_header(exchange.header("content-type"))
    boundary = options.get(b"boundary", b"")
    if media_type != _MEDIA_TYPE or not boundary:
        raise Misfit("must be `multipart/form-data` with a boundary", "content-type")
    return boundary


def _file_name(raw: bytes) -> str:
    """The name without folders, which some clients send along."""
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Misfit("must have a file name in UTF-8", FILE_PART) from None
    name = name.replace("\\", "/").rpartition("/")[2].strip()
    if not name:
        raise Misfit("must have a file name", FILE_PART)
    return name
