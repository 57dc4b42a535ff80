"""Finds what a file is from its bytes, never from its name."""

import re

from services.retrieval.parsing.outcome import unsupported

PDF = "application/pdf"
HTML = "text/html"
MARKDOWN = "text/markdown"
TEXT = "text/plain"

_PDF_HEADER_BYTES = 1024  # readers accept the header anywhere in the first kilobyte (PDF 1.7, appendix H, note 13)
_SNIFFED_CHARACTERS = 65_536

# Only to tell people what they sent; none of these can be read.
_KNOWN_BINARIES = (
    (b"PK\x03\x04", "application/zip"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
    (b"\x1f\x8b", "application/gzip"),
    (b"\x7fELF", "application/x-elf"),
    (b"{\\rtf", "application/rtf"),
    (b"%!PS", "application/postscript"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
)
_UNKNOWN_BINARY = "application/octet-stream"

_BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
# Characters that no text holds: NUL and the other controls, but for tab, line ends, form feed and escape.
_BINARY_CHARACTER = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")

# What a repetition has taken it keeps, and others have bounds: a comment that may end at any of the ends behind it made
# a kilobyte of comments cost all the time that a file may take.
_HTML_START = re.compile(
    r"\s*+(?:<\?xml[^>]*+>\s*+)?(?:<!--(?:(?!-->).)*+-->\s*+)*+"
    r"<(?:!doctype\s+html|html|head|body|title|article|section|main|div|p|h[1-6]|ul|ol|table)\b",
    re.IGNORECASE | re.DOTALL,
)
_MARKDOWN_MARKS = (
    re.compile(r"^#{1,6} +\S", re.MULTILINE),
    re.compile(r"^(?:```|~~~)", re.MULTILINE),
    re.compile(r"^[^\n]+\n(?:={3,}|-{3,}) *$", re.MULTILINE),
    re.compile(r"^\|.*\|[ \t]*\n\|[ :|-]+\|[ \t]*$", re.MULTILINE),
    re.compile(r"\[[^\]\n]{1,400}\]\([^)\s]{1,2000}\)"),
    re.compile(r"^ {0,3}[-*+] +\S[^\n]*\n(?:[ \t]*\n)? {0,3}[-*+] +\S", re.MULTILINE),
)


def identify(content: bytes) -> tuple[str, str]:
    """Media type and, for everything but PDF, the decoded text.

    Raises:
        Refusal: DOCUMENT_UNSUPPORTED.
    """
    if b"%PDF-" in content[:_PDF_HEADER_BYTES]:
        return PDF, ""
    for magic, media_type in _KNOWN_BINARIES:
        if content.startswith(magic):
            raise unsupported(media_type)
    text = _decode(content)
    return _kind_of(text[:_SNIFFED_CHARACTERS]), text


def _decode(content: bytes) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            text = content[len(mark) :].decode(encoding, errors="replace")
            break
    else:
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            # What is no UTF-8 and holds no controls is, in practice, Windows' Western encoding.
            text = content.decode("cp1252", errors="replace")
    if _BINARY_CHARACTER.search(text):
        raise unsupported(_UNKNOWN_BINARY)
    return text


def _kind_of(head: str) -> str:
    if _HTML_START.match(head):
        return HTML
    if any(mark.search(head) for mark in _MARKDOWN_MARKS):
        return MARKDOWN
    return TEXT
