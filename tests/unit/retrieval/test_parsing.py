import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.parsing import html, markdown, media, text
from services.retrieval.parsing.outcome import Limits, Refusal

BlockTuple = tuple[int, int, str, tuple[str, ...], int]


def _blocks(parsed: tuple[str, list[BlockTuple]]) -> list[tuple[str, str]]:
    return [(parsed[0][start:end], kind) for start, end, kind, _, _ in parsed[1]]


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b"%PDF-1.7\n...", media.PDF),
        (b"\n\n%PDF-1.4", media.PDF),
        (b"<!DOCTYPE html><p>x", media.HTML),
        (b"\xef\xbb\xbf  <!-- note -->\n<html>", media.HTML),
        (b"<h1>Title</h1>", media.HTML),
        (b"# Title\n\ntext", media.MARKDOWN),
        (b"text\n\n```\ncode\n```\n", media.MARKDOWN),
        (b"see [this](https://example.com/a)", media.MARKDOWN),
        (b"| a | b |\n|---|---|\n| 1 | 2 |", media.MARKDOWN),
        (b"- one\n- two\n", media.MARKDOWN),
        (b"Just words. #hashtag and a < b", media.TEXT),
        ("caf\u00e9".encode("utf-16"), media.TEXT),
        ("caf\u00e9".encode("latin-1"), media.TEXT),
        (b'{"json": true}', media.TEXT),
        (b"", media.TEXT),
    ],
)
def test_type_is_found_from_the_content(content: bytes, media_type: str) -> None:
    assert media.identify(content)[0] == media_type


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b"<!---->" * 5_000 + b"<p>words", media.HTML),
        (b"<!---->" * 5_000 + b"words", media.TEXT),
        (b"<!-- " * 10_000, media.TEXT),
        (b" " * 60_000 + b"words", media.TEXT),
        (b"[" * 60_000, media.TEXT),
        (b"[a](" * 15_000, media.TEXT),
        (b"|" * 30_000 + b"\n" + b"|" * 30_000 + b"words", media.TEXT),
    ],
)
def test_type_of_what_is_built_to_be_slow_is_found(content: bytes, media_type: str) -> None:
    assert media.identify(content)[0] == media_type


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b"PK\x03\x04rest of an archive", "application/zip"),
        (b"\x89PNG\r\n\x1a\n....", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"{\\rtf1 text}", "application/rtf"),
        (b"some text \x00 and a NUL", "application/octet-stream"),
        (bytes(range(256)), "application/octet-stream"),
    ],
)
def test_what_is_no_document_is_unsupported_and_named(content: bytes, media_type: str) -> None:
    with pytest.raises(Refusal) as refused:
        media.identify(content)
    assert (refused.value.reason, refused.value.metadata) == ("DOCUMENT_UNSUPPORTED", {"media_type": media_type})


@pytest.mark.parametrize(
    ("content", "decoded"),
    [
        ("\ufeffcaf\u00e9".encode(), "caf\u00e9"),
        ("caf\u00e9".encode("utf-16"), "caf\u00e9"),
        ("\ufeffcaf\u00e9".encode("utf-16-be"), "caf\u00e9"),
        (b"caf\xe9 \x93quoted\x94", "caf\u00e9 \u201cquoted\u201d"),
    ],
)
def test_encoding_is_found_from_the_content(content: bytes, decoded: str) -> None:
    assert media.identify(content)[1] == decoded


def test_text_has_one_normal_form() -> None:
    assert text.normalise("a\r\nb\rc\u2028d\x00e\x07f e\u0301 \ud800x") == "a\nb\nc\ndef \u00e9 x"


def test_blank_lines_part_paragraphs() -> None:
    parsed = text.parse("one\ntwo  \n \t\n\n  three \n\x0cfour")

    assert [piece for piece, _ in _blocks(parsed)] == ["one\ntwo", "three", "four"]


@given(st.text(alphabet="ab \n\t\r\x0c\x0b", max_size=300))
def test_paragraphs_hold_everything_but_white_space(source: str) -> None:
    whole, blocks = text.parse(source)

    held = "".join(whole[start:end] for start, end, *_ in blocks)
    assert "".join(held.split()) == "".join(whole.split())
    assert all("\n\n" not in whole[start:end] for start, end, *_ in blocks)


@pytest.mark.parametrize("source", ["", " \n\t ", "...", "--- ***"])
def test_text_without_letters_or_digits_is_unreadable(source: str) -> None:
    with pytest.raises(Refusal) as refused:
        text.check(source, Limits())
    assert refused.value.reason == "DOCUMENT_UNREADABLE"


