"""Small PDF files, honest and hostile, written by hand so that tests need no PDF writer."""

import zlib
from collections.abc import Sequence

_ENCRYPTION = b"<< /Filter /Standard /V 1 /R 2 /Length 40 /P -44 /O <" + b"41" * 32 + b"> /U <" + b"42" * 32 + b"> >>"


def pdf(pages: Sequence[Sequence[str]], *, encrypted: bool = False) -> bytes:
    """A file with one text line per string; `encrypted` asks for a password that nobody knows."""
    return _file([_compressed(_page_content(lines)) for lines in pages], encrypted=encrypted)


def inflating_pdf(bytes_inflated: int) -> bytes:
    """One page whose content is a long program that draws text and shrinks a thousandfold on disk."""
    unit = b"BT /F1 9 Tf 9 9 Td (bomb) Tj ET\n"
    packer = zlib.compressobj(9)
    block = unit * (1 << 15)
    packed = b"".join(packer.compress(block) for _ in range(bytes_inflated // len(block))) + packer.flush()
    return _file([packed], encrypted=False)


def _page_content(lines: Sequence[str]) -> bytes:
    shown = b"".join(b"(" + line.encode("latin-1") + b") Tj 0 -14 Td\n" for line in lines)
    return b"BT /F1 12 Tf 50 780 Td\n" + shown + b"ET"


def _compressed(content: bytes) -> bytes:
    return zlib.compress(content)


def _file(streams: Sequence[bytes], *, encrypted: bool) -> bytes:
    kids = b" ".join(b"%d 0 R" % (4 + 2 * place) for place in range(len(streams)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(streams), kids),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for place, stream in enumerate(streams):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % (5 + 2 * place)
        )
        objects.append(b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(stream), stream))
    if encrypted:
        objects.append(_ENCRYPTION)
    return _assembled(objects, encrypted=encrypted)


def _assembled(objects: Sequence[bytes], *, encrypted: bool) -> bytes:
    body, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    trailer = b"<< /Size %d /Root 1 0 R" % size
    if encrypted:
        trailer += b" /Encrypt %d 0 R /ID [<00> <00>]" % len(objects)
    return b"%sxref\n0 %d\n0000000000 65535 f \n%strailer\n%s >>\nstartxref\n%d\n%%%%EOF\n" % (
        body, size, table, trailer, len(body),
    )  # fmt: skip
