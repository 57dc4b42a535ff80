"""Documents: take a file in, tell how far it is, give its text back, delete it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Final, Protocol

from services.mesh import telemetry
from services.mesh.clock import Clock
from services.mesh.errors import (
    DocumentTooLarge,
    DocumentUnreadable,
    DocumentUnsupported,
    MeshError,
    Overloaded,
    invalid_field,
)
from services.mesh.ids import new_id
from services.retrieval.model import (
    FILE_NAME_CHARACTERS_MAX,
    TEXT_RANGE_CHARACTERS_MAX,
    Document,
    DocumentId,
    DocumentState,
    KnowledgeBaseId,
    MediaType,
    OrganizationId,
    ParsedDocument,
    TextRange,
    Upload,
)
from services.retrieval.store import DocumentStore, Page

FILES_IN_HAND_MAX: Final = 20
"""As many of the largest size may be received and read at once; a thousand would take more memory than there is."""
_WATCH_POLL_S: Final = 0.25
_RETRY_AFTER_S: Final = 5.0

_UPLOADS: Final = telemetry.counter("parley_retrieval_uploads", "Uploads by how they ended.", ["outcome"])


class Parser(Protocol):
    """Reads files; the real one works in a child process."""

    async def parse(self, content: bytes) -> ParsedDocument:
        """Text and blocks of a file.

        Raises:
            MeshError: DocumentEncrypted, DocumentTooLarge, DocumentUnreadable, DocumentUnsupported, or Overloaded.
        """
        ...


class Documents:
    """The documents of a knowledge base.

    Args:
        store: where they are kept.
        parser: reads files.
        clock: the time.
        file_bytes_max: larger files are refused.
    """

    def __init__(self, store: DocumentStore, parser: Parser, clock: Clock, *, file_bytes_max: int) -> None:
        self._store = store
        self._parser = parser
        self._clock = clock
        self._file_bytes_max = file_bytes_max
        self._hand = _Hand(FILES_IN_HAND_MAX * file_bytes_max)

    async def upload(
        self,
        organization: OrganizationId,
        knowledge_base: KnowledgeBaseId,
        display_name: str,
        content: AsyncIterator[bytes],
    ) -> Document:
        """Reads a file, stores its text and queues it for the index.

        The file is parsed before anything is stored, so that whoever sends an unreadable one is told at once and
        nothing of it stays. Chunks and vectors are made later, by a worker.

        Raises:
            InvalidArgument: the name is out of bounds.
            NotFound: there is no such knowledge base.
            MeshError: DocumentEncrypted, DocumentTooLarge, DocumentUnreadable, DocumentUnsupported, or Overloaded.
        """
        try:
            document = await self._upload(organization, knowledge_base, _file_name(display_name), content)
        except MeshError as err:
            _UPLOADS.labels(err.reason.value.lower()).inc()
            raise
        _UPLOADS.labels("stored").inc()
        return document

    async def _upload(
        self,
        organization: OrganizationId,
        knowledge_base: KnowledgeBaseId,
        display_name: str,
        content: AsyncIterator[bytes],
    ) -> Document:
        there = await self._store.document_named(organization, knowledge_base, display_name)
        with self._hand.taking() as take:
            data = await self._received(content, take)
            digest = sha256(data).hexdigest()
            if there and there.sha256 == digest and there.state is not DocumentState.FAILED:
                return there
            parsed = await self._parser.parse(data)
        _check_name(display_name, parsed)
        upload = Upload(
            organization_id=organization,
            knowledge_base_id=knowledge_base,
            display_name=display_name,
            size_bytes=len(data),
            sha256=digest,
            parsed=parsed,
        )
        return await self._store.put_document(upload, id_=DocumentId(new_id("doc")), now=self._clock.now())

    async def _received(self, content: AsyncIterator[bytes], take: Callable[[int], None]) -> bytes:
        data = bytearray()
        async for piece in content:
            take(len(piece))
            data += piece
            if len(data) > self._file_bytes_max:
                raise DocumentTooLarge(
                    f"the file is larger than {self._file_bytes_max} bytes",
                    metadata={"limit": str(self._file_bytes_max)},
                )
        if not data:
            raise DocumentUnreadable("the file is empty")
        return bytes(data)

    async def get(self, organization: OrganizationId, id_: DocumentId) -> Document:
        """See `DocumentStore.document`."""
        return await self._store.document(organization, id_)

    async def list(self, organization: OrganizationId, knowledge_base: KnowledgeBaseId, page: Page) -> list[Document]:
        """See `DocumentStore.documents`."""
        return await self._store.documents(organization, knowledge_base, page)

    async def watch(
        self, organization: OrganizationId, id_: DocumentId, *, follow: bool
    ) -> AsyncGenerator[Document, None]:
        """The document now, and after each change until nothing more will change.

        Raises:
            NotFound: there is none, or it was deleted meanwhile.
        """
        seen: Document | None = None
        while True:
            document = await self._store.document(organization, id_)
            if document != seen:
                seen = document
                yield document
            if document.is_settled or not follow:
                return
            await asyncio.sleep(_WATCH_POLL_S)

    async def read(
        self, organization: OrganizationId, id_: DocumentId, *, version: int, start: int, end: int
    ) -> TextRange:
        """A range of a document's text; end 0 is as far as one call reaches, version 0 the present one.

        Raises:
            InvalidArgument: the range is out of bounds.
            NotFound: there is no such document or version.
        """
        end = end or start + TEXT_RANGE_CHARACTERS_MAX
        if version < 0:
            raise invalid_field("document_version", "must not be negative")
        if start < 0:
            raise invalid_field("start", "must not be negative")
        if not start <= end <= start + TEXT_RANGE_CHARACTERS_MAX:
            raise invalid_field("end", f"must be start to start + {TEXT_RANGE_CHARACTERS_MAX}")
        return await self._store.read_text(organization, id_, version=version, start=start, end=end)

    async def delete(self, organization: OrganizationId, id_: DocumentId) -> None:
        """See `DocumentStore.delete_document`."""
        await self._store.delete_document(organization, id_)


class _Hand:
    """How many bytes of files are received or read at the moment, by all callers together."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0

    @contextmanager
    def taking(self) -> Iterator[Callable[[int], None]]:
        """Gives what takes so many bytes more, or raises Overloaded; the end puts all of them down."""
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if self._bytes + size > self._bytes_max:
                raise Overloaded("too many files are being received", retry_after_s=_RETRY_AFTER_S)
            self._bytes += size
            taken += size

        try:
            yield take
        finally:
            self._bytes -= taken


def _check_name(display_name: str, parsed: ParsedDocument) -> None:
    """Refuses text that calls itself a PDF: a download that failed or an error page, and never what was meant."""
    if display_name.lower().endswith(".pdf") and parsed.media_type is not MediaType.PDF:
        raise DocumentUnsupported(
            f"the name says PDF, the content is {parsed.media_type}; send the PDF, or the text under a name of its own",
            metadata={"media_type": parsed.media_type},
        )


def _file_name(text: str) -> str:
    is_plain = text.strip() and not any(mark in text for mark in "/\\") and text.isprintable()
    if not is_plain or len(text) > FILE_NAME_CHARACTERS_MAX:
        raise invalid_field(
            "display_name", f"must be a file name of 1 to {FILE_NAME_CHARACTERS_MAX} printable characters, no folders"
        )
    return text