def test_garbled_text_is_unreadable() -> None:
    text.check("good text " * 10 + "\ufffd" * 5, Limits())
    with pytest.raises(Refusal) as refused:
        text.check("bad text " + "\ue001" * 5, Limits())
    assert refused.value.reason == "DOCUMENT_UNREADABLE"


@pytest.mark.parametrize(("length", "is_fine"), [(9, True), (10, True), (11, False)])
def test_limit_of_characters_is_exact(length: int, *, is_fine: bool) -> None:
    limits = Limits(characters_max=10)
    if is_fine:
        text.check("x" * length, limits)
        return
    with pytest.raises(Refusal) as refused:
        text.check("x" * length, limits)
    assert (refused.value.reason, refused.value.metadata) == ("DOCUMENT_TOO_LARGE", {"limit": "10"})


# ------------------------------------------------------------------------------------------------------------- Markdown


def test_markdown_keeps_its_source_and_finds_its_blocks() -> None:
    source = "# Title\n\nA *paragraph*\non two lines.\n\n- one\n- two\n\n| a |\n|---|\n| 1 |\n\n```py\nx = 1\n```\n"

    parsed = markdown.parse(source)

    assert parsed[0] == source
    assert _blocks(parsed) == [
        ("# Title", "heading"),
        ("A *paragraph*\non two lines.", "paragraph"),
        ("- one\n- two", "lines"),
        ("| a |\n|---|\n| 1 |", "lines"),
        ("```py\nx = 1\n```", "lines"),
    ]


def test_markdown_headings_nest() -> None:
    _, blocks = markdown.parse("# A\n\n1\n\n### C\n\n2\n\n## B\n\n3\n\n# D\n\n4\n")

    assert [headings for *_, kind, headings, _ in blocks if kind == "paragraph"] == [
        ("A",), ("A", "C"), ("A", "B"), ("D",),
    ]  # fmt: skip


def test_markdown_list_keeps_the_line_that_announces_it() -> None:
    parsed = markdown.parse("Do this:\n\n- one\n- two\n\nNot this.\n\n- three\n")

    assert [piece for piece, _ in _blocks(parsed)] == ["Do this:\n\n- one\n- two", "Not this.", "- three"]


# ----------------------------------------------------------------------------------------------------------------- HTML


def test_html_shows_what_a_reader_sees() -> None:
    parsed = html.parse(
        "<html><head><title>T</title><style>x{}</style></head><body><script>bad()</script><!-- no -->"
        "<h1>Big  <b>title</b></h1><p>Hello,\n <i>world</i> &amp; all.</p><div>Loose<br>line</div>"
        "<ul><li>one<li>two</ul><pre>def f():\n    pass</pre>"
        "<table><tr><td>1<td>2</table></body></html>",
    )

    assert _blocks(parsed) == [
        ("Big title", "heading"),
        ("Hello, world & all.", "paragraph"),
        ("Loose\nline", "paragraph"),
        ("one\ntwo", "lines"),
        ("def f():\n    pass", "lines"),
        ("1\t2", "lines"),
    ]
    assert "bad" not in parsed[0]


def test_html_headings_nest() -> None:
    _, blocks = html.parse("<h1>A</h1><p>1</p><h2>B</h2><p>2</p><h1>C</h1>3")

    assert [headings for *_, kind, headings, _ in blocks if kind == "paragraph"] == [("A",), ("A", "B"), ("C",)]


def test_html_list_keeps_the_line_that_announces_it() -> None:
    parsed = html.parse("<p>Do this:</p><ol><li>one</li></ol><p>Then rest.</p>")

    assert _blocks(parsed) == [("Do this:\none", "lines"), ("Then rest.", "paragraph")]


@pytest.mark.parametrize(
    "source",
    ["<div>" * 20_000 + "deep", "<p>open <b>tags", "</p></div>text", "<<<>>&;&#xFFFFFFFF;text", "<script>never closed"],
)
def test_broken_html_ends_in_text_or_nothing(source: str) -> None:
    whole, blocks = html.parse(source)

    assert all(whole[start:end].strip() for start, end, *_ in blocks)


@given(st.text(alphabet="<>/abphul1 \n&;\"='!-", max_size=300))
def test_any_html_gives_blocks_that_lie_in_its_text(source: str) -> None:
    whole, blocks = html.parse(source)

    end = 0
    for start, stop, *_ in blocks:
        assert end <= start < stop <= len(whole)
        end = stop
