from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.retrieval.chunking import CHUNK_TOKENS_MAX, TITLE_TOKENS_MAX, chunk
from services.retrieval.embedding.onnx import ModelFiles, OnnxEncoder
from services.retrieval.model import Block, BlockKind, Chunk, MediaType, ParsedDocument
from services.retrieval.parsing import html, markdown, text
from tests.support.retrieval import WordEncoder, parsed

_WORDS = WordEncoder().count_tokens


class _Noting(WordEncoder):
    """Notes how many texts it counted together, and how many characters the longest had."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self.longest = 0

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        self.most = max(self.most, len(texts))
        self.longest = max(self.longest, *map(len, texts))
        return super().count_tokens(texts)


def _cut(document: ParsedDocument, name: str = "notes.txt") -> list[Chunk]:
    return chunk(document, display_name=name, count_tokens=_WORDS)


def _document(parsed_by: tuple[str, list[tuple[int, int, str, tuple[str, ...], int]]]) -> ParsedDocument:
    whole, blocks = parsed_by
    return ParsedDocument(
        MediaType.TEXT,
        whole,
        tuple(Block(start, end, BlockKind(kind), headings, page) for start, end, kind, headings, page in blocks),
    )


def test_a_short_paragraph_is_one_chunk() -> None:
    assert [it.text for it in _cut(parsed("One. Two.\n\nThree."))] == ["One. Two.", "Three."]


def test_a_long_paragraph_is_cut_between_sentences_into_equal_parts() -> None:
    sentence = "This sentence has exactly ten words in it, you know. "

    chunks = _cut(parsed(sentence * 30))

    assert [len(it.text.split()) for it in chunks] == [150, 150]
    assert all(it.text.startswith("This") and it.text.endswith("know.") for it in chunks)


@pytest.mark.parametrize("words", [CHUNK_TOKENS_MAX - 1, CHUNK_TOKENS_MAX, CHUNK_TOKENS_MAX + 1])
def test_limit_of_a_chunk_is_exact(words: int) -> None:
    chunks = _cut(parsed("word " * words))

    assert len(chunks) == (1 if words <= CHUNK_TOKENS_MAX else 2)


def test_a_sentence_without_end_is_cut_at_clauses_words_and_at_last_anywhere() -> None:
    endless = "x" * 5_000

    chunks = _cut(parsed(f"{'clause one, ' * 150}\n\n{endless}"))

    assert all(len(it.text.split()) <= CHUNK_TOKENS_MAX for it in chunks)
    assert chunks[0].text.endswith("one,")
    assert "".join(it.text for it in chunks if it.text.startswith("x")) == endless


def test_title_is_document_name_and_headings() -> None:
    source = "# Guide\n\n## Install\n\nRun it.\n\n## Use\n\nAsk it.\n"

    chunks = _cut(_document(markdown.parse(source)), "manual.md")

    assert [(it.title, it.locator, it.text) for it in chunks] == [
        ("manual > Guide > Install", "Guide > Install", "Run it."),
        ("manual > Guide > Use", "Guide > Use", "Ask it."),
    ]


def test_a_heading_with_nothing_below_it_stands_for_itself() -> None:
    chunks = _cut(_document(markdown.parse("# Guide\n\nText.\n\n## Empty\n\n## Also empty\n")))

    assert [it.text for it in chunks] == ["Text.", "## Empty", "## Also empty"]


def test_title_that_is_too_long_loses_its_outer_parts() -> None:
    long = "word " * TITLE_TOKENS_MAX
    document = _document((long, [(0, 4, "paragraph", (long, "Inner"), 0)]))

    assert _cut(document)[0].title == "Inner"
    endless = _document((long, [(0, 4, "paragraph", (long + long,), 0)]))
    assert len(_cut(endless)[0].title.split()) == TITLE_TOKENS_MAX


def test_heading_of_a_megabyte_is_no_title_and_is_not_counted() -> None:
    heading = "word " * 200_000
    encoder = _Noting()
    document = _document(("Text.\n\nMore.", [(at, at + 4, "paragraph", (heading, f"Part {at}"), 0) for at in (0, 7)]))

    chunks = chunk(document, display_name="notes.txt", count_tokens=encoder.count_tokens)

    assert [it.title for it in chunks] == ["Part 0", "Part 7"]
    assert encoder.longest < 1_000


@pytest.mark.parametrize("source", ["a " * 100_000, "word; " * 50_000, "word" * 50_000])
def test_pieces_of_a_long_paragraph_are_counted_a_few_at_a_time(source: str) -> None:
    encoder = _Noting()

    chunks = chunk(parsed(source), display_name="notes.txt", count_tokens=encoder.count_tokens)

    assert "".join("".join(it.text.split()) for it in chunks) == "".join(source.split())
    assert encoder.most <= 1_024
    assert encoder.longest <= 8 * CHUNK_TOKENS_MAX


def test_page_is_the_locator_where_there_are_pages() -> None:
    document = _document(("One.\n\nTwo.", [(0, 4, "paragraph", (), 1), (6, 10, "paragraph", (), 2)]))

    assert [it.locator for it in _cut(document)] == ["p. 1", "p. 2"]


def test_lines_of_code_are_not_cut_inside() -> None:
    code = "\n".join(f"line {number} of some code. Still the line" for number in range(60))

    chunks = _cut(_document(markdown.parse(f"```\n{code}\n```")))

    assert len(chunks) > 1
    assert all(it.text.endswith(("line", "```")) for it in chunks)


@settings(max_examples=60)
@given(st.text(alphabet="ab .,!?\n\t#-*`|<>é漢😀", max_size=1_500), st.sampled_from([text, markdown, html]))
def test_chunk_text_is_the_text_between_its_offsets(source: str, parser: object) -> None:
    document = _document(parser.parse(source))  # type: ignore[attr-defined]  # one of three modules

    end = 0
    for made in _cut(document):
        assert made.text == document.text[made.start : made.end]
        assert made.start >= end
        assert made.text.strip() == made.text != ""
        assert len(made.text.split()) <= CHUNK_TOKENS_MAX
        assert any(block.start <= made.start and made.end <= block.end for block in document.blocks)
        end = made.end


@settings(max_examples=60)
@given(st.text(alphabet="ab .,!?\n\té漢😀", max_size=1_500))
def test_chunks_of_plain_text_hold_all_of_it(source: str) -> None:
    document = parsed(source)

    held = "".join("".join(it.text.split()) for it in _cut(document))

    assert held == "".join(document.text.split())


@pytest.fixture(scope="module")
def encoder() -> OnnxEncoder:
    return OnnxEncoder(ModelFiles.packaged(), threads=1)


@settings(max_examples=30)
@given(source=st.text(max_size=3_000))
def test_no_chunk_with_its_title_is_cut_by_the_real_encoder(encoder: OnnxEncoder, source: str) -> None:
    document = parsed(text.normalise(source))

    chunks = chunk(document, display_name="a name.txt", count_tokens=encoder.count_tokens)

    counts = encoder.count_tokens([it.searchable_text for it in chunks]) if chunks else []
    assert all(count + 2 <= encoder.tokens_max for count in counts)
