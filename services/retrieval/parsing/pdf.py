"""PDF, by PDFium. Runs only in the limited child: a small file can cost seconds and hundreds of megabytes."""

import re
import statistics

import pypdfium2  # type: ignore[import-untyped]  # it ships no annotations

from services.retrieval.parsing.outcome import Limits, Refusal, too_large, unreadable
from services.retrieval.parsing.text import BlockTuple, Parsed, normalise

_ERROR_PASSWORD = 4  # FPDF_ERR_PASSWORD, fpdfview.h
# PDFium marks a hyphen at the end of a line, where a word was split, with U+FFFE or U+0002.
_SPLIT_WORD = re.compile("[\ufffe\x02](?:\r?\n)?")
_SHORT_LINE_SHARE = 0.8
_SENTENCE_END = re.compile(r"[.!?:;][\"'”’)\]]*$")


def parse(content: bytes, limits: Limits) -> Parsed:
    """The text of all pages; a block is a paragraph as far as line ends tell, and never crosses a page.

    Raises:
        Refusal: encrypted, damaged, or too many pages or characters.
    """
    document = _open(content)
    if len(document) > limits.pages_max:
        raise too_large(f"the file has more than {limits.pages_max} pages", limits.pages_max)
    pieces: list[str] = []
    blocks: list[BlockTuple] = []
    length = 0
    for number in range(len(document)):
        for paragraph in _paragraphs(_page_text(document, number)):
            if pieces:
                pieces.append("\n\n")
                length += 2
            pieces.append(paragraph)
            blocks.append((length, length + len(paragraph), "paragraph", (), number + 1))
            length += len(paragraph)
        if length > limits.characters_max:
            raise too_large(f"the text is longer than {limits.characters_max} characters", limits.characters_max)
    return "".join(pieces), blocks


def _open(content: bytes) -> pypdfium2.PdfDocument:
    try:
        return pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as err:
        if getattr(err, "err_code", None) == _ERROR_PASSWORD:
            raise Refusal("DOCUMENT_ENCRYPTED", "the PDF needs a password; remove it and upload again") from err
        raise unreadable("the PDF is damaged and cannot be opened") from err


def _page_text(document: pypdfium2.PdfDocument, number: int) -> str:
    try:
        page = document[number]
        text_page = page.get_textpage()
        text = str(text_page.get_text_bounded())
        text_page.close()
        page.close()
    except pypdfium2.PdfiumError as err:
        raise unreadable(f"page {number + 1} of the PDF is damaged") from err
    return normalise(_SPLIT_WORD.sub("", text))


def _paragraphs(page: str) -> list[str]:
    """Lines joined until a blank line, or a line that ends a sentence well before the right margin."""
    lines = [" ".join(line.split()) for line in page.split("\n")]
    widths = [len(line) for line in lines if line]
    short = _SHORT_LINE_SHARE * statistics.quantiles(widths, n=10)[-1] if len(widths) > 1 else 0.0
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line:
            paragraphs[-1].append(line)
        if not line or (len(line) < short and _SENTENCE_END.search(line)):
            paragraphs.append([])
    return ["\n".join(paragraph) for paragraph in paragraphs if paragraph]
